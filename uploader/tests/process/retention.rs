//! What becomes of dumps that the store has.

use std::fs::{self, File, FileTimes};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, SystemTime};

use protocol::spool::{DumpId, Entry, State};
use testbed::store::{Fault, Operation, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Daemon, Node, PATIENCE, key, s3};

/// A node that keeps what it has uploaded, whatever else is on the disk of this machine.
fn keeping(store: &Store, more: &str) -> Node {
    let retention = format!("retention: {{after_upload: keep, keep_free: 0{more}}}\n");
    Node::new(&s3(store, &format!("part_size: 5MiB\n{retention}")))
}

/// A dump of 1,000 bytes of core and some.
fn dump_of(node: &Node, namespace: &str) -> Entry {
    let manifest = include_str!("../../../protocol/tests/golden/manifest-1.json");
    let other = manifest.replace("\"namespace\": \"default\"", &format!("\"namespace\": \"{namespace}\""));
    assert!(namespace == "default" || other != manifest);
    node.dump_with(&other, 1000)
}

/// What is in the spool, by id.
fn there(node: &Node) -> Vec<String> {
    node.spool().list().unwrap().iter().map(|found| found.entry.id().to_string()).collect()
}

/// Waits until the log tells of so many that had to go, and that it was for this reason.
fn wait_for_removals(daemon: &Daemon, reason: &str, count: usize) {
    let told = |line: &&str| line.contains("removed, the store has it");
    wait_for(&format!("{count} removals"), PATIENCE, || {
        let log = daemon.log();
        let lines: Vec<_> = log.lines().filter(told).collect();
        assert!(lines.iter().all(|line| line.contains(&format!(" reason={reason} "))), "{lines:?}");
        (lines.len() == count).then_some(())
    });
}

#[test]
fn what_is_kept_is_the_dump_until_it_is_too_old() {
    let store = Store::temporary(BUCKET);
    let node = keeping(&store, ", max_age: 1h");
    let entry = node.dump(12 << 20);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    let daemon = node.start();
    wait_for("a copy", PATIENCE, || (node.states() == [State::Uploaded]).then_some(()));
    let kept = node.spool_dir().join(format!("{entry}.uploaded"));
    assert!(fs::read(&kept).unwrap() == bytes && store.read(BUCKET, &key(&entry)) == bytes);
    assert_eq!(fs::read_dir(node.spool_dir()).unwrap().count(), 1, "no ledger");
    for (args, words) in [
        (&["ls"][..], &[" uploaded ", " default/crash/main "][..]),
        (&["show", entry.id().as_str()], &[", uploaded, "]),
    ] {
        let text = String::from_utf8(node.run(args).stdout).unwrap();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    assert!(node.run(&["push"]).status.success());
    assert!(kept.exists());

    let old = SystemTime::now() - Duration::from_secs(3601);
    File::options().write(true).open(&kept).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
    wait_for_removals(&daemon, "age", 1);
    assert_eq!((node.states().len(), store.objects(BUCKET).len()), (0, 1));
    let puts = store.requests().iter().filter(|r| r.operation() == Operation::CreateUpload).count();
    assert_eq!(puts, 1, "what is kept is not uploaded again");
}

#[test]
fn where_there_are_too_many_the_namespace_with_the_most_gives_its_oldest() {
    let store = Store::temporary(BUCKET);
    let node = keeping(&store, ", max_bytes: 1TiB");
    let rare = dump_of(&node, "rare");
    let often: Vec<_> = (0..4).map(|_| dump_of(&node, "often")).collect();
    assert!(node.run(&["push"]).status.success());
    assert_eq!(node.states(), [State::Uploaded; 5]);
    let all: u64 = node.spool().list().unwrap().iter().map(|found| found.bytes).sum();
    let limit = format!("max_bytes: {}", all / 2);
    node.configure(&s3(&store, &format!("retention: {{after_upload: keep, keep_free: 0, {limit}}}\n")));
    let daemon = node.start();
    wait_for_removals(&daemon, "size", 3);
    assert_eq!(there(&node), [rare.id(), often[3].id()].map(ToString::to_string));
    assert_eq!(store.objects(BUCKET).len(), 5);
}

#[test]
fn where_the_disk_is_needed_copies_go_at_once() {
    let store = Store::temporary(BUCKET);
    let node = keeping(&store, "");
    node.dump(1000);
    assert!(node.run(&["push"]).status.success());
    assert_eq!(node.states(), [State::Uploaded]);
    node.configure(&s3(&store, "retention: {after_upload: keep, keep_free: 8EiB}\n"));
    let daemon = node.start();
    wait_for_removals(&daemon, "space", 1);
    assert_eq!((node.states().len(), store.objects(BUCKET).len()), (0, 1));
}

#[test]
fn what_was_kept_goes_when_nothing_is_to_be_kept_any_more() {
    let store = Store::temporary(BUCKET);
    let node = keeping(&store, "");
    node.dump(1000);
    assert!(node.run(&["push"]).status.success());
    assert_eq!(node.states(), [State::Uploaded]);
    node.configure(&s3(&store, ""));
    assert!(node.run(&["push"]).status.success());
    assert_eq!((node.states().len(), store.objects(BUCKET).len()), (0, 1));
}

#[test]
fn killed_when_the_store_has_it_it_is_kept_by_the_next_one_and_not_sent_again() {
    for core_bytes in [1000, 6 << 20] {
        let store = Store::temporary(BUCKET);
        let node = keeping(&store, "");
        let entry = node.dump(core_bytes);
        let killed = node.strace("renameat2", "signal=SIGKILL", &["push"]);
        assert_eq!(killed.status.signal(), Some(9), "{killed:?}");
        assert_eq!((node.states(), store.objects(BUCKET)), (vec![State::Ready], vec![key(&entry)]));
        let before = store.requests().len();
        let again = node.run(&["push"]);
        assert!(again.status.success(), "{again:?}");
        assert_eq!(node.states(), [State::Uploaded]);
        let requests = store.requests();
        assert!(
            requests[before..].iter().all(|request| request.operation() == Operation::HeadObject),
            "{requests:?}"
        );
    }
}

#[test]
fn what_the_store_does_not_have_is_never_removed() {
    let store = Store::temporary(BUCKET);
    store.set_faults(|_| Some(Fault::error(503, "SlowDown")));
    let strict = "retention: {after_upload: keep, max_age: 0s, max_bytes: 1, keep_free: 8EiB}\n";
    for settings in [strict, "retention: {after_upload: delete}\n"] {
        let node = Node::new(&s3(&store, settings));
        let ready = node.dump(1000);
        let name = |suffix: &str| node.spool_dir().join(format!("20261122T193101Z-1-00000000{suffix}"));
        let part =
            node.spool().create(DumpId::try_from("20261122T193101Z-2-00000000".to_owned()).unwrap()).unwrap();
        for suffix in [".zip.rejected", "_copy.zip.uploaded", ".zip.uploaded.old"] {
            fs::write(name(suffix), "evidence").unwrap();
        }
        // By then it has been looked for copies.
        let daemon = node.start();
        daemon.wait_for_log("removed, the store has it");
        daemon.wait_for_log("not uploaded: ");
        daemon.terminate();
        assert!(daemon.wait());
        assert!(!name("_copy.zip.uploaded").exists());
        assert_eq!(node.states(), [State::Rejected, State::Part, State::Ready]);
        assert!(node.spool().path(&ready).exists() && name(".zip.uploaded.old").exists());
        drop(part);
    }
}
