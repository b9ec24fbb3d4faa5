//! The memory of those through whom gigabytes go.

use std::fs;
use std::time::Duration;

use protocol::spool::State;

use super::Tally;
use super::daemon::Uploader;
use super::dump::{Kind, judge};
use super::kill::by_pid;
use crate::crash::Crasher;
use crate::kernel::Kernel;
use crate::memory::{Fill, Memory};
use crate::node::Node;
use crate::store::Store;
use crate::wait_for;

const BUCKET: &str = "dumps";
const MEMORY: Memory = Memory { fill: Fill::Mixed, length: 1 << 30 };
const PATIENCE: Duration = Duration::from_secs(300);
/// What an uploader promises to stay below.
const MOST_KIB: u64 = 64 << 10;

/// So many processes of a gibibyte crash, and their dumps, not compressed, are
/// uploaded all at once.
pub fn gibibytes(dumps: usize) -> Tally {
    let settings = "composer: {compression: store}";
    let (kernel, node, store) = (Kernel::lock(), Node::new(settings), Store::temporary(BUCKET));
    node.install();
    // One worker is for what is small.
    node.upload_to(&store, BUCKET, &format!("parallel: {}\n", dumps + 1));
    let mut victims = Vec::new();
    for _ in 0..dumps {
        let crasher = Crasher::start(["--heap-mb", "1024", "--fill", &MEMORY.fill.to_string()]);
        victims.push((crasher.pid, crasher.address));
        crasher.crash();
    }
    node.wait_for_ready(dumps, PATIENCE);
    let mut tally = Tally { case: "gibibytes", runs: dumps, ..Tally::default() };
    let uploader = Uploader::start(&node);
    wait_for("an empty spool", PATIENCE, || node.dumps(State::Ready).is_empty().then_some(()));
    let kib = peak_kib(uploader.pid());
    drop(uploader);
    if kib > MOST_KIB {
        tally.lied.push(format!("the uploader had {kib} KiB of memory"));
    }
    let objects = by_pid(store.objects(BUCKET));
    for (pid, address) in victims {
        match objects.get(&pid).map(Vec::as_slice).unwrap_or_default() {
            [key] => match judge(&store.path(BUCKET, key), address, MEMORY) {
                Ok(Kind::Whole) => {}
                Ok(other) => tally.lied.push(format!("{key} is {other:?}")),
                Err(why) => tally.lied.push(format!("{key}: {why}")),
            },
            [] => tally.lost.push(format!("pid {pid}")),
            more => tally.lied.push(format!("{more:?} are of one crash")),
        }
    }
    tally.notes = format!("the uploader had at most {:.1} MiB", kib as f64 / 1024.0);
    drop(kernel);
    tally
}

fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
