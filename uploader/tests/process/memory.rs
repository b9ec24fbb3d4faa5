//! What an uploader promises of its memory: 64 MiB, for any dump and any
//! `parallel`.

use std::time::Duration;

use testbed::store::Store;
use testbed::wait_for;

use crate::spool::{BUCKET, Node, s3};

const LIMIT_KIB: u64 = 64 << 10;
const GIGABYTES: Duration = Duration::from_secs(300);

fn peak_of_shipping(store: &Store, settings: &str, dumps: usize, core_bytes: usize) -> u64 {
    let node = Node::new(&s3(store, settings));
    (0..dumps).for_each(|_| drop(node.dump(core_bytes)));
    let daemon = node.start();
    wait_for("the last dump", GIGABYTES, || node.states().is_empty().then_some(()));
    assert_eq!(store.objects(BUCKET).len(), dumps);
    let kib = daemon.peak_memory();
    println!("{dumps} dumps of {core_bytes} bytes: at most {kib} KiB");
    kib
}

#[test]
fn a_gibibyte_in_parts_takes_little_memory() {
    let kib = peak_of_shipping(&Store::temporary(BUCKET), "", 1, 1 << 30);
    assert!(kib < LIMIT_KIB, "{kib} KiB");
}

#[test]
fn as_many_uploads_at_once_as_can_be_asked_for_take_little_memory() {
    // With TLS, which keeps buffers of its own.
    let store = Store::temporary_tls(BUCKET);
    let kib = peak_of_shipping(&store, "parallel: 32\npart_size: 5MiB\n", 40, 12 << 20);
    assert!(kib < LIMIT_KIB, "{kib} KiB");
}
