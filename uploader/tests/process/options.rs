//! What objects are to be like.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::spool::State;
use testbed::store::{Fault, Operation, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Node, PATIENCE, key, parts, s3_with};

const CUSTOMER_KEY: &str = "x-amz-server-side-encryption-customer-key";

#[test]
fn encryption_storage_class_and_tags_are_said_when_an_object_begins() {
    let store = Store::temporary(BUCKET);
    let about = "sse: {type: kms, kms_key_id: 'arn:aws:kms:eu:1:key/2'}, storage_class: REDUCED_REDUNDANCY, \
                 tags: {team: core dumps, cost: 50%}";
    let node = Node::new(&s3_with(&store, about, "part_size: 5MiB\n"));
    let mut keys = [100, 6 << 20].map(|bytes| key(&node.dump(bytes)));
    let _daemon = node.start();
    node.wait_until_empty();
    keys.sort();
    assert_eq!(store.objects(BUCKET), keys);
    let wanted = [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:eu:1:key/2"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-tagging", "cost=50%25&team=core+dumps"),
    ];
    let mut begun = 0;
    for request in store.requests() {
        let begins = matches!(request.operation(), Operation::PutObject | Operation::CreateUpload);
        begun += usize::from(begins);
        for (name, value) in wanted {
            let said = request.headers.get(name).map(String::as_str);
            assert_eq!(said, begins.then_some(value), "{name} of {:?}", request.operation());
        }
    }
    assert_eq!(begun, 2);
}

/// Writes a key to where settings look for it, and returns those.
fn encrypted(node: &Node, store: &Store, byte: u8) -> String {
    let file = node.path("key");
    fs::write(&file, STANDARD.encode([byte; 32])).unwrap();
    let about = format!("sse: {{type: customer, customer_key_file: {}}}", file.display());
    s3_with(store, &about, "part_size: 5MiB\n")
}

#[test]
fn a_customers_key_goes_with_every_request_about_bytes() {
    let store = Store::temporary_tls(BUCKET);
    let node = Node::new("");
    node.configure(&encrypted(&node, &store, 7));
    let mut keys = [100, 6 << 20].map(|bytes| key(&node.dump(bytes)));
    let _daemon = node.start();
    node.wait_until_empty();
    keys.sort();
    assert_eq!(store.objects(BUCKET), keys);
    assert!(store.requests().len() >= 9);
    for request in store.requests() {
        assert_eq!(request.headers[CUSTOMER_KEY], STANDARD.encode([7; 32]), "{request:?}");
    }
}

#[test]
fn an_upload_in_parts_is_not_gone_on_with_under_another_key() {
    let store = Store::temporary_tls(BUCKET);
    let node = Node::new("");
    node.configure(&encrypted(&node, &store, 7));
    let entry = node.dump(11 << 20);
    store.set_faults(|request| (request.part() == Some(2)).then_some(Fault::Hang));
    let daemon = node.start();
    wait_for("the second part", PATIENCE, || parts(&store).contains(&2).then_some(()));
    daemon.kill();
    assert_eq!(node.states(), [State::Ready]);
    store.clear_faults();
    node.configure(&encrypted(&node, &store, 8));
    let daemon = node.start();
    node.wait_until_empty();
    assert!(daemon.log().contains("cannot be gone on with, it begins anew"), "{}", daemon.log());
    assert_eq!(parts(&store), [1, 2, 1, 2, 3]);
    assert_eq!((store.objects(BUCKET), store.open_uploads()), (vec![key(&entry)], 0));
}
