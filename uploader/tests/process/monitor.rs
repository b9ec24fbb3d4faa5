//! What is to be seen of it from outside.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use protocol::journal::{FILE_NAME, Line, Outcome, PREVIOUS, Skip};
use protocol::manifest::Truncation;
use protocol::spool::{DumpId, State};
use testbed::store::{Fault, Operation, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Daemon, Node, PATIENCE, s3};

/// A node that is watched, and whose kernel runs our composer.
pub fn watched(store: &Store, more: &str) -> Node {
    let node = Node::new("");
    for dir in ["host", "sysctl"] {
        fs::create_dir(node.path(dir)).unwrap();
    }
    let composer = node.path("host/composer");
    fs::write(&composer, "").unwrap();
    fs::set_permissions(&composer, fs::Permissions::from_mode(0o755)).unwrap();
    hook(&node, &format!("|{} P%P", composer.display()));
    let (host, sysctl) = (node.path("host"), node.path("sysctl"));
    let paths = format!("host_dir: {}\nsysctl_dir: {}\n", host.display(), sysctl.display());
    node.configure(&s3(store, &format!("listen: 127.0.0.1:0\n{paths}{more}")));
    node
}

/// Sets the node's core_pattern.
fn hook(node: &Node, pattern: &str) {
    fs::write(node.path("sysctl/core_pattern"), format!("{pattern}\n")).unwrap();
}

/// An uploader that listens, and where.
pub struct Watched {
    pub daemon: Daemon,
    address: SocketAddr,
}

impl Watched {
    pub fn start(node: &Node) -> Watched {
        Watched::start_as(node, node.command(&["run"]))
    }

    fn start_as(node: &Node, command: Command) -> Watched {
        let listened = |log: &str| log.matches("] listening address=").count();
        let before = fs::read_to_string(node.path("log")).map_or(0, |log| listened(&log));
        let daemon = node.start_as(command);
        let address = wait_for("its address", PATIENCE, || {
            let log = daemon.log();
            let (_, address) = log.rsplit_once("] listening address=")?;
            (listened(&log) > before).then(|| address.split_once('\n')?.0.parse().ok())?
        });
        Watched { daemon, address }
    }

    /// Sends a request; returns status, head and body of the answer.
    fn request(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.request("GET", path);
        (status, body)
    }

    /// The value of a series, if there is such a series.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    pub fn wait_for_metric(&self, series: &str, value: f64) {
        wait_for(series, PATIENCE, || (self.metric(series) == Some(value)).then_some(()));
    }

    fn wait_for_answer(&self, path: &str, status: u16, text: &str) {
        wait_for(&format!("{path}: {status} {text}"), PATIENCE, || {
            let answer = self.get(path);
            (answer.0 == status && answer.1.contains(text)).then_some(())
        });
    }
}

pub fn line(pid: u32, outcome: Outcome) -> Line {
    Line {
        at: Timestamp::UNIX_EPOCH,
        id: DumpId::new(Timestamp::UNIX_EPOCH, pid, 7),
        outcome,
        pid: Some(pid),
        signal: Some(11),
        comm: Some("crasher".into()),
        container: Some("default/crash/main".into()),
        pod_uid: None,
    }
}

pub fn captured(truncated: Option<Truncation>) -> Outcome {
    Outcome::Captured { core_bytes: 5, dump_bytes: 3, truncated, held_ms: 1 }
}

/// Appends to the journal as a composer does.
pub fn append(node: &Node, line: &Line) {
    let mut journal = node.spool().append(FILE_NAME).unwrap();
    journal.write_all(&[&serde_json::to_vec(line).unwrap()[..], b"\n"].concat()).unwrap();
}

/// A line that is counted and not yet remembered would be logged again.
fn wait_until_remembered(node: &Node, count: &str) {
    let memory = node.spool_dir().join("uploader.json");
    let read = || fs::read_to_string(&memory).ok()?.contains(count).then_some(());
    wait_for(count, PATIENCE, read);
}

const WHOLE: &str = "coredump_captured_total{result=\"whole\"}";
const TRUNCATED: &str = "coredump_captured_total{result=\"truncated\"}";
const SKIPPED: &str = "coredump_captured_total{result=\"skipped\"}";
const REFUSED: &str = "coredump_captured_total{result=\"refused\"}";

#[test]
fn it_is_ready_when_all_is_well_and_otherwise_says_what_is_not() {
    let store = Store::temporary(BUCKET);
    let node = watched(&store, "");
    let watched = Watched::start(&node);
    watched.wait_for_answer("/readyz", 200, "ready\n");
    assert_eq!(watched.metric("coredump_core_pattern_owned"), Some(1.0));

    let pattern = fs::read_to_string(node.path("sysctl/core_pattern")).unwrap();
    hook(&node, "core");
    fs::remove_file(node.path("host/composer")).unwrap();
    fs::remove_dir(node.spool_dir()).unwrap();
    watched.wait_for_answer("/readyz", 503, "the spool cannot be listed: No such file or directory");
    let (_, obstacles) = watched.get("/readyz");
    let composer = node.path("host/composer");
    assert_eq!(
        obstacles.lines().skip(1).collect::<Vec<_>>(),
        [
            format!("core_pattern is \"core\", which is not {}", composer.display()),
            format!("{}: No such file or directory (os error 2)", composer.display()),
        ]
    );
    assert_eq!(watched.metric("coredump_core_pattern_owned"), Some(0.0));
    assert_eq!(watched.get("/livez"), (200, "alive\n".into()), "it can do nothing about it");

    fs::create_dir(node.spool_dir()).unwrap();
    hook(&node, pattern.trim_end());
    fs::write(&composer, "").unwrap();
    watched.wait_for_answer("/readyz", 503, "composer: cannot be executed");
    fs::set_permissions(&composer, fs::Permissions::from_mode(0o755)).unwrap();
    watched.wait_for_answer("/readyz", 200, "ready\n");
}

#[test]
fn whether_a_store_that_is_down_makes_it_unready_is_a_setting() {
    let store = Store::temporary(BUCKET);
    store.set_faults(|_| Some(Fault::error(503, "SlowDown")));
    let node = watched(&store, "");
    let indifferent = self::watched(&store, "ready_without_store: true\n");
    let watched = Watched::start(&node);
    watched.wait_for_answer("/readyz", 503, "the store does not answer: ");
    assert!(watched.get("/readyz").1.contains(": 503"), "{:?}", watched.get("/readyz"));
    Watched::start(&indifferent).wait_for_answer("/readyz", 200, "ready\n");
    store.clear_faults();
    watched.wait_for_answer("/readyz", 200, "ready\n");
}

#[test]
fn a_directory_that_is_not_mounted_is_no_store() {
    let node = watched(&Store::temporary(BUCKET), "");
    let objects = node.path("objects");
    let settings = format!(
        "listen: 127.0.0.1:0\nhost_dir: {}\nsysctl_dir: {}\nstore: {{dir: {{path: {}}}}}\n",
        node.path("host").display(),
        node.path("sysctl").display(),
        objects.display()
    );
    node.configure(&settings);
    let watched = Watched::start(&node);
    watched.wait_for_answer("/readyz", 503, "objects: No such file or directory");
    fs::create_dir(&objects).unwrap();
    watched.wait_for_answer("/readyz", 200, "ready\n");
}

#[test]
fn crashes_are_counted_once_across_kills_rotation_and_cuts() {
    let node = watched(&Store::temporary(BUCKET), "");
    append(&node, &line(1, captured(None)));
    let watched = Watched::start(&node);
    watched.wait_for_metric(WHOLE, 1.0);
    assert_eq!([TRUNCATED, SKIPPED, REFUSED].map(|series| watched.metric(series)), [Some(0.0); 3]);

    append(&node, &line(2, captured(Some(Truncation::DiskFull))));
    append(&node, &line(3, Outcome::Skipped { reason: Skip::NotAPod }));
    append(&node, &line(4, Outcome::Refused { reason: "no spool".into() }));
    watched.wait_for_metric(REFUSED, 1.0);
    for series in [
        TRUNCATED,
        SKIPPED,
        "coredump_truncated_total{reason=\"disk_full\"}",
        "coredump_skipped_total{reason=\"not_a_pod\"}",
    ] {
        assert_eq!(watched.metric(series), Some(1.0), "{series}");
    }

    wait_until_remembered(&node, "\"captured/refused\":1");
    watched.daemon.kill();
    append(&node, &line(5, captured(None)));
    fs::rename(node.spool_dir().join(FILE_NAME), node.spool_dir().join(PREVIOUS)).unwrap();
    append(&node, &line(6, captured(None)));
    let watched = Watched::start(&node);
    watched.wait_for_metric(WHOLE, 3.0);
    assert_eq!([TRUNCATED, SKIPPED, REFUSED].map(|series| watched.metric(series)), [Some(1.0); 3]);

    // While it runs: rotated, cut, and half a line.
    fs::rename(node.spool_dir().join(FILE_NAME), node.spool_dir().join(PREVIOUS)).unwrap();
    append(&node, &line(7, captured(None)));
    watched.wait_for_metric(WHOLE, 4.0);
    File::create(node.spool_dir().join(FILE_NAME)).unwrap();
    append(&node, &line(8, captured(None)));
    watched.wait_for_metric(WHOLE, 5.0);
    let mut half = serde_json::to_vec(&line(9, captured(None))).unwrap();
    let rest = half.split_off(20);
    let mut journal = OpenOptions::new().append(true).open(node.spool_dir().join(FILE_NAME)).unwrap();
    journal.write_all(&half).unwrap();
    wait_until_remembered(&node, "\"captured/whole\":5");
    watched.daemon.kill();
    let watched = Watched::start(&node);
    watched.wait_for_metric(WHOLE, 5.0);
    journal.write_all(&[&rest[..], b"\n"].concat()).unwrap();
    watched.wait_for_metric(WHOLE, 6.0);

    let log = watched.daemon.log();
    for pid in 1..=9 {
        assert_eq!(
            log.matches(&format!("dump=19700101T000000Z-{pid}-00000007")).count(),
            1,
            "{pid} in {log}"
        );
    }
    assert!(node.states().is_empty() && node.spool_dir().join("uploader.json").exists());
}

#[test]
fn killed_while_it_remembers_it_counts_no_crash_twice_and_none_less() {
    let node = watched(&Store::temporary(BUCKET), "");
    let mut crashes = 0;
    for syscall in ["fdatasync", "fsync", "rename"] {
        for _ in 0..3 {
            crashes += 1;
            append(&node, &line(crashes, captured(None)));
        }
        let memory = || fs::read(node.spool_dir().join("uploader.json")).ok();
        let before = memory();
        let (trace, inject) = (format!("trace={syscall}"), format!("inject={syscall}:signal=SIGKILL"));
        let traced = node.command(&["run"]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", &trace, "-e", &inject, "-o", "/dev/null", "timeout", "30"]);
        strace.arg(traced.get_program()).args(traced.get_args());
        strace.envs(traced.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(!node.start_as(strace).wait());
        assert_eq!(memory(), before, "{syscall} killed it");
        let watched = Watched::start(&node);
        watched.wait_for_metric(WHOLE, f64::from(crashes));
        watched.daemon.kill();
        Watched::start(&node).wait_for_metric(WHOLE, f64::from(crashes));
    }
}

#[test]
fn what_a_container_chose_forges_no_line_of_the_log() {
    let node = watched(&Store::temporary(BUCKET), "");
    let forged = "x\n[2026-11-22T19:31:02Z ERROR uploader] forged\r\u{1b}[2K\" dump=\"y";
    for (pid, outcome) in [
        (1, captured(Some(Truncation::Other(forged.into())))),
        (2, Outcome::Skipped { reason: Skip::Other(forged.into()) }),
        (3, Outcome::Refused { reason: forged.into() }),
    ] {
        let stranger =
            Line { comm: Some(forged.into()), container: Some(forged.into()), ..line(pid, outcome) };
        append(&node, &stranger);
    }
    let watched = Watched::start(&node);
    watched.wait_for_metric(REFUSED, 1.0);
    let log = watched.daemon.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
    assert_eq!(told.len(), 3, "{log}");
    for (line, word) in told.iter().zip(["captured in part", "skipped", "refused"]) {
        assert!(line.contains(&format!(" uploader::journal] {word} dump=19700101T000000Z-")), "{line}");
        assert!(line.contains(r#"comm="x\x0a["#) && line.contains(r#"\x0d\x1b[2K\" dump=\"y""#), "{line}");
    }
    assert!(!log.contains(['\r', '\u{1b}']));
    let (_, text) = watched.get("/metrics");
    assert!(!text.contains("forged"), "{text}");
}

/// What the log says of a dump, in its order.
fn told(log: &str, id: &DumpId) -> Vec<String> {
    let about = format!(" dump={id}");
    let said = log.lines().filter_map(|line| Some(line.split_once("] ")?.1.split_once(&about)?.0.to_owned()));
    said.collect()
}

#[test]
fn each_change_of_a_dump_is_one_line_of_the_log() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let [shipped, unwelcome] = [(); 2].map(|()| node.dump(1000));
    let refuse = unwelcome.id().to_string();
    store.set_faults(move |request| {
        let puts_it = request.operation() == Operation::PutObject && request.path.contains(&refuse);
        puts_it.then(|| Fault::error(400, "KeyTooLongError"))
    });
    let (torn, _) = node.torn(1000);
    let part = node.spool().set_state(&torn, State::Part).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(120);
    File::options().append(true).open(node.spool().path(&part)).unwrap().set_modified(long_ago).unwrap();
    let [skipped, refused] = [
        (1, Outcome::Skipped { reason: Skip::NotAPod }),
        (2, Outcome::Refused { reason: "no spool".into() }),
    ]
    .map(|(pid, outcome)| line(pid, outcome));
    [&skipped, &refused].into_iter().for_each(|line| append(&node, line));
    for entry in [&shipped, &unwelcome] {
        append(&node, &Line { id: entry.id().clone(), ..line(3, captured(None)) });
    }
    let daemon = node.start();
    wait_for("what is left", PATIENCE, || (node.states() == [State::Rejected]).then_some(()));
    for id in [&skipped.id, &refused.id, shipped.id(), unwelcome.id()] {
        daemon.wait_for_log(&format!(" dump={id} at=1970-01-01T00:00:00Z "));
    }
    daemon.wait_for_log(&format!(" captured in part dump={} at=", torn.id()));
    // Nothing more is said however often it looks.
    append(&node, &line(4, captured(None)));
    daemon.wait_for_log("dump=19700101T000000Z-4-00000007");
    let log = daemon.log();
    let mut both = [told(&log, shipped.id()), told(&log, unwelcome.id())];
    // Composers and stores are told of by different tasks.
    both.iter_mut().for_each(|told| told.sort());
    assert_eq!(both[0], ["captured", "uploaded"], "{log}");
    assert_eq!((both[1].len(), &*both[1][0]), (2, "captured"), "{log}");
    assert!(both[1][1].starts_with("rejected: "), "{log}");
    let mut repaired = told(&log, torn.id());
    repaired.sort();
    let lines =
        ["captured in part", "repaired", "torn: its composer died before it was complete", "uploaded"];
    assert_eq!(repaired, lines, "{log}");
    assert_eq!(told(&log, &skipped.id), ["skipped"], "{log}");
    assert_eq!(told(&log, &refused.id), ["refused"], "{log}");
}

#[test]
fn uploads_and_the_spool_are_measured() {
    let store = Store::temporary(BUCKET);
    store.set_faults(|request| {
        (request.operation() == Operation::PutObject).then(|| Fault::error(503, "SlowDown"))
    });
    let node = watched(&store, "");
    let entry = node.dump(1000);
    let meta = fs::metadata(node.spool().path(&entry)).unwrap();
    let watched = Watched::start(&node);
    watched.wait_for_metric("coredump_uploads_total{result=\"failed\"}", 1.0);
    assert_eq!(watched.metric("coredump_spool_dumps{state=\"ready\"}"), Some(1.0));
    assert_eq!(watched.metric("coredump_spool_bytes"), Some(meta.len() as f64));
    let written = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let oldest = "coredump_spool_oldest_timestamp_seconds{}";
    assert_eq!(watched.metric(oldest), Some(written.as_secs() as f64));
    assert_eq!(watched.metric("coredump_upload_bytes_total"), Some(0.0));
    store.clear_faults();
    watched.wait_for_metric("coredump_uploads_total{result=\"stored\"}", 1.0);
    watched.wait_for_metric("coredump_spool_dumps{state=\"ready\"}", 0.0);
    assert_eq!(watched.metric("coredump_spool_bytes"), Some(0.0));
    assert_eq!(watched.metric(oldest), None);
    assert_eq!(watched.metric("coredump_upload_bytes_total"), Some(meta.len() as f64));
    assert_eq!(watched.metric("coredump_upload_duration_seconds_count"), Some(1.0));

    store.set_faults(|request| {
        (request.operation() == Operation::PutObject).then(|| Fault::error(400, "KeyTooLongError"))
    });
    node.dump(1000);
    watched.wait_for_metric("coredump_uploads_total{result=\"rejected\"}", 1.0);
    watched.wait_for_metric("coredump_spool_dumps{state=\"rejected\"}", 1.0);
    assert_eq!(watched.metric(oldest), None, "it waits for a person");
}

#[test]
fn copies_that_go_are_counted() {
    let store = Store::temporary(BUCKET);
    let node = watched(&store, "");
    let entry = node.dump(1000);
    node.spool().set_state(&entry, State::Uploaded).unwrap();
    let watched = Watched::start(&node);
    watched.wait_for_metric("coredump_expired_total{reason=\"age\"}", 1.0);
    assert_eq!(watched.metric("coredump_expired_total{reason=\"space\"}"), Some(0.0));
    assert_eq!((node.states(), store.objects(BUCKET).len()), (vec![], 0));
}

#[test]
fn only_what_there_is_is_answered() {
    let store = Store::temporary(BUCKET);
    let node = watched(&store, "");
    let watched = Watched::start(&node);
    let (status, head, body) = watched.request("GET", "/metrics");
    assert_eq!(status, 200);
    let media = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(media) && body.ends_with("# EOF\n"), "{head}\n{body}");
    let version = format!("coredump_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
    assert!(body.contains(&version), "{body}");
    let (status, head, body) = watched.request("HEAD", "/livez");
    assert_eq!((status, body.as_str()), (200, ""), "{head}");
    assert!(head.contains("content-length: 6"), "{head}");
    assert_eq!(watched.get("/").0, 404);
    assert_eq!(watched.get("/metrics/..").0, 404);
    let (status, head, _) = watched.request("POST", "/metrics");
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() {
    let store = Store::temporary(BUCKET);
    let node = watched(&store, "");
    let watched = Watched::start(&node);
    let began = Instant::now();
    let silent: Vec<_> = (0..16).map(|_| TcpStream::connect(watched.address).unwrap()).collect();
    assert_eq!(watched.get("/livez").0, 200);
    assert!(began.elapsed() < PATIENCE);
    assert!(began.elapsed() > Duration::from_secs(5), "no more than so many at once");
    drop(silent);
}

#[test]
fn an_address_that_is_not_to_be_had_is_an_error() {
    let store = Store::temporary(BUCKET);
    let node = watched(&store, "");
    let watched = Watched::start(&node);
    let node = Node::new(&s3(&store, &format!("listen: {}\n", watched.address)));
    let output = node.run(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("uploader: listening on {}: Address already in use", watched.address)),
        "{said}"
    );
}
