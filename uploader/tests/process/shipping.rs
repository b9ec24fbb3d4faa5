//! When nothing is wrong.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, SystemTime};

use protocol::spool::{DumpId, Spool, State};
use testbed::store::{Operation, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Node, PATIENCE, key, s3};

fn operations(store: &Store) -> Vec<Operation> {
    store.requests().iter().map(|request| request.operation()).collect()
}

#[test]
fn a_small_dump_is_put_in_one_request_confirmed_and_deleted() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(100_000);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    let daemon = node.start();
    node.wait_until_empty();
    assert_eq!(operations(&store), [Operation::HeadObject, Operation::PutObject, Operation::HeadObject]);
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    let put = &store.requests()[1];
    assert!(put.headers.contains_key("content-md5"), "{put:?}");
    assert_eq!(put.headers["content-length"], bytes.len().to_string().as_str());
    assert!(!put.headers.contains_key("transfer-encoding"), "S3 wants to know the length beforehand");
    let metadata = store.metadata(BUCKET, &key(&entry));
    let names: Vec<_> = metadata.keys().map(String::as_str).collect();
    assert_eq!(names, ["container", "exe", "id", "namespace", "node", "pod", "sha256", "signal"]);
    assert_eq!((metadata["id"].as_str(), metadata["pod"].as_str()), (entry.id().as_str(), "crash"));
    daemon.terminate();
    assert!(daemon.wait());
}

#[test]
fn a_large_dump_is_put_in_parts_and_comes_out_whole() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(12 << 20);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    let _daemon = node.start();
    node.wait_until_empty();
    use Operation::{CompleteUpload, CreateUpload, HeadObject, UploadPart};
    let expected = [HeadObject, CreateUpload, UploadPart, UploadPart, UploadPart, CompleteUpload, HeadObject];
    assert_eq!(operations(&store), expected);
    let parts = store.requests();
    assert!(parts[2..5].iter().all(|part| part.headers.contains_key("content-md5")));
    assert_eq!(parts[2..5].iter().map(|part| part.body_bytes).sum::<u64>(), bytes.len() as u64);
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    assert_eq!(store.open_uploads(), 0);
}

#[test]
fn what_arrives_while_it_runs_is_noticed_at_once() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let daemon = node.start();
    daemon.wait_for_log("started");
    for _ in 0..3 {
        node.dump(1000);
        // By inotify: the next listing is minutes away.
        node.wait_until_empty();
    }
}

#[test]
fn a_hundred_waiting_dumps_are_all_shipped() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let mut keys: Vec<_> = (0..100).map(|_| key(&node.dump(10))).collect();
    let _daemon = node.start();
    node.wait_until_empty();
    keys.sort();
    assert_eq!(store.objects(BUCKET), keys);
}

#[test]
fn both_ways_to_name_a_bucket_are_understood() {
    let store = Store::temporary(BUCKET);
    let settings =
        format!("store: {{s3: {{bucket: {BUCKET}, prefix: /a/b/, endpoint: 'http://s3.test'}}}}\n");
    let mut node = Node::new(&settings);
    // No resolver knows the host; a proxy need not ask one.
    node.set_env("http_proxy", store.endpoint());
    let entry = node.dump(1000);
    let _daemon = node.start();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET), [format!("a/b/{}", key(&entry))]);
    assert!(store.requests().iter().all(|request| request.host == format!("{BUCKET}.s3.test")));
}

#[test]
fn a_store_with_a_certificate_of_its_own_is_trusted_if_it_is_named() {
    let store = Store::temporary_tls(BUCKET);
    let node = Node::new(&s3(&store, ""));
    let entry = node.dump(6 << 20);
    let daemon = node.start();
    node.wait_until_empty();
    drop(daemon);
    assert_eq!(store.objects(BUCKET), [key(&entry)]);

    let endpoint = store.endpoint();
    node.configure(&format!(
        "store: {{s3: {{bucket: {BUCKET}, endpoint: '{endpoint}', path_style: true}}}}\n"
    ));
    node.dump(10);
    let daemon = node.start();
    daemon.wait_for_log("not uploaded");
    assert!(daemon.log().contains("invalid peer certificate: UnknownIssuer"), "{}", daemon.log());
    assert_eq!(node.states(), [State::Ready]);
}

#[test]
fn a_directory_is_a_store_as_well() {
    let node = Node::new("");
    let objects = node.path("objects");
    node.configure(&format!("store: {{dir: {{path: {}}}}}\n", objects.display()));
    let entry = node.dump(3 << 20);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    let daemon = node.start();
    // A mount that is not there is no place to make directories in.
    daemon.wait_for_log("No such file or directory");
    assert_eq!(node.states(), [State::Ready]);
    fs::create_dir(&objects).unwrap();
    node.wait_until_empty();
    assert!(fs::read(objects.join(key(&entry))).unwrap() == bytes);
    let found: Vec<_> = fs::read_dir(objects.join("default/crash")).unwrap().collect();
    assert_eq!(found.len(), 1, "no temporary file stays: {found:?}");
}

#[test]
fn what_is_not_ours_is_neither_followed_nor_uploaded_nor_deleted() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let spool = node.spool_dir();
    fs::write(node.path("secret"), "secret").unwrap();
    let id = "20261122T193101Z-1-00000000";
    symlink(node.path("secret"), spool.join(format!("{id}.zip"))).unwrap();
    fs::create_dir(spool.join("20261122T193101Z-2-00000000.zip")).unwrap();
    fs::write(spool.join("notes.zip"), "a stranger's").unwrap();
    fs::write(spool.join("20261122T193101Z-3-00000000.zip.rejected"), "for a person").unwrap();
    fs::write(spool.join("20261122T193101Z-4-00000000.zip.part"), "being written").unwrap();
    fs::write(spool.join("crashes.jsonl"), "").unwrap();
    let _daemon = node.start();
    let entry = node.dump(10);
    wait_for("the one dump", PATIENCE, || (!node.spool().path(&entry).exists()).then_some(()));
    assert_eq!(store.objects(BUCKET), [key(&entry)]);
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 6);
    assert_eq!(fs::read_to_string(node.path("secret")).unwrap(), "secret");
}

#[test]
fn a_dump_without_a_manifest_is_evidence_too() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let name = "20261122T193101Z-1-00000000.zip";
    fs::write(node.spool_dir().join(name), "no zip at all").unwrap();
    let daemon = node.start();
    node.wait_until_empty();
    assert_eq!(store.read(BUCKET, &format!("_/_/{name}")), b"no zip at all");
    assert!(daemon.log().contains("its manifest cannot be read"), "{}", daemon.log());
}

#[test]
fn the_part_of_a_dead_composer_becomes_torn_and_that_of_a_living_one_does_not() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let id = |n| DumpId::try_from(format!("20261122T193101Z-{n}-00000000")).unwrap();
    let living = node.spool().create(id(1)).unwrap();
    let dead = node.spool().create(id(2)).unwrap();
    let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(61));
    living.file().set_times(old).unwrap();
    dead.file().set_times(old).unwrap();
    drop(dead);
    let daemon = node.start();
    daemon.wait_for_log("torn: its composer died");
    daemon.wait_for_log("removed, since there was nothing to repair: it does not begin as a dump does");
    assert_eq!(node.states(), [State::Part]);
    drop(living);
}

#[test]
fn a_spool_that_comes_late_or_goes_away_is_waited_for() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    fs::remove_dir(node.spool_dir()).unwrap();
    let daemon = node.start();
    daemon.wait_for_log("the spool cannot be used as it should: watching it: No such file or directory");
    let complaints = || daemon.log().matches("the spool cannot be used as it should").count();
    for _ in 0..2 {
        fs::create_dir(node.spool_dir()).unwrap();
        node.dump(10);
        node.wait_until_empty();
        let before = complaints();
        // Whether it is the watch or the next listing that finds out is a race.
        fs::remove_dir(node.spool_dir()).unwrap();
        wait_for("a complaint", PATIENCE, || (complaints() > before).then_some(()));
    }
    assert_eq!(store.objects(BUCKET).len(), 2);
}

#[test]
fn where_there_is_no_inotify_the_spool_is_listed() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    // A user namespace has a limit of its own: user_namespaces(7).
    let uploader = node.command(&["run"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.arg(r#"echo 0 > /proc/sys/user/max_inotify_instances && exec "$0" "$@""#);
    command.arg(uploader.get_program()).args(uploader.get_args());
    command.envs(uploader.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let daemon = node.start_as(command);
    daemon.wait_for_log("the spool cannot be used as it should: watching it: Too many open files");
    for _ in 0..2 {
        node.dump(10);
        node.wait_until_empty();
    }
    assert_eq!(daemon.log().matches("cannot be used").count(), 1, "it is said once: {}", daemon.log());
}

#[test]
fn more_arrivals_than_the_kernel_counts_lose_nothing() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let daemon = node.start();
    daemon.wait_for_log("started");
    // Strangers' files overflow the queue of events; among them is a dump.
    let queue: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let other = node.path("elsewhere");
    let flood = |count: usize| {
        File::create(&other).unwrap();
        let mut at = other.clone();
        for n in 0..count {
            let next = node.spool_dir().join(format!("stranger-{}", n % 2));
            fs::rename(&at, &next).unwrap();
            at = next;
        }
        fs::remove_file(at).unwrap();
    };
    flood(queue);
    let entry = node.dump(10);
    flood(queue);
    wait_for("the dump", PATIENCE, || store.objects(BUCKET).contains(&key(&entry)).then_some(()));
    assert!(Spool::open(node.spool_dir()).unwrap().list().is_ok());
}
