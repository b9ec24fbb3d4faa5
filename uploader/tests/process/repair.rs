//! Torn dumps: repaired, shipped, and no worse for whatever happens meanwhile.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use protocol::spool::State;
use testbed::store::Store;
use testbed::wait_for;
use zip::ZipArchive;

use crate::spool::{BUCKET, Node, PATIENCE, key};

/// The core in a dump.
fn core(dump: Vec<u8>) -> Vec<u8> {
    let mut core = Vec::new();
    ZipArchive::new(Cursor::new(dump)).unwrap().by_index(0).unwrap().read_to_end(&mut core).unwrap();
    core
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_torn_dump_is_repaired_and_shipped() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let (torn, there) = node.torn(300_000);
    let daemon = node.start();
    node.wait_until_empty();
    assert!(core(store.read(BUCKET, &key(&torn))) == there);
    let log = daemon.log();
    assert!(log.contains("repaired") && log.contains(&format!("core_bytes={}", there.len())), "{log}");
}

#[test]
fn a_torn_dump_in_trouble_is_left_alone_and_the_others_go_on() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let (torn, _) = node.torn(1000);
    // Its place is taken, by what is no dump.
    fs::create_dir(node.spool_dir().join(format!("{}_default_crash_main_SIGSEGV.zip", torn.id()))).unwrap();
    let (other, there) = node.torn(1000);
    let daemon = node.start();
    wait_for("the other one", PATIENCE, || (node.states() == [State::Torn]).then_some(()));
    assert!(core(store.read(BUCKET, &key(&other))) == there);
    let log = daemon.log();
    assert!(log.contains("not repaired: publishing") && log.contains("File exists"), "{log}");
    assert_eq!(log.matches("not repaired").count(), 1, "{log}");
}

#[test]
fn a_disk_that_is_full_costs_a_torn_dump_nothing() {
    let node = Node::new("");
    fs::create_dir(node.path("store")).unwrap();
    node.configure(&format!("store: {{dir: {{path: {}}}}}\n", node.path("store").display()));
    let (torn, there) = node.torn(100_000);
    let before = fs::read(node.spool().path(&torn)).unwrap();
    let failed = node.strace("pwrite64", "error=ENOSPC", &["push"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("No space left on device"), "{}", text(&failed));
    assert_eq!(node.states(), [State::Torn]);
    assert!(before.starts_with(&fs::read(node.spool().path(&torn)).unwrap()));
    assert!(node.run(&["push"]).status.success());
    assert!(core(fs::read(node.path("store").join(key(&torn))).unwrap()) == there);
}

#[test]
fn a_repair_that_is_killed_at_any_system_call_costs_nothing() {
    for syscall in ["ftruncate", "pwrite64", "fchmod", "fsync", "renameat2"] {
        for nth in 1.. {
            let node = Node::new("");
            fs::create_dir(node.path("store")).unwrap();
            node.configure(&format!("store: {{dir: {{path: {}}}}}\n", node.path("store").display()));
            let (torn, there) = node.torn(100_000);
            let killed = node.strace(syscall, &format!("signal=SIGKILL:when={nth}"), &["push"]);
            let at = format!("killed at {syscall} number {nth}: {}", text(&killed));
            if killed.status.success() {
                assert!(nth > 1, "{at}");
                break;
            }
            assert_eq!(killed.status.signal(), Some(9), "{at}");
            let again = node.run(&["push"]);
            assert!(again.status.success(), "{at}, then {}", text(&again));
            let mut dump = fs::read(node.path("store").join(key(&torn))).unwrap();
            assert!(core(dump.clone()) == there, "{at}");
            let mut manifest = String::new();
            let mut zip = ZipArchive::new(Cursor::new(&mut dump)).unwrap();
            zip.by_name(&format!("{}/manifest.json", torn.id()))
                .unwrap()
                .read_to_string(&mut manifest)
                .unwrap();
            assert!(manifest.contains(r#""truncated": "composer_died""#), "{at}: {manifest}");
        }
    }
}
