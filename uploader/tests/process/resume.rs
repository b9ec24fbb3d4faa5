//! What survives an uploader that is killed, and what becomes of the rest.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protocol::spool::{Entry, State};
use testbed::store::{Fault, Operation, Request, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Daemon, Node, PATIENCE, key, parts, s3};

const PART: usize = 5 << 20;

fn ledger(node: &Node, entry: &Entry) -> PathBuf {
    node.spool_dir().join(format!("{}.upload", entry.id()))
}

/// Waits until a part is on its way, and has been sent before as often as that.
fn wait_for_part(store: &Store, number: u32, times: usize) {
    let sent = || parts(store).iter().filter(|part| **part == number).count();
    wait_for(&format!("part {number}"), PATIENCE, || (sent() > times).then_some(()));
}

fn uploads_begun(store: &Store) -> usize {
    store.requests().iter().filter(|request| request.operation() == Operation::CreateUpload).count()
}

/// A daemon that hangs at the second part of a dump, of which the first is remembered.
fn hanging_at_the_second_part(node: &Node, store: &Store) -> Daemon {
    store.set_faults(|request| (request.part() == Some(2)).then_some(Fault::Hang));
    let daemon = node.start();
    wait_for_part(store, 2, 0);
    store.clear_faults();
    daemon
}

/// Four times: once more than one attempt asks for it.
fn fail_the_second_part(store: &Store) {
    let mut times = 0;
    store.set_faults(move |request| {
        times += usize::from(request.part() == Some(2));
        (request.part() == Some(2) && times <= 4).then(|| Fault::error(500, "InternalError"))
    });
}

/// An abort that the store refuses.
const ABORT: (Operation, u16, &str) = (Operation::AbortUpload, 503, "SlowDown");

/// The store refuses one request for each of these.
fn refuse(store: &Store, refusals: &[(Operation, u16, &'static str)]) {
    let mut refusals = refusals.to_vec();
    store.set_faults(move |request| {
        let which = refusals.iter().position(|(operation, ..)| *operation == request.operation())?;
        let (_, status, code) = refusals.remove(which);
        Some(Fault::error(status, code))
    });
}

#[test]
fn killed_again_and_again_it_goes_on_where_it_was() {
    let store = Store::temporary(BUCKET);
    let node = Node::new(&s3(&store, "part_size: 5MiB\nbandwidth: 1MiB\n"));
    let entry = node.dump(3 * PART + 1000);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    for (number, times) in [(2, 0), (2, 1), (3, 0)] {
        let daemon = node.start();
        wait_for_part(&store, number, times);
        daemon.kill();
    }
    assert_eq!((node.states(), store.open_uploads()), (vec![State::Ready], 1));
    node.configure(&s3(&store, "part_size: 5MiB\n"));
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("its upload goes on"), "{}", daemon.log());
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    assert_eq!(parts(&store), [1, 2, 2, 2, 3, 3, 4]);
    assert_eq!(store.open_uploads(), 0);
    let requests = store.requests();
    assert_eq!(uploads_begun(&store), 1);
    let sent: u64 = requests.iter().filter(|request| request.part().is_some()).map(|r| r.body_bytes).sum();
    assert!(sent <= (bytes.len() + 3 * PART) as u64, "{sent}, three times killed");
    assert!(!ledger(&node, &entry).exists());
}

#[test]
fn an_upload_that_failed_halfway_goes_on_without_a_restart_too() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    node.dump(2 * PART);
    fail_the_second_part(&store);
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("part 2 of 3: 500 InternalError"), "{}", daemon.log());
    assert_eq!(parts(&store), [1, 2, 2, 2, 2, 2, 3]);
}

#[test]
fn an_upload_the_store_has_forgotten_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path()).unwrap();
    store.create_bucket(BUCKET).unwrap();
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    hanging_at_the_second_part(&node, &store).kill();
    let addr = store.addr();
    drop(store);
    let store = Store::start_at(dir.path(), addr).unwrap();
    // Also by `push`, which tries once.
    let pushed = node.run(&["push"]);
    assert!(pushed.status.success(), "{pushed:?}");
    assert!(String::from_utf8_lossy(&pushed.stderr).contains("404 NoSuchUpload"), "{pushed:?}");
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    assert_eq!(parts(&store), [2, 1, 2, 3]);
    assert_eq!(store.open_uploads(), 0);
}

#[test]
fn parts_that_are_not_what_was_remembered_are_sent_again() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    hanging_at_the_second_part(&node, &store).kill();
    let remembered = fs::read_to_string(ledger(&node, &entry)).unwrap();
    let (upload, part) = remembered.trim_end().split_once('\n').unwrap();
    assert!(part.starts_with("{\"part\":1,\"e_tag\":\""), "{part}");
    let wrong = "{\"part\":1,\"e_tag\":\"\\\"d41d8cd98f00b204e9800998ecf8427e\\\"\"}";
    fs::write(ledger(&node, &entry), format!("{upload}\n{wrong}\n")).unwrap();
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("400 InvalidPart"), "{}", daemon.log());
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    assert_eq!(parts(&store), [1, 2, 2, 3, 1, 2, 3]);
    assert_eq!(store.open_uploads(), 0);
}

#[test]
fn other_parts_of_the_same_dump_are_another_upload() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    hanging_at_the_second_part(&node, &store).kill();
    node.configure(&s3(&store, "part_size: 6MiB\n"));
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("cannot be gone on with, it begins anew"), "{}", daemon.log());
    assert_eq!(parts(&store), [1, 2, 1, 2]);
    assert_eq!(store.objects(BUCKET), [key(&entry)]);
    assert_eq!(store.open_uploads(), 0, "the other was aborted");
}

#[test]
fn what_could_not_be_aborted_is_aborted_in_the_end() {
    let create = (Operation::CreateUpload, 429, "SlowDown");
    let cases = [&[ABORT][..], &[ABORT, create], &[ABORT, ABORT], &[ABORT, create, ABORT, ABORT]];
    for settings in ["part_size: 6MiB\n", "part_size: 5MiB\nkey: '{id}.zip'\n"] {
        for refusals in cases {
            let store = Store::temporary(BUCKET);
            let node = Node::shipping_to(&store);
            let entry = node.dump(2 * PART);
            hanging_at_the_second_part(&node, &store).kill();
            node.configure(&s3(&store, settings));
            refuse(&store, refusals);
            let daemon = node.start();
            node.wait_until_empty();
            assert!(daemon.log().contains("aborting the upload of default/crash/"), "{}", daemon.log());
            drop(daemon);
            let _daemon = node.start();
            wait_for("the ledger to go", PATIENCE, || (!ledger(&node, &entry).exists()).then_some(()));
            let there = (store.objects(BUCKET).len(), store.open_uploads());
            assert_eq!(there, (1, 0), "{settings} {refusals:?}");
        }
    }
}

#[test]
fn what_is_of_no_use_and_could_not_be_aborted_is_not_gone_on_with() {
    for refusals in [&[ABORT][..], &[ABORT, ABORT]] {
        let store = Store::temporary(BUCKET);
        let node = Node::shipping_to(&store);
        let entry = node.dump(2 * PART);
        let lost = (Operation::CompleteUpload, 400, "InvalidPart");
        refuse(&store, &[&[lost], refusals].concat());
        let daemon = node.start();
        node.wait_until_empty();
        assert!(daemon.log().contains("left behind unaborted: "), "{}", daemon.log());
        assert_eq!(uploads_begun(&store), 2);
        assert_eq!((store.objects(BUCKET), store.open_uploads()), (vec![key(&entry)], 0));
        assert!(!ledger(&node, &entry).exists());
    }
}

#[test]
fn what_cannot_be_read_is_not_believed() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    hanging_at_the_second_part(&node, &store).kill();
    fs::write(ledger(&node, &entry), [0; 4096]).unwrap();
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("what was remembered of its upload cannot be read"), "{}", daemon.log());
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    assert_eq!(parts(&store), [1, 2, 1, 2, 3]);
    assert_eq!(store.open_uploads(), 0, "the other was found and aborted");
}

#[test]
fn what_is_left_of_a_dump_that_is_gone_is_aborted_and_nobody_elses() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let (entry, other) = (node.dump(2 * PART), node.dump(10));
    let [stranger, namesake] = ["somebody/else.zip", &key(&entry)].map(|key| store.begin_upload(BUCKET, key));
    let daemon = hanging_at_the_second_part(&node, &store);
    wait_for("the other", PATIENCE, || (store.objects(BUCKET) == [key(&other)]).then_some(()));
    daemon.kill();
    assert_eq!(store.open_uploads(), 3);
    fs::remove_file(node.spool().path(&entry)).unwrap();
    // A file that names what is somebody else's is not obeyed.
    let remembered = fs::read_to_string(ledger(&node, &entry)).unwrap();
    let upload: serde_json::Value = serde_json::from_str(remembered.lines().next().unwrap()).unwrap();
    let mut forged = upload.clone();
    forged["key"] = "somebody/else.zip".into();
    forged["upload_id"] = stranger.as_str().into();
    fs::write(ledger(&node, &other), format!("{forged}\n")).unwrap();

    let daemon = node.start();
    wait_for("two ledgers to go", PATIENCE, || {
        (!ledger(&node, &entry).exists() && !ledger(&node, &other).exists()).then_some(())
    });
    assert!(!store.is_open(upload["upload_id"].as_str().unwrap()));
    assert!(store.is_open(&stranger) && store.is_open(&namesake));
    assert!(daemon.log().contains("is left alone"), "{}", daemon.log());
}

#[test]
fn an_upload_of_which_nobody_heard_is_found_and_aborted() {
    let store = Store::temporary(BUCKET);
    let settings =
        format!("store: {{s3: {{bucket: {BUCKET}, endpoint: 'http://s3.test'}}}}\npart_size: 5MiB\n");
    let mut node = Node::new(&settings);
    node.set_env("http_proxy", store.endpoint());
    let entry = node.dump(2 * PART);
    let longer = store.begin_upload(BUCKET, &format!("{}.part", key(&entry)));
    let mut left = 2;
    store.set_faults(move |request| {
        left -= u32::from(left > 0 && request.operation() == Operation::CreateUpload);
        (left > 0 && request.operation() == Operation::CreateUpload).then_some(Fault::LoseAnswer)
    });
    let daemon = node.start();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET), [key(&entry)], "{}", daemon.log());
    assert_eq!((store.open_uploads(), store.is_open(&longer)), (1, true), "{}", daemon.log());
    let requests = store.requests();
    let mut aborts = requests.iter().filter(|request| request.operation() == Operation::AbortUpload);
    let tried = |request: &Request| request.parameter("uploadId") == Some(&longer);
    assert!(!aborts.any(tried), "the other is not even tried");
}

#[test]
fn an_upload_that_the_store_begins_after_all_is_aborted_in_the_end() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    store.set_faults(|request| (request.operation() == Operation::CreateUpload).then_some(Fault::Hang));
    let daemon = node.start();
    wait_for("an upload to begin", PATIENCE, || (uploads_begun(&store) > 0).then_some(()));
    daemon.kill();
    hanging_at_the_second_part(&node, &store).kill();
    let late = store.begin_upload(BUCKET, &key(&entry));
    let _daemon = node.start();
    node.wait_until_empty();
    assert_eq!((store.objects(BUCKET), parts(&store)), (vec![key(&entry)], vec![1, 2, 2, 3]));
    assert_eq!((store.open_uploads(), store.is_open(&late)), (0, false));
    assert_eq!(fs::read_dir(node.spool_dir()).unwrap().count(), 0);
}

#[test]
fn killed_when_all_is_sent_it_sends_nothing_again_and_leaves_nothing() {
    // About to forget the upload, about to remove the ledger.
    for (syscall, nth) in [("ftruncate", 4), ("unlink", 1)] {
        let store = Store::temporary(BUCKET);
        let node = Node::shipping_to(&store);
        let entry = node.dump(2 * PART);
        let killed = node.strace(syscall, &format!("signal=SIGKILL:when={nth}"), &["push"]);
        assert_eq!(killed.status.signal(), Some(9), "{syscall} {nth}: {killed:?}");
        assert_eq!((node.states(), store.open_uploads()), (vec![State::Ready], 0), "{syscall} {nth}");
        let again = node.run(&["push"]);
        assert!(again.status.success(), "{syscall} {nth}: {again:?}");
        assert_eq!(store.objects(BUCKET), [key(&entry)]);
        assert_eq!(parts(&store), [1, 2, 3], "{syscall} {nth}");
        assert_eq!(fs::read_dir(node.spool_dir()).unwrap().count(), 0, "{syscall} {nth}");
    }
}

#[test]
fn an_orphan_that_cannot_be_aborted_stays_remembered() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    hanging_at_the_second_part(&node, &store).kill();
    fs::remove_file(node.spool().path(&entry)).unwrap();
    store.set_faults(|request| {
        (request.operation() == Operation::AbortUpload).then(|| Fault::error(403, "AccessDenied"))
    });
    let daemon = node.start();
    daemon.wait_for_log("what is left of its upload in parts is removed later");
    assert!(ledger(&node, &entry).exists());
    drop(daemon);
    store.clear_faults();
    let _daemon = node.start();
    wait_for("the ledger to go", PATIENCE, || (!ledger(&node, &entry).exists()).then_some(()));
    assert_eq!(store.open_uploads(), 0);
}

#[test]
fn where_nothing_can_be_remembered_dumps_leave_all_the_same() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(2 * PART);
    fs::create_dir(ledger(&node, &entry)).unwrap();
    fail_the_second_part(&store);
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("how far its upload is cannot be remembered"), "{}", daemon.log());
    assert_eq!(parts(&store), [1, 2, 2, 2, 2, 1, 2, 3]);
    assert_eq!((store.objects(BUCKET), store.open_uploads()), (vec![key(&entry)], 0));
}

#[test]
fn a_rejected_dump_leaves_no_parts() {
    for refusals in [&[][..], &[ABORT], &[ABORT, ABORT]] {
        let store = Store::temporary(BUCKET);
        let node = Node::shipping_to(&store);
        let entry = node.dump(2 * PART);
        let condemned = (Operation::CompleteUpload, 400, "EntityTooLarge");
        refuse(&store, &[&[condemned], refusals].concat());
        let daemon = node.start();
        wait_for("its rejection", PATIENCE, || (node.states() == [State::Rejected]).then_some(()));
        assert_eq!(ledger(&node, &entry).exists(), refusals.len() > 1, "{refusals:?}");
        drop(daemon);
        let _daemon = node.start();
        wait_for("the ledger to go", PATIENCE, || (!ledger(&node, &entry).exists()).then_some(()));
        assert_eq!((node.states(), store.open_uploads()), (vec![State::Rejected], 0), "{refusals:?}");
    }
}

#[test]
fn two_uploaders_do_not_send_the_same_parts() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    node.dump(2 * PART);
    let _daemon = hanging_at_the_second_part(&node, &store);
    let pushed = node.run(&["push"]);
    assert_eq!(pushed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&pushed.stderr).contains("somebody else is uploading it"), "{pushed:?}");
    assert_eq!(parts(&store), [1, 2]);
}

#[test]
fn large_dumps_do_not_starve_small_ones() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    (0..3).for_each(|_| drop(node.dump(2 * PART)));
    store.set_faults(|request| request.part().map(|_| Fault::Hang));
    let _daemon = node.start();
    wait_for_part(&store, 1, 0);
    let small: Vec<_> = (0..5).map(|_| key(&node.dump(1000))).collect();
    wait_for("the small ones", PATIENCE, || (store.objects(BUCKET) == small).then_some(()));
    assert_eq!(parts(&store), [1], "one large one has begun");
}

#[test]
fn all_uploads_together_keep_to_the_bandwidth() {
    let store = Store::temporary(BUCKET);
    let node = Node::new(&s3(&store, "parallel: 3\nbandwidth: 4MiB\n"));
    (0..3).for_each(|_| drop(node.dump(4 << 20)));
    let began = Instant::now();
    let _daemon = node.start();
    node.wait_until_empty();
    // 12 MiB, of which the first chunk waits for nothing.
    assert!(began.elapsed() > Duration::from_millis(2800), "{:?}", began.elapsed());
}

#[test]
fn a_store_is_asked_again_when_it_wants_to_be() {
    for (operation, core_bytes) in [(Operation::HeadObject, 10), (Operation::UploadPart, 2 * PART)] {
        let store = Store::temporary(BUCKET);
        let node = Node::shipping_to(&store);
        node.dump(core_bytes);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let times = Arc::clone(&asked);
        store.set_faults(move |request| {
            let mut times = times.lock().unwrap();
            if times.is_empty() && request.operation() != operation {
                return None;
            }
            times.push(Instant::now());
            let headers = vec![("Retry-After".into(), "3".into())];
            (times.len() == 1).then_some(Fault::Answer { status: 503, headers, body: String::new() })
        });
        let _daemon = node.start();
        node.wait_until_empty();
        let asked = asked.lock().unwrap();
        assert!(asked[1] - asked[0] >= Duration::from_secs(3), "{operation:?} {:?}", asked[1] - asked[0]);
    }
}
