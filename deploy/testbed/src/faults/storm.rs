//! Many crashes at once, and many of the same one.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use protocol::journal::{Line, Outcome};
use protocol::spool::State;

use super::Tally;
use super::daemon::Uploader;
use super::dump::{Kind, judge};
use crate::crash::Crasher;
use crate::kernel::{Kernel, Log};
use crate::memory::{Fill, Memory};
use crate::node::Node;
use crate::wait_for;

const MIB: usize = 20;
/// How many dumps one program may have at once.
const BURST: usize = 5;
/// The most that the spool of a crash loop may have: dumps of a MiB, and a journal.
const MOST_BYTES: u64 = (2 * (BURST as u64 + 1)) << 20;
/// How much less memory may be available while so many crash: a composer that
/// waits has hardly any, one that works has at most 32 MiB.
const EACH_MIB: u64 = 4;
const WORKING_MIB: u64 = 16 * 32;
const PATIENCE: Duration = Duration::from_secs(120);

/// So many processes of 20 MiB crash at the same time.
pub fn at_once(processes: usize) -> Tally {
    let (kernel, node) = (Kernel::lock(), Node::new(""));
    node.install();
    let mut crashers: Vec<_> =
        (0..processes).map(|_| Crasher::start(["--heap-mb", &MIB.to_string(), "--fill", "mixed"])).collect();
    let before = available_mib();
    let (over, began) = (AtomicBool::new(false), Instant::now());
    let mut log = Log::from_now();
    let least = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut least = before;
            while !over.load(Ordering::Relaxed) {
                least = least.min(available_mib());
                thread::sleep(Duration::from_millis(20));
            }
            least
        });
        crashers.iter_mut().for_each(Crasher::let_go);
        wait_for("all of them in the journal", PATIENCE, || {
            (node.journal().len() >= processes).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        watch.join().expect("the watch")
    });
    let seconds = began.elapsed().as_secs_f64();
    let crashed: Vec<_> = crashers.into_iter().map(|crasher| (crasher.pid, crasher.address)).collect();
    let mut tally = Tally { case: "storm", runs: processes, ..Tally::default() };
    let (lines, mut whole, mut refused) = (node.journal(), 0, 0);
    for (pid, address) in crashed {
        let Some(line) = lines.iter().find(|line| line.pid == Some(pid)) else {
            tally.lost.push(format!("pid {pid}"));
            continue;
        };
        match &line.outcome {
            Outcome::Captured { .. } => match dump_of(&node, line, address) {
                Ok(Kind::Whole) => whole += 1,
                Ok(kind) => tally.lied.push(format!("pid {pid}: {kind:?}")),
                Err(why) => tally.lied.push(format!("pid {pid}: {why}")),
            },
            Outcome::Skipped { .. } | Outcome::Refused { .. } => refused += 1,
        }
    }
    let skipped = log.read().matches("over core_pipe_limit").count();
    if skipped > 0 {
        tally.lost.push(format!("the kernel skipped {skipped} crashes"));
    }
    let parts = node.dumps(State::Part).len();
    if parts > 0 {
        tally.lied.push(format!("{parts} parts are left"));
    }
    let less = before.saturating_sub(least);
    if less > processes as u64 * EACH_MIB + WORKING_MIB {
        tally.lied.push(format!("{less} MiB less were available"));
    }
    tally.notes =
        format!("{whole} whole, {refused} refused, in {seconds:.1} s; {less} MiB less were available");
    drop(kernel);
    tally
}

/// One program crashes so often, one crash after the other.
pub fn in_a_loop(times: usize) -> Tally {
    let settings = format!("composer: {{keep_free: 64MiB, rate_limit: {{burst: {BURST}, every: 1h}}}}");
    let (kernel, node) = (Kernel::lock(), Node::new(&settings));
    node.install();
    let mut tally = Tally { case: "crash loop", runs: times, ..Tally::default() };
    let mut pids = Vec::new();
    for _ in 0..times {
        let crasher = Crasher::start(["--heap-mb", "1"]);
        pids.push(crasher.pid);
        crasher.end();
        // One after the other, also for who writes it down.
        let pid = pids.last().copied();
        wait_for("its line", PATIENCE, || node.journal().iter().any(|line| line.pid == pid).then_some(()));
    }
    let dumps = node.dumps(State::Ready);
    let allowed = times.min(BURST);
    if dumps.len() != allowed {
        tally.lied.push(format!("there are {} dumps, not {allowed}", dumps.len()));
    }
    let files = fs::read_dir(node.spool_dir()).expect("the spool").flatten();
    let bytes: u64 = files.map(|file| file.metadata().map_or(0, |meta| meta.len())).sum();
    if bytes > MOST_BYTES {
        tally.lied.push(format!("the spool has come to have {bytes} bytes"));
    }
    node.write_uploader_yaml(&format!(
        "store: {{dir: {{path: {}}}}}\nlisten: 127.0.0.1:0\n",
        node.path().join("objects").display()
    ));
    let _uploader = Uploader::start(&node);
    for (series, expected) in [
        ("coredump_captured_total{result=\"whole\"}", allowed),
        ("coredump_skipped_total{reason=\"rate_limit\"}", times - allowed),
    ] {
        let counted =
            wait_for(series, PATIENCE, || Uploader::metric(&node, series).filter(|n| *n >= expected));
        if counted != expected {
            tally.lied.push(format!("{series} is {counted}, and not {expected}"));
        }
    }
    tally.notes = format!(
        "{} dumps, the others counted, also in the metrics; the spool had {} KiB",
        dumps.len(),
        bytes >> 10
    );
    drop(kernel);
    tally
}

fn dump_of(node: &Node, line: &Line, address: u64) -> Result<Kind, String> {
    let ready = node.dumps(State::Ready);
    let entry = ready.iter().find(|entry| *entry.id() == line.id).ok_or("there is no dump")?;
    let memory = Memory { fill: Fill::Mixed, length: MIB << 20 };
    judge(&node.spool_dir().join(entry.to_string()), address, memory)
}

fn available_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("MemAvailable");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}
