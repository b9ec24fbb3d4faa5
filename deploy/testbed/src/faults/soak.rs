//! One uploader ships one crash after the other.

use std::fs;
use std::path::PathBuf;
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
const MIB: usize = 1;
const PATIENCE: Duration = Duration::from_secs(240);

/// What a daemon has of a machine.
#[derive(Clone, Copy)]
struct Usage {
    descriptors: usize,
    threads: usize,
    kib: usize,
}

/// What it may have more of when it is at its work than it was seen to have
/// before: another connection and file, another thread that reads for them.
const MORE: Usage = Usage { descriptors: 8, threads: 8, kib: 8 << 10 };

impl Usage {
    fn of(pid: u32) -> Usage {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(dir.join("status")).expect("the daemon lives");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let descriptors = fs::read_dir(dir.join("fd")).expect("the daemon lives").count();
        Usage { descriptors, threads: number("Threads:"), kib: number("VmRSS:") }
    }

    /// The most of each.
    fn most(usages: &[Usage]) -> Usage {
        let most = |of: fn(&Usage) -> usize| usages.iter().map(of).max().unwrap_or(0);
        Usage { descriptors: most(|u| u.descriptors), threads: most(|u| u.threads), kib: most(|u| u.kib) }
    }
}

/// So many processes crash, one after the other, and are shipped by the same
/// uploader, which must need no more in the second half than at the end of the
/// first.
pub fn in_a_row(crashes: usize) -> Tally {
    let (kernel, node, store) = (Kernel::lock(), Node::new(""), Store::temporary(BUCKET));
    node.install();
    node.upload_to(&store, BUCKET, "listen: 127.0.0.1:0\n");
    let uploader = Uploader::start(&node);
    let memory = Memory { fill: Fill::Mixed, length: MIB << 20 };
    let mut tally = Tally { case: "soak", runs: crashes, ..Tally::default() };
    let (mut victims, mut usages) = (Vec::new(), Vec::new());
    for _ in 0..crashes {
        let crasher = Crasher::start(["--heap-mb", &MIB.to_string(), "--fill", &memory.fill.to_string()]);
        victims.push((crasher.pid, crasher.address));
        crasher.end();
        usages.push(Usage::of(uploader.pid()));
    }
    wait_for("as many lines", PATIENCE, || (node.journal().len() >= crashes).then_some(()));
    let is_empty =
        || [State::Part, State::Torn, State::Ready].iter().all(|state| node.dumps(*state).is_empty());
    wait_for("an empty spool", PATIENCE, || is_empty().then_some(()));

    let objects = by_pid(store.objects(BUCKET));
    for (pid, address) in victims {
        match objects.get(&pid).map(Vec::as_slice).unwrap_or_default() {
            [key] => match judge(&store.path(BUCKET, key), address, memory) {
                Ok(Kind::Whole) => {}
                Ok(other) => tally.lied.push(format!("{key} is {other:?}")),
                Err(why) => tally.lied.push(format!("{key}: {why}")),
            },
            [] => tally.lost.push(format!("pid {pid}")),
            more => tally.lied.push(format!("{more:?} are of one crash")),
        }
    }
    for series in ["coredump_captured_total{result=\"whole\"}", "coredump_uploads_total{result=\"stored\"}"] {
        // The journal is looked at every few seconds.
        let counted =
            wait_for(series, PATIENCE, || Uploader::metric(&node, series).filter(|n| *n >= crashes));
        if counted != crashes {
            tally.lied.push(format!("{series} is {counted}"));
        }
    }
    let (before, after) = usages.split_at(crashes / 2);
    let [before, after] = [&before[before.len() / 2..], after].map(Usage::most);
    for (what, before, after, more) in [
        ("descriptors", before.descriptors, after.descriptors, MORE.descriptors),
        ("threads", before.threads, after.threads, MORE.threads),
        ("KiB of memory", before.kib, after.kib, MORE.kib),
    ] {
        if after > before + more {
            tally.lied.push(format!("the uploader came to have {after} {what}, and had {before}"));
        }
    }
    tally.notes = format!(
        "the uploader had, in the second quarter and in the second half: {} and {} descriptors, {} and {} threads, {:.1} and {:.1} MiB",
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
        before.kib as f64 / 1024.0,
        after.kib as f64 / 1024.0,
    );
    drop(uploader);
    drop(kernel);
    tally
}
