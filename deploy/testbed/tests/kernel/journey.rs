//! All of it: from a crash to an object.

use std::fs;

use protocol::spool::State;
use testbed::node::Dump;
use testbed::store::{Operation, Store};
use testbed::wait_for;

use crate::{Collecting, PATIENCE, Running, unzip_approves};
use testbed::crash::Crasher;

#[test]
fn a_crash_becomes_a_verified_object_and_the_local_dump_goes() {
    let store = Store::temporary("dumps");
    let collecting = Collecting::new("");
    let node = &collecting.node;
    node.upload_to(&store, "dumps", "");
    let uploader = Running::start(node.uploader(["run"]));
    let crasher = Crasher::start(["--heap-mb", "40", "--fill", "random"]);
    let pid = crasher.pid;
    crasher.crash();
    let key = wait_for("an object", PATIENCE, || store.objects("dumps").pop());
    wait_for("the local dump to go", PATIENCE, || node.dumps(State::Ready).is_empty().then_some(()));
    assert!(uploader.terminate().contains("uploaded dump="));

    let object = store.path("dumps", &key);
    unzip_approves(&object);
    let mut dump = Dump::open(&object);
    let manifest = dump.manifest();
    assert_eq!(manifest.crash.pid, Some(pid));
    assert_eq!(key, format!("_/_/{}.zip", manifest.id));
    assert_eq!(dump.entry("core").len() as u64, manifest.core.bytes);
    let metadata = store.metadata("dumps", &key);
    assert_eq!(metadata["id"], manifest.id.as_str());
    assert_eq!(metadata["signal"], "SIGSEGV");
    assert_eq!(
        metadata["exe"],
        fs::canonicalize(env!("CARGO_BIN_EXE_crasher")).unwrap().display().to_string()
    );
    let operations: Vec<_> = store.requests().iter().map(|request| request.operation()).collect();
    assert!(operations.contains(&Operation::CompleteUpload), "{operations:?}");
    assert_eq!(operations.last(), Some(&Operation::HeadObject), "{operations:?}");
    assert_eq!(store.open_uploads(), 0);
}
