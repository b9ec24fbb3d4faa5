//! Dumps that may not be as large as they would be.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::statvfs::statvfs;
use protocol::journal::{Line, Outcome, Skip};
use protocol::manifest::Truncation;
use protocol::spool::State;
use testbed::elf;
use testbed::memory::{Fill, Memory};
use testbed::node;
use testbed::wait_for;

use crate::{Collecting, Mounted, PATIENCE, unzip_approves};
use testbed::crash::Crasher;

const MIB: u64 = 1 << 20;
/// What a limit may be missed by: a block, and what is said about the core.
const SLACK: u64 = 5 * MIB;

/// Crashes a process with 64 MiB of noise, and lets go of it.
fn crash() -> u64 {
    let crasher = Crasher::start(["--heap-mb", "64", "--fill", "random"]);
    let address = crasher.address;
    let ended = crasher.end();
    assert!(ended.signal().is_some(), "{ended}");
    address
}

/// That the one dump is readable, ends for this reason, and has what it has of
/// the process's memory right. Returns its size and the core's.
fn is_good_as_far_as_it_goes(collecting: &Collecting, address: u64, reason: &Truncation) -> (u64, u64) {
    let mut dump = collecting.dump();
    let entry = collecting.node.dumps(State::Ready).remove(0);
    let file = collecting.node.spool_dir().join(entry.to_string());
    let manifest = dump.manifest();
    assert_eq!(manifest.core.truncated.as_ref(), Some(reason));
    assert_eq!(manifest.problems, [""; 0]);
    assert!(manifest.core.expected_bytes.unwrap() > 64 * MIB);
    assert!(!dump.entry("proc/maps").is_empty());
    let core = dump.entry("core");
    assert_eq!(core.len() as u64, manifest.core.bytes);
    unzip_approves(&file);

    let segments = elf::segments(&mut std::io::Cursor::new(&core)).unwrap();
    let memory = segments
        .iter()
        .find(|segment| segment.address <= address && address < segment.address + segment.length);
    let memory = memory.expect("it is mapped");
    let begin = (memory.offset + address - memory.address) as usize;
    let there = core.get(begin..).unwrap_or_default();
    let there = &there[..there.len().min(64 << 20)];
    let mut expected = vec![0; there.len()];
    Memory { fill: Fill::Random, length: 64 << 20 }.read_at(0, &mut expected);
    assert!(there == expected, "what there is of the memory is not what it was");
    (fs::metadata(file).unwrap().len(), manifest.core.bytes)
}

fn only_line(collecting: &Collecting) -> Line {
    let journal = collecting.node.spool_dir().join("crashes.jsonl");
    let text = wait_for("the journal", PATIENCE, || {
        fs::read_to_string(&journal).ok().filter(|text| text.ends_with('\n'))
    });
    serde_json::from_str(text.trim()).unwrap()
}

#[test]
fn a_core_has_at_most_as_many_bytes_as_it_may() {
    let collecting = Collecting::new("composer: {max_core_bytes: 9999999}");
    let address = crash();
    let (_, core) = is_good_as_far_as_it_goes(&collecting, address, &Truncation::SizeLimit);
    assert_eq!(core, 9_999_999);
    let outcome = only_line(&collecting).outcome;
    assert!(
        matches!(outcome, Outcome::Captured { truncated: Some(Truncation::SizeLimit), .. }),
        "{outcome:?}"
    );
}

#[test]
fn a_spool_takes_no_more_than_it_may_and_then_nothing() {
    for compression in ["deflate", "zstd", "store"] {
        let settings = format!("composer: {{spool_max_bytes: 20MiB, compression: {compression}}}");
        let collecting = Collecting::new(&settings);
        let address = crash();
        let dump = match compression {
            "zstd" => wait_for("the dump", PATIENCE, || {
                let ready = collecting.node.dumps(State::Ready).pop()?;
                Some(fs::metadata(collecting.node.spool_dir().join(ready.to_string())).unwrap().len())
            }),
            _ => is_good_as_far_as_it_goes(&collecting, address, &Truncation::SpoolFull).0,
        };
        let held_back = if compression == "zstd" { 6 * MIB } else { 0 };
        assert!((20 * MIB - SLACK - held_back..=20 * MIB).contains(&dump), "{compression}: {dump}");
        assert!(matches!(
            only_line(&collecting).outcome,
            Outcome::Captured { truncated: Some(Truncation::SpoolFull), .. }
        ));
        // What there is no room for at all is not begun.
        fs::write(collecting.node.spool_dir().join("20261122T193101Z-1-00000000.zip"), vec![1; 4 << 20])
            .unwrap();
        fs::remove_file(collecting.node.spool_dir().join("crashes.jsonl")).unwrap();
        crash();
        assert_eq!(only_line(&collecting).outcome, Outcome::Skipped { reason: Skip::SpoolFull });
        assert_eq!(collecting.node.dumps(State::Ready).len(), 2);
        assert_eq!(collecting.node.dumps(State::Part), []);
    }
}

#[test]
fn what_is_to_stay_free_of_the_disk_stays_free() {
    let collecting = Collecting::new("composer: {keep_free: 40MiB}");
    let spool = collecting.node.spool_dir();
    let mounted = Mounted::tmpfs(&spool, "size=64m,mode=2770");
    let free = || {
        let disk = statvfs(&spool).unwrap();
        disk.blocks_available() * disk.fragment_size()
    };
    let address = crash();
    let (dump, _) = is_good_as_far_as_it_goes(&collecting, address, &Truncation::DiskFull);
    assert!(dump > 10 * MIB, "{dump}");
    let put_away = 24 * MIB / 16;
    assert!((40 * MIB..40 * MIB + SLACK + put_away).contains(&free()), "{}", free());
    only_line(&collecting);
    fs::remove_file(spool.join("crashes.jsonl")).unwrap();
    fs::write(spool.join("a stranger's"), vec![1; (free() - 43 * MIB) as usize]).unwrap();
    crash();
    assert_eq!(only_line(&collecting).outcome, Outcome::Skipped { reason: Skip::DiskFull });
    assert!(free() >= 40 * MIB && collecting.node.dumps(State::Part).is_empty());
    drop(mounted);
}

#[test]
fn copies_of_what_is_uploaded_give_way_to_a_crash() {
    let collecting = Collecting::new("composer: {keep_free: 40MiB, spool_max_bytes: 12MiB}");
    let node = &collecting.node;
    let spool = node.spool_dir();
    let mounted = Mounted::tmpfs(&spool, "size=64m,mode=2770");
    let copies =
        ["20261122T193101Z-1-00000000", "20261122T193101Z-2-00000000", "20261122T193101Z-3-00000000"];
    for id in copies {
        fs::write(spool.join(format!("{id}.zip.uploaded")), vec![1; 10 << 20]).unwrap();
    }
    crash();
    assert_eq!(only_line(&collecting).outcome, Outcome::Skipped { reason: Skip::DiskFull }, "nobody uploads");
    fs::remove_file(spool.join("crashes.jsonl")).unwrap();

    let objects = node.path().join("objects");
    let retention = "retention: {after_upload: keep, keep_free: 50MiB}";
    node.write_uploader_yaml(&format!("store: {{dir: {{path: {}}}}}\n{retention}\n", objects.display()));
    node::run(&mut node.uploader(["push"]));
    let left = node.dumps(State::Uploaded);
    assert_eq!(left.iter().map(|entry| entry.id().as_str()).collect::<Vec<_>>(), copies[2..]);
    crash();
    let outcome = only_line(&collecting).outcome;
    assert!(matches!(outcome, Outcome::Captured { .. }), "{outcome:?}");
    drop(mounted);
}
