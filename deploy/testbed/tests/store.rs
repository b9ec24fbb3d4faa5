//! The store, as a signing client that is not ours sees it: curl.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use testbed::store::{ACCESS_KEY, Fault, Operation, REGION, SECRET_KEY, Session, Store};

const BUCKET: &str = "dumps";
/// The least size of a part that is not the last.
const PART: usize = 5 * 1024 * 1024;
/// The MD5 of no body at all, in base64.
const MD5_OF_NOTHING: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";
const SHA256_OF_HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// What the store said.
struct Answer {
    /// 000 if it said nothing.
    status: String,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn element(&self, name: &str) -> &str {
        let (_, rest) = self.body.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{}", self.body));
        rest.split_once('<').expect("an element ends").0
    }

    fn is(&self, status: &str, code: &str) {
        assert_eq!((self.status.as_str(), self.element("Code")), (status, code));
    }
}

fn curl(url: &str, args: &[&str]) -> Answer {
    curl_as(SECRET_KEY, "UNSIGNED-PAYLOAD", url, args)
}

/// `sha256` is said explicitly because curl 7.88 does not say it by itself.
fn curl_as(secret: &str, sha256: &str, url: &str, args: &[&str]) -> Answer {
    let sha256 = format!("x-amz-content-sha256: {sha256}");
    signed(&format!("{ACCESS_KEY}:{secret}"), url, &[&["--header", &sha256], args].concat())
}

fn signed(user: &str, url: &str, args: &[&str]) -> Answer {
    let sign = ["--aws-sigv4", &format!("aws:amz:{REGION}:s3"), "--user", user];
    unsigned(url, &[&sign, args].concat())
}

fn unsigned(url: &str, args: &[&str]) -> Answer {
    let dir = tempfile::tempdir().expect("a directory for the headers");
    let head = dir.path().join("head");
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "10", "--write-out", "\n%{http_code}", "--dump-header"])
        .arg(&head)
        .args(args)
        .arg(url)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .expect("curl is needed for these tests");
    let said = String::from_utf8(output.stdout).expect("an answer in UTF-8");
    let (body, status) = said.rsplit_once('\n').expect("curl ends with the status");
    let head = fs::read_to_string(head).unwrap_or_default();
    Answer { status: status.to_owned(), head, body: body.to_owned() }
}

fn object(store: &Store, key: &str) -> String {
    format!("{}/{BUCKET}/{key}", store.endpoint())
}

fn put(store: &Store, key: &str, more: &[&str]) -> Answer {
    curl(&object(store, key), &[&["--request", "PUT", "--data-binary", "hello"], more].concat())
}

/// Begins an upload and answers with its id.
fn begin(store: &Store, key: &str) -> String {
    let meta = ["--request", "POST", "--header", "x-amz-meta-sha256: abc"];
    let begun = curl(&format!("{}?uploads=", object(store, key)), &meta);
    assert_eq!(begun.status, "200", "{}", begun.body);
    begun.element("UploadId").to_owned()
}

fn upload_part(store: &Store, key: &str, id: &str, number: u32, file: &Path, more: &[&str]) -> Answer {
    let url = format!("{}?partNumber={number}&uploadId={id}", object(store, key));
    curl(&url, &[&["--upload-file", &file.display().to_string()], more].concat())
}

fn complete(store: &Store, key: &str, id: &str, e_tags: &[&str]) -> Answer {
    let part = |(at, e_tag): (usize, &&str)| {
        format!("<Part><PartNumber>{}</PartNumber><ETag>{e_tag}</ETag></Part>", at + 1)
    };
    let parts: String = e_tags.iter().enumerate().map(part).collect();
    let xml = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let url = format!("{}?uploadId={id}", object(store, key));
    curl(&url, &["--request", "POST", "--data-binary", &xml])
}

#[test]
fn an_object_comes_back_with_its_metadata() {
    let store = Store::temporary(BUCKET);
    let answer = put(&store, "ns/pod/1.zip", &["--header", "x-amz-meta-id: 1"]);
    assert_eq!(answer.status, "200", "{}", answer.body);
    let head = curl(&object(&store, "ns/pod/1.zip"), &["--head"]);
    assert_eq!((head.header("content-length"), head.header("x-amz-meta-id")), (Some("5"), Some("1")));
    assert_eq!(curl(&object(&store, "ns/pod/1.zip"), &[]).body, "hello");

    assert_eq!(store.objects(BUCKET), ["ns/pod/1.zip"]);
    assert_eq!(store.read(BUCKET, "ns/pod/1.zip"), b"hello");
    assert_eq!(store.metadata(BUCKET, "ns/pod/1.zip")["id"], "1");
    let asked: Vec<_> = store.requests().iter().map(|r| (r.operation(), r.body_bytes, r.status)).collect();
    assert_eq!(
        asked,
        [
            (Operation::PutObject, 5, Some(200)),
            (Operation::HeadObject, 0, Some(200)),
            (Operation::Get, 0, Some(200))
        ]
    );
    assert_eq!(curl(&object(&store, "ns/pod/1.zip"), &["--request", "DELETE"]).status, "204");
    assert_eq!(curl(&object(&store, "ns/pod/1.zip"), &["--head"]).status, "404");
}

#[test]
fn an_upload_in_parts_keeps_its_metadata() {
    let store = Store::temporary(BUCKET);
    let dir = tempfile::tempdir().unwrap();
    let (first, last) = (dir.path().join("1"), dir.path().join("2"));
    fs::write(&first, vec![b'a'; PART]).unwrap();
    fs::write(&last, "end").unwrap();

    let id = begin(&store, "big.zip");
    assert_eq!(store.open_uploads(), 1);
    let one = upload_part(&store, "big.zip", &id, 1, &first, &[]);
    let two = upload_part(&store, "big.zip", &id, 2, &last, &[]);
    let e_tags = [one.header("etag").unwrap(), two.header("etag").unwrap()];
    let listed = curl(&format!("{}?uploadId={id}", object(&store, "big.zip")), &[]);
    assert_eq!(listed.body.matches("<PartNumber>").count(), 2, "{}", listed.body);
    let open = curl(&format!("{}/{BUCKET}?uploads=", store.endpoint()), &[]);
    assert_eq!(open.element("UploadId"), id);
    let other = store.begin_upload(BUCKET, "big.zip");
    assert!(store.is_open(&id) && store.is_open(&other) && other != id);
    let theirs = format!("{}?uploadId={other}", object(&store, "big.zip"));
    assert_eq!(curl(&theirs, &["--request", "DELETE"]).status, "204");
    assert!(store.is_open(&id) && !store.is_open(&other));

    complete(&store, "big.zip", &id, &[e_tags[1], e_tags[0]]).is("400", "InvalidPart");
    let completed = complete(&store, "big.zip", &id, &e_tags);
    assert_eq!(completed.status, "200");
    assert!(completed.element("ETag").contains("-2"), "{}", completed.body);
    assert_eq!(store.open_uploads(), 0);

    let head = curl(&object(&store, "big.zip"), &["--head"]);
    assert_eq!(head.header("x-amz-meta-sha256"), Some("abc"));
    assert_eq!(head.header("content-length"), Some((PART + 3).to_string().as_str()));
    assert!(store.read(BUCKET, "big.zip").ends_with(b"aend"));
    complete(&store, "big.zip", &id, &e_tags).is("404", "NoSuchUpload");
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing() {
    let store = Store::temporary(BUCKET);
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("part");
    fs::write(&part, "part").unwrap();
    let id = begin(&store, "big.zip");
    assert_eq!(upload_part(&store, "big.zip", &id, 1, &part, &[]).status, "200");
    let upload = format!("{}?uploadId={id}", object(&store, "big.zip"));
    assert_eq!(curl(&upload, &["--request", "DELETE"]).status, "204");
    assert_eq!(store.open_uploads(), 0);
    assert!(store.objects(BUCKET).is_empty());
    let root = store.path("", "");
    let left: Vec<_> = fs::read_dir(root).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, [BUCKET], "besides the bucket");
    upload_part(&store, "big.zip", &id, 1, &part, &[]).is("404", "NoSuchUpload");
}

#[test]
fn a_body_that_is_not_what_its_md5_says_is_refused() {
    let store = Store::temporary(BUCKET);
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("part");
    fs::write(&part, "part").unwrap();
    let id = begin(&store, "big.zip");
    let wrong = format!("Content-MD5: {MD5_OF_NOTHING}");
    upload_part(&store, "big.zip", &id, 1, &part, &["--header", &wrong]).is("400", "BadDigest");
    upload_part(&store, "big.zip", &id, 1, &part, &["--header", "Content-MD5: ?"]).is("400", "InvalidDigest");
    fs::write(&part, "").unwrap();
    assert_eq!(upload_part(&store, "big.zip", &id, 2, &part, &["--header", &wrong]).status, "200");

    put(&store, "small.zip", &["--header", &wrong]).is("400", "BadDigest");
    assert!(store.objects(BUCKET).is_empty(), "a refused object is not there");
}

#[test]
fn a_byte_damaged_on_its_way_is_noticed() {
    let store = Store::temporary(BUCKET);
    store.set_faults(|request| {
        (request.operation() == Operation::PutObject).then_some(Fault::Damage { offset: 4 })
    });
    let args = ["--request", "PUT", "--data-binary", "hello"];
    curl_as(SECRET_KEY, SHA256_OF_HELLO, &object(&store, "signed.zip"), &args).is("400", "BadDigest");
    assert_eq!(put(&store, "unsigned.zip", &[]).status, "200");
    assert_eq!(store.read(BUCKET, "unsigned.zip"), b"helln");
    assert_eq!(store.objects(BUCKET), ["unsigned.zip"]);
}

#[test]
fn a_wrong_secret_is_refused() {
    let store = Store::temporary(BUCKET);
    let args = ["--request", "PUT", "--data-binary", "hello"];
    curl_as("guess", SHA256_OF_HELLO, &object(&store, "a.zip"), &args).is("403", "SignatureDoesNotMatch");
    assert!(store.objects(BUCKET).is_empty());
}

#[test]
fn who_has_a_pass_is_let_in_until_it_ends() {
    let store = Store::temporary(BUCKET);
    let passes = store.passes();
    let url = object(&store, "a.zip");
    let (put, hour) = (["--request", "PUT", "--data-binary", "hello"], Duration::from_secs(3600));
    unsigned(&url, &put).is("403", "AccessDenied");

    let show = |token: &str| {
        unsigned(&url, &[&put[..], &["--header", &format!("Authorization: Bearer {token}")]].concat())
    };
    assert_eq!(show(&passes.bearer(hour)).status, "200");
    show("guess").is("403", "AccessDenied");
    show(&passes.bearer(Duration::ZERO)).is("403", "AccessDenied");

    let sign = |session: &Session, token: &str| {
        let headers = ["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--header", token];
        signed(&format!("{}:{}", session.id, session.secret), &url, &[&put[..], &headers].concat())
    };
    let token = |session: &Session| format!("x-amz-security-token: {}", session.token);
    let session = passes.session(hour);
    assert_eq!(sign(&session, &token(&session)).status, "200");
    sign(&session, "x-amz-security-token: guess").is("400", "InvalidToken");
    sign(&session, "x-other: x").is("403", "InvalidAccessKeyId");
    let wrong = Session { secret: "guess".to_owned(), ..session.clone() };
    sign(&wrong, &token(&session)).is("403", "SignatureDoesNotMatch");
    let ended = passes.session(Duration::ZERO);
    sign(&ended, &token(&ended)).is("400", "ExpiredToken");
    passes.revoke();
    sign(&session, &token(&session)).is("403", "InvalidAccessKeyId");
}

#[test]
fn a_missing_bucket_is_missing() {
    let store = Store::temporary(BUCKET);
    let elsewhere = format!("{}/elsewhere/a.zip", store.endpoint());
    curl(&elsewhere, &["--request", "PUT", "--data-binary", "hello"]).is("404", "NoSuchBucket");
    curl(&format!("{elsewhere}?uploads="), &["--request", "POST"]).is("404", "NoSuchBucket");
    curl(&elsewhere, &[]).is("404", "NoSuchBucket");
    assert_eq!(curl(&format!("{}/elsewhere", store.endpoint()), &["--head"]).status, "404");
}

#[test]
fn the_store_can_be_made_to_fail() {
    let store = Store::temporary(BUCKET);
    let mut faults = vec![
        Fault::LoseAnswer,
        Fault::Disconnect,
        Fault::error(200, "InternalError"),
        Fault::Answer { status: 503, headers: vec![("Retry-After".into(), "7".into())], body: String::new() },
    ];
    store.set_faults(move |_| faults.pop());
    let busy = put(&store, "a.zip", &[]);
    assert_eq!((busy.status.as_str(), busy.header("retry-after")), ("503", Some("7")));
    put(&store, "a.zip", &[]).is("200", "InternalError");
    assert_eq!(put(&store, "a.zip", &[]).status, "000");
    assert!(store.objects(BUCKET).is_empty());
    assert_eq!(put(&store, "a.zip", &[]).status, "000");
    assert_eq!(store.objects(BUCKET), ["a.zip"], "it was there, only the answer was lost");

    store.set_faults(|_| Some(Fault::Hang));
    assert_eq!(put(&store, "b.zip", &["--max-time", "2"]).status, "000");
    store.clear_faults();
    assert_eq!(put(&store, "b.zip", &[]).status, "200");
    let statuses: Vec<_> = store.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(503), Some(200), None, None, None, Some(200)]);
}

#[test]
fn a_body_may_be_cut_off_or_take_its_time() {
    let store = Store::temporary(BUCKET);
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    fs::write(&large, vec![b'a'; 4 << 20]).unwrap();
    let upload = ["--header", "Expect:", "--upload-file", large.to_str().unwrap()];
    store.set_faults(|_| Some(Fault::Cut { after: 100_000 }));
    assert_eq!(curl(&object(&store, "a.zip"), &upload).status, "000");
    assert!((100_000..4 << 20).contains(&store.requests()[0].body_bytes));
    assert!(store.objects(BUCKET).is_empty());

    store.set_faults(|_| Some(Fault::Slow { rate: 10 }));
    let began = Instant::now();
    assert_eq!(put(&store, "a.zip", &[]).status, "200");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    store.set_faults(|_| Some(Fault::Slow { rate: 1 }));
    let url = object(&store, "b.zip");
    thread::scope(|scope| {
        let slow =
            scope.spawn(|| curl(&url, &["--max-time", "4", "--request", "PUT", "--data-binary", "hello"]));
        while store.requests().len() < 3 {
            thread::yield_now();
        }
        store.clear_faults();
        assert_eq!(slow.join().unwrap().status, "200", "it is no longer slow");
    });
}

#[test]
fn a_store_that_went_away_comes_back_with_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path()).unwrap();
    store.create_bucket(BUCKET).unwrap();
    let addr = store.addr();
    assert_eq!(put(&store, "a.zip", &[]).status, "200");
    let url = object(&store, "a.zip");
    drop(store);
    assert_eq!(curl(&url, &[]).status, "000");
    let store = Store::start_at(dir.path(), addr).unwrap();
    assert_eq!(curl(&url, &[]).body, "hello");
    assert_eq!(store.objects(BUCKET), ["a.zip"]);
}

#[test]
fn a_bucket_may_be_in_the_name_of_the_host() {
    let store = Store::temporary(BUCKET);
    let url = store.virtual_endpoint().replace("s3.test", "dumps.s3.test") + "/a.zip";
    let here = format!("dumps.s3.test:{}:127.0.0.1", store.addr().port());
    let put = ["--resolve", &here, "--request", "PUT", "--data-binary", "hello"];
    assert_eq!(curl(&url, &put).status, "200");
    assert_eq!(curl(&url, &["--proxy", &store.endpoint()]).body, "hello");
    assert_eq!(store.read(BUCKET, "a.zip"), b"hello");
    let by_name = object(&store, "a.zip").replace("127.0.0.1", "localhost");
    assert_eq!(curl(&by_name, &["--ipv4"]).body, "hello");
}

#[test]
fn https_is_for_those_who_trust_its_ca() {
    let store = Store::temporary_tls(BUCKET);
    assert_eq!(put(&store, "a.zip", &[]).status, "000");
    let ca = store.ca_file().unwrap().to_str().unwrap();
    assert_eq!(put(&store, "a.zip", &["--cacert", ca]).status, "200");
    let here = format!("dumps.s3.test:{}:127.0.0.1", store.addr().port());
    let url = store.virtual_endpoint().replace("s3.test", "dumps.s3.test") + "/a.zip";
    assert_eq!(curl(&url, &["--cacert", ca, "--resolve", &here]).body, "hello");
    store.be_stranger();
    assert_eq!(put(&store, "b.zip", &["--cacert", ca]).status, "000");
    store.clear_faults();
    assert_eq!(put(&store, "b.zip", &["--cacert", ca]).status, "200");
}

#[test]
fn the_program_says_where_it_is_and_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let mut program = Command::new(env!("CARGO_BIN_EXE_dev-store"))
        .args(["--bucket", BUCKET, "--dir"])
        .arg(dir.path().join("objects"))
        .arg("--ready-file")
        .arg(&ready)
        .spawn()
        .unwrap();
    let endpoint =
        testbed::wait_for("the ready file", Duration::from_secs(10), || fs::read_to_string(&ready).ok());
    let head = curl(&format!("{}/{BUCKET}", endpoint.trim()), &["--head"]);
    let pid = nix::unistd::Pid::from_raw(program.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(program.wait().unwrap().success());
    assert_eq!(head.status, "200");
}
