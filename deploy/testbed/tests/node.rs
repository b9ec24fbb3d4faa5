//! The node has what a test looks for in it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use protocol::argv::CorePattern;
use protocol::host::{COMPOSER, HostPath};
use protocol::spool::{DumpId, Hint, Spool, State};
use testbed::node::Node;
use testbed::store::Store;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const ID: &str = "20261122T193101Z-28763-9f3a61c2";

#[test]
fn a_ready_dump_can_be_looked_into() {
    let node = Node::new("");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/tests/golden/manifest-1.json");
    let spool = Spool::open(node.spool_dir()).unwrap();
    let part = spool.create(DumpId::try_from(ID.to_owned()).unwrap()).unwrap();
    let mut zip = ZipWriter::new(part.file());
    for (name, bytes) in [("core", &b"ELF"[..]), ("manifest.json", &fs::read(golden).unwrap())] {
        zip.start_file(format!("{ID}/{name}"), SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    assert_eq!(node.dumps(State::Part).len(), 1);
    part.publish(Hint::default()).unwrap();

    let ready = node.wait_for_ready(1, Duration::ZERO);
    let mut dump = node.open(&ready[0]);
    assert_eq!(dump.names(), ["core", "manifest.json"]);
    assert_eq!(dump.entry("core"), b"ELF");
    assert_eq!(dump.manifest().version, 1);
}

#[test]
fn a_node_is_near_enough_for_the_pattern_and_gone_in_the_end() {
    let node = Node::new("composer: {compression: store}\n");
    let composer = HostPath::try_from(node.host_dir().to_str().unwrap()).unwrap().join(COMPOSER);
    assert!(CorePattern::piping_to(&composer).is_ok());
    assert!(fs::read_to_string(node.installer_yaml()).unwrap().ends_with(", compression: store}\n"));
    let store = Store::temporary("dumps");
    node.upload_to(&store, "dumps", "parallel: 1\n");
    let uploader = fs::read_to_string(node.uploader_yaml()).unwrap();
    assert!(uploader.contains(&store.endpoint()) && uploader.ends_with("parallel: 1\n"), "{uploader}");
    let path = node.path().to_owned();
    drop(node);
    assert!(!path.exists());
}
