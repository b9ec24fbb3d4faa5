//! When something is wrong.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use protocol::spool::State;
use testbed::store::{ACCESS_KEY, Fault, Operation, Request, SECRET_KEY, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Node, PATIENCE, key, parts, s3};

/// The fault happens to the first requests of its kind, and to no others.
fn first(operation: Operation, times: usize, fault: Fault) -> impl FnMut(&Request) -> Option<Fault> + Send {
    let mut left = times;
    move |request| {
        if request.operation() != operation || left == 0 {
            return None;
        }
        left -= 1;
        Some(fault.clone())
    }
}

fn answer(status: u16, body: &str) -> Fault {
    Fault::Answer { status, headers: vec![], body: body.into() }
}

/// Ships a dump while the first requests of a kind meet a fault. Returns the log.
fn shipped_in_spite_of(operation: Operation, times: usize, fault: &Fault) -> String {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let large = !matches!(operation, Operation::PutObject | Operation::HeadObject);
    let entry = node.dump(if large { 11 << 20 } else { 1000 });
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    store.set_faults(first(operation, times, fault.clone()));
    let daemon = node.start();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET), [key(&entry)], "{operation:?} {fault:?}");
    assert!(store.read(BUCKET, &key(&entry)) == bytes, "{operation:?} {fault:?}");
    assert_eq!(store.open_uploads(), 0, "{operation:?} {fault:?}");
    daemon.log()
}

#[test]
fn whatever_is_wrong_for_a_while_costs_no_dump() {
    use Operation::{CreateUpload, HeadObject, PutObject};
    let cases = [
        (PutObject, Fault::error(503, "SlowDown"), "503 SlowDown"),
        (PutObject, Fault::error(400, "ExpiredToken"), "400 ExpiredToken"),
        (PutObject, Fault::error(403, "RequestTimeTooSkewed"), "of the store differ too much: it is 20"),
        (PutObject, Fault::Disconnect, "error sending request"),
        (PutObject, Fault::Damage { offset: 70 }, "400 BadDigest"),
        (PutObject, answer(502, "<html><p>no gateway"), "502 htmlpno gateway"),
        (PutObject, answer(413, ""), "413 (something before the store"),
        (HeadObject, Fault::error(500, "InternalError"), "500 "),
        (HeadObject, Fault::error(429, "TooManyRequests"), "429 "),
        (HeadObject, Fault::error(301, "PermanentRedirect"), "301 (the bucket is elsewhere"),
        (CreateUpload, Fault::error(429, "TooManyRequests"), "429 TooManyRequests"),
        (CreateUpload, answer(200, "not XML"), "502 not XML"),
        (CreateUpload, answer(200, "<html><head><meta></head>"), "502 html"),
        (CreateUpload, answer(200, "<InitiateMultipartUploadResult><UploadId>x"), "502 Initiate"),
    ];
    for (operation, fault, said) in cases {
        let log = shipped_in_spite_of(operation, 1, &fault);
        assert!(log.contains("not uploaded: ") && log.contains(said), "{said} in {log}");
        assert!(log.contains(&format!("bucket {BUCKET} at http://127.0.0.1:")), "{log}");
    }
}

#[test]
fn a_request_of_many_is_tried_again_before_the_whole_upload_is() {
    use Operation::{CompleteUpload, UploadPart};
    let cases = [
        (UploadPart, Fault::Damage { offset: 5_000_000 }),
        (UploadPart, Fault::Disconnect),
        (UploadPart, Fault::error(500, "InternalError")),
        (UploadPart, answer(200, "")),
        (CompleteUpload, Fault::error(200, "InternalError")),
        (CompleteUpload, answer(200, "")),
        (CompleteUpload, answer(200, "<CompleteMultipartUploadResult><ETag>x")),
        (CompleteUpload, Fault::error(503, "SlowDown")),
    ];
    for (operation, fault) in cases {
        let log = shipped_in_spite_of(operation, 1, &fault);
        assert!(!log.contains("not uploaded"), "{operation:?} {fault:?} {log}");
    }
}

#[test]
fn an_upload_in_parts_that_goes_on_failing_is_gone_on_with_later() {
    for operation in [Operation::UploadPart, Operation::CompleteUpload] {
        let log = shipped_in_spite_of(operation, 4, &Fault::error(500, "InternalError"));
        assert!(log.contains("not uploaded: putting"), "{log}");
    }
}

#[test]
fn an_answer_that_was_lost_is_asked_for_and_not_earned_again() {
    for operation in [Operation::PutObject, Operation::CompleteUpload] {
        let log = shipped_in_spite_of(operation, 1, &Fault::LoseAnswer);
        assert!(!log.contains("not uploaded"), "{operation:?} {log}");
    }
}

#[test]
fn an_object_that_is_not_the_dump_is_no_confirmation() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    node.dump(1000);
    let other = Fault::Answer {
        status: 200,
        headers: vec![("x-amz-meta-sha256".into(), "00".repeat(32))],
        body: String::new(),
    };
    store.set_faults(move |request| (request.operation() == Operation::HeadObject).then(|| other.clone()));
    let daemon = node.start();
    daemon.wait_for_log("the store has");
    assert_eq!(node.states(), [State::Ready], "it stays");
    store.clear_faults();
    node.wait_until_empty();
}

#[test]
fn a_dump_the_store_will_never_take_is_set_aside_and_others_go_on() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let (refused, good) = (node.dump(1000), node.dump(1000));
    let id = refused.id().to_string();
    store.set_faults(move |request| {
        let condemned = request.operation() == Operation::PutObject && request.path.contains(&id);
        condemned.then(|| Fault::error(400, "EntityTooLarge"))
    });
    let daemon = node.start();
    wait_for("the good one", PATIENCE, || store.objects(BUCKET).contains(&key(&good)).then_some(()));
    wait_for("the refused one", PATIENCE, || (node.states() == [State::Rejected]).then_some(()));
    assert!(daemon.log().contains("rejected: putting"), "{}", daemon.log());
    let name = node.spool().list().unwrap().remove(0).entry.to_string();
    assert_eq!(name, format!("{refused}.rejected"));
}

#[test]
fn a_missing_bucket_and_wrong_credentials_are_named_and_cured_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path()).unwrap();
    let mut node = Node::new("");
    node.clear_env();
    let (id, secret) = (node.path("id"), node.path("secret"));
    fs::write(&id, format!("{ACCESS_KEY}\n")).unwrap();
    fs::write(&secret, "wrong\n").unwrap();
    let endpoint = store.endpoint();
    node.configure(&format!(
        "store: {{s3: {{bucket: {BUCKET}, endpoint: '{endpoint}', path_style: true, \
         access_key_id_file: {}, secret_access_key_file: {}}}}}\n",
        id.display(),
        secret.display()
    ));
    node.dump(1000);
    let daemon = node.start();
    daemon.wait_for_log("403 SignatureDoesNotMatch");
    fs::write(&secret, format!("{SECRET_KEY}\n")).unwrap();
    daemon.wait_for_log(&format!("into bucket {BUCKET} at {endpoint}: 404 NoSuchBucket"));
    assert_eq!(node.states(), [State::Ready]);
    store.create_bucket(BUCKET).unwrap();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET).len(), 1);
}

#[test]
fn killed_between_put_and_delete_it_finds_the_object_and_does_not_put_it_again() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(1000);
    let bytes = fs::read(node.spool().path(&entry)).unwrap();
    let mut heads = 0;
    store.set_faults(move |request| {
        heads += usize::from(request.operation() == Operation::HeadObject);
        (heads == 2).then_some(Fault::Hang)
    });
    let daemon = node.start();
    let asked =
        || store.requests().iter().filter(|request| request.operation() == Operation::HeadObject).count();
    wait_for("the question after the put", PATIENCE, || (asked() == 2).then_some(()));
    daemon.kill();
    assert_eq!(node.states(), [State::Ready]);
    store.clear_faults();
    let _daemon = node.start();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET), [key(&entry)]);
    assert!(store.read(BUCKET, &key(&entry)) == bytes);
    let puts = store.requests().iter().filter(|request| request.operation() == Operation::PutObject).count();
    assert_eq!(puts, 1);
}

#[test]
fn rights_that_do_not_suffice_to_confirm_keep_the_dump_and_say_so() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    node.dump(1000);
    store.set_faults(|request| (request.operation() == Operation::HeadObject).then(|| answer(403, "")));
    let daemon = node.start();
    daemon.wait_for_log("does not allow us to ask whether it has it (HEAD)");
    assert_eq!(node.states(), [State::Ready]);
    store.clear_faults();
    node.wait_until_empty();
}

#[test]
fn a_dump_in_trouble_of_its_own_holds_up_no_other() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let linked = node.dump(10);
    fs::hard_link(node.spool().path(&linked), node.path("another name")).unwrap();
    let daemon = node.start();
    daemon.wait_for_log("is not a plain file");
    let good = node.dump(10);
    wait_for("the good one", PATIENCE, || store.objects(BUCKET).contains(&key(&good)).then_some(()));
    assert_eq!(store.objects(BUCKET).len(), 1);
}

#[test]
fn on_sigterm_what_is_in_flight_is_finished() {
    let store = Store::temporary(BUCKET);
    let node = Node::new(&s3(&store, "part_size: 5MiB\ngrace: 60s\n"));
    let entry = node.dump(11 << 20);
    store.set_faults(|request| {
        (request.operation() == Operation::UploadPart).then_some(Fault::Delay(Duration::from_millis(300)))
    });
    let daemon = node.start();
    wait_for("the first part", PATIENCE, || {
        store.requests().iter().any(|request| request.operation() == Operation::UploadPart).then_some(())
    });
    daemon.terminate();
    assert!(daemon.wait());
    assert_eq!(store.objects(BUCKET), [key(&entry)]);
    assert!(node.states().is_empty());
}

#[test]
fn on_sigterm_what_takes_too_long_is_broken_off_and_left_to_the_next_start() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(11 << 20);
    store.set_faults(|request| (request.part() == Some(2)).then_some(Fault::Hang));
    let daemon = node.start();
    wait_for("the second part", PATIENCE, || {
        store.requests().iter().any(|request| request.part() == Some(2)).then_some(())
    });
    let began = Instant::now();
    daemon.terminate();
    assert!(daemon.wait());
    assert!(began.elapsed() > Duration::from_secs(1), "there is a grace period of two seconds");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(store.open_uploads(), 1, "its parts are left");
    assert_eq!(node.states(), [State::Ready]);
    store.clear_faults();
    let _daemon = node.start();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET), [key(&entry)], "at the same key");
    assert_eq!(parts(&store), [1, 2, 2, 3]);
}

#[test]
fn a_dump_that_is_removed_by_hand_meanwhile_is_no_accident() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(11 << 20);
    store.set_faults(first(Operation::CreateUpload, 1, Fault::Delay(Duration::from_secs(1))));
    let daemon = node.start();
    let begun = |request: &Request| request.operation() == Operation::CreateUpload;
    wait_for("the upload", PATIENCE, || store.requests().iter().any(begun).then_some(()));
    fs::remove_file(node.spool().path(&entry)).unwrap();
    daemon.wait_for_log("somebody removed it");
    node.dump(10);
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET).len(), 2);
}

#[test]
fn a_store_that_is_down_is_asked_less_and_less_often_and_then_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path()).unwrap();
    store.create_bucket(BUCKET).unwrap();
    let addr = store.addr();
    let node = Node::new(&s3(&store, "parallel: 4\n"));
    let tries = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&tries);
    store.set_faults(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(Fault::error(503, "ServiceUnavailable"))
    });
    (0..20).for_each(|_| drop(node.dump(10)));
    let began = Instant::now();
    let daemon = node.start();
    wait_for("three rounds of attempts", PATIENCE, || (tries.load(Ordering::Relaxed) >= 12).then_some(()));
    assert!(began.elapsed() >= Duration::from_secs(3), "one and two seconds at least lie between them");
    drop(store);
    daemon.wait_for_log("Connection refused");
    let store = Store::start_at(dir.path(), addr).unwrap();
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET).len(), 20);
}
