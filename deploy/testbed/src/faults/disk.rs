//! The disk that the spool is on fails, in each of the ways in which one can.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use protocol::journal::Outcome;
use protocol::spool::{Entry, State};

use super::Tally;
use super::daemon::Uploader;
use super::dump::{self, judge};
use super::kill::{age_parts, by_pid, composers};
use super::volume::{Kind, Volume, free};
use crate::crash::Crasher;
use crate::kernel::{Kernel, Log};
use crate::memory::{Fill, Memory};
use crate::node::Node;
use crate::store::{Fault, Store};
use crate::wait_for;

const BUCKET: &str = "dumps";
const MIB: u64 = 1 << 20;
/// Of each file system.
const KEEP_FREE: u64 = 16 * MIB;
/// By so much it may be missed.
const BLOCK: u64 = MIB / 4;
/// More than is written before anything is noticed; and when that is done to a
/// disk which is done to it in the middle.
const LARGE: u64 = 64;
const MIDDLE: u64 = 8 * MIB;
const SMALL: u64 = 4;
/// More than there are lines in a block of the journal.
const REFUSED: usize = 20;
/// Longer than the uploader leaves a dump alone that could not be deleted.
const PATIENCE: Duration = Duration::from_secs(240);

/// What is done to which kinds of file systems, and undone.
type Case = (&'static str, &'static [Kind], fn(&mut Harmed));

const CASES: [Case; 8] = [
    ("disk: full", &[Kind::Ext4, Kind::Xfs], full),
    ("disk: too small", &[Kind::Ext4, Kind::Xfs], too_small),
    ("disk: fills meanwhile", &[Kind::Ext4, Kind::Xfs], fills_meanwhile),
    ("disk: read-only", &[Kind::Ext4], read_only),
    ("disk: read-only meanwhile", &[Kind::Ext4], read_only_meanwhile),
    ("disk: EIO", &[Kind::Xfs], stops_meanwhile),
    ("disk: EIO when synced", &[Kind::Ext4, Kind::Unjournaled], takes_nothing_meanwhile),
    ("disk: quota", &[Kind::Btrfs], quota),
];

/// Some of them, for a short form.
const BRIEF: [Case; 2] = [("disk: full", &[Kind::Ext4], full), ("disk: too small", &[Kind::Xfs], too_small)];

/// Each fault on each kind of file system that this kernel has, one after the
/// other; and then it is waited until all nodes have recovered, by themselves.
pub fn disk_fails() -> Vec<Tally> {
    each(&CASES)
}

/// A short form: what is most likely.
pub fn disk_fails_briefly() -> Vec<Tally> {
    each(&BRIEF)
}

fn each(cases: &[Case]) -> Vec<Tally> {
    let all_suffer = |&(case, kinds, harm): &Case| {
        let (known, unknown): (Vec<Kind>, Vec<Kind>) = kinds.iter().partition(|kind| kind.is_known());
        let harmed: Vec<_> = known.into_iter().map(|kind| suffer(kind, harm)).collect();
        (case, harmed, unknown)
    };
    let suffered: Vec<_> = cases.iter().map(all_suffer).collect();
    let row = |(case, harmed, unknown): (_, Vec<Harmed>, Vec<Kind>)| {
        let mut tally = Tally { case, ..Tally::default() };
        let mut notes: Vec<_> = harmed.into_iter().map(|harmed| harmed.recover(&mut tally)).collect();
        notes.extend(unknown.iter().map(|kind| format!("this kernel has no {}", kind.name())));
        tally.notes = notes.join("; ");
        tally
    };
    suffered.into_iter().map(row).collect()
}

/// One fault, and a crash when it is over.
fn suffer(kind: Kind, harm: fn(&mut Harmed)) -> Harmed {
    let mut harmed = Harmed::new(kind);
    harm(&mut harmed);
    age_parts(&harmed.node);
    harmed.crash(SMALL);
    harmed.crashes.last_mut().expect("the last one").is_after = true;
    harmed.kernel = None;
    harmed
}

/// There is less than has to stay free, and then nothing at all.
fn full(harmed: &mut Harmed) {
    harmed.volume.leave(KEEP_FREE + MIB);
    harmed.crash(SMALL);
    harmed.volume.fill();
    (0..REFUSED).for_each(|_| harmed.crash(SMALL));
    harmed.volume.empty();
}

/// There is room for some of a core.
fn too_small(harmed: &mut Harmed) {
    harmed.volume.leave(KEEP_FREE + 24 * MIB);
    let (over, spool_dir) = (AtomicBool::new(false), harmed.node.spool_dir());
    let least = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut least = free(&spool_dir);
            while !over.load(Ordering::Relaxed) {
                least = least.min(free(&spool_dir));
                thread::sleep(Duration::from_millis(1));
            }
            least
        });
        harmed.crash(LARGE);
        harmed.crash(LARGE);
        over.store(true, Ordering::Relaxed);
        watch.join().expect("the watch")
    });
    harmed.volume.empty();
    if least + BLOCK < KEEP_FREE {
        harmed.lied.push(format!("{least} bytes stayed free, not {KEEP_FREE}"));
    }
    harmed.says = format!(", at least {:.1} of {} MiB free", least as f64 / MIB as f64, KEEP_FREE / MIB);
}

/// Somebody else takes what is left while a core is written.
fn fills_meanwhile(harmed: &mut Harmed) {
    harmed.crash_while(Volume::fill);
    harmed.volume.empty();
}

/// A dump that is there can be uploaded, but not deleted.
fn read_only(harmed: &mut Harmed) {
    harmed.store.set_faults(|_| Some(Fault::error(503, "SlowDown")));
    harmed.crash(SMALL);
    harmed.volume.set("ro");
    harmed.store.clear_faults();
    harmed.crash(SMALL);
    wait_for("an object from a disk that is read-only", PATIENCE, || harmed.store.objects(BUCKET).pop());
    harmed.volume.set("rw");
}

/// As ext4 becomes after an error.
fn read_only_meanwhile(harmed: &mut Harmed) {
    harmed.crash_while(|volume| volume.set("abort"));
    harmed.crash(SMALL);
    harmed.volume.remount();
}

/// As XFS does.
fn stops_meanwhile(harmed: &mut Harmed) {
    harmed.crash_while(Volume::shut_down);
    harmed.crash(SMALL);
    harmed.volume.remount();
}

/// What was written is in memory and not on the disk. It is repaired while it can
/// still be read, and uploaded when it cannot.
fn takes_nothing_meanwhile(harmed: &mut Harmed) {
    harmed.store.set_faults(|_| Some(Fault::error(503, "SlowDown")));
    harmed.crash_while(Volume::starve);
    harmed.crash(SMALL);
    harmed.volume.feed();
    if harmed.volume.kind() == Kind::Unjournaled {
        age_parts(&harmed.node);
        harmed.crash(SMALL);
        let is_torn = || [State::Part, State::Torn].iter().any(|state| !harmed.node.dumps(*state).is_empty());
        wait_for("the repair", PATIENCE, || (!is_torn()).then_some(()));
    }
    harmed.volume.remount();
    harmed.store.clear_faults();
}

/// It binds root, too.
fn quota(harmed: &mut Harmed) {
    harmed.volume.limit("40M");
    harmed.crash(LARGE);
    harmed.volume.limit("none");
}

/// A node whose disk fails. What comes first goes first.
struct Harmed {
    kernel: Option<Kernel>,
    uploader: Uploader,
    volume: Volume,
    store: Store,
    node: Node,
    log: Log,
    crashes: Vec<Crash>,
    lied: Vec<String>,
    /// For the notes.
    says: String,
}

/// A process that crashed.
struct Crash {
    pid: u32,
    address: u64,
    memory: Memory,
    /// Whether nothing was wrong any more.
    is_after: bool,
}

impl Harmed {
    fn new(kind: Kind) -> Harmed {
        let settings = format!("composer: {{keep_free: {KEEP_FREE}, rate_limit: {{every: 0s}}}}");
        let (kernel, log) = (Kernel::lock(), Log::from_now());
        let (node, store) = (Node::new(&settings), Store::temporary(BUCKET));
        let volume = Volume::new(kind, &node.spool_dir());
        node.install();
        node.upload_to(&store, BUCKET, "part_size: 5MiB\n");
        let uploader = Uploader::start(&node);
        let kernel = Some(kernel);
        let (crashes, lied, says) = (vec![], vec![], String::new());
        Harmed { kernel, uploader, volume, store, node, log, crashes, lied, says }
    }

    /// So many MiB of noise crash.
    fn crash(&mut self, mib: u64) {
        self.crash_and(mib, |_| {});
    }

    /// The same while `harm` is done.
    fn crash_while(&mut self, harm: impl FnOnce(&Volume)) {
        self.crash_and(LARGE, |harmed| {
            let is_large = |part: &Entry| {
                fs::metadata(harmed.node.spool_dir().join(part.to_string()))
                    .is_ok_and(|meta| meta.len() >= MIDDLE)
            };
            wait_for("a part", PATIENCE, || {
                harmed.node.dumps(State::Part).iter().any(is_large).then_some(())
            });
            harm(&harmed.volume);
        });
    }

    fn crash_and(&mut self, mib: u64, meanwhile: impl FnOnce(&Harmed)) {
        let mut crasher = Crasher::start(["--heap-mb", &mib.to_string(), "--fill", "random"]);
        let memory = Memory { fill: Fill::Random, length: (mib * MIB) as usize };
        self.crashes.push(Crash { pid: crasher.pid, address: crasher.address, memory, is_after: false });
        crasher.let_go();
        meanwhile(self);
        crasher.end();
        wait_for("the composer", PATIENCE, || composers(&self.node).is_empty().then_some(()));
    }

    /// Waits until nothing waits any more, and adds what became of all crashes to
    /// `tally`. Returns what there is to say about it.
    fn recover(mut self, tally: &mut Tally) -> String {
        let is_empty = || {
            [State::Part, State::Torn, State::Ready].iter().all(|state| self.node.dumps(*state).is_empty())
        };
        wait_for(&format!("an empty spool ({})", tally.case), PATIENCE, || is_empty().then_some(()));
        self.uploader.kill();
        let mut became: BTreeMap<String, usize> = BTreeMap::new();
        let objects = by_pid(self.store.objects(BUCKET));
        let said = self.log.read();
        for crash in &self.crashes {
            let what = match objects.get(&crash.pid).map(Vec::as_slice).unwrap_or_default() {
                [key] => match judge(&self.store.path(BUCKET, key), crash.address, crash.memory) {
                    Ok(dump::Kind::Whole) => "whole".to_owned(),
                    Ok(dump::Kind::Truncated(reason)) => reason.as_str().to_owned(),
                    Err(why) => {
                        self.lied.push(format!("{key}: {why}"));
                        continue;
                    }
                },
                [] => match self.account(crash.pid, &said) {
                    Some(what) => what,
                    None => {
                        tally.lost.push(format!("{}: pid {}", tally.case, crash.pid));
                        continue;
                    }
                },
                more => {
                    self.lied.push(format!("{more:?} are of one crash"));
                    continue;
                }
            };
            if crash.is_after && what != "whole" {
                self.lied.push(format!("when it was over, pid {} was {what}", crash.pid));
            }
            *became.entry(what).or_default() += 1;
        }
        tally.runs += self.crashes.len();
        if self.store.open_uploads() > 0 {
            self.lied.push(format!("{} uploads in parts are left", self.store.open_uploads()));
        }
        tally.lied.extend(self.lied.into_iter().map(|what| format!("{}: {what}", tally.case)));
        let became: Vec<_> = became.into_iter().map(|(what, times)| format!("{times} {what}")).collect();
        format!("{}: {}{}", self.volume.kind().name(), became.join(", "), self.says)
    }

    /// Who knows of a crash of which there is no object, and what.
    fn account(&self, pid: u32, said: &str) -> Option<String> {
        let id = format!("-{pid}-");
        if let Some(line) = self.node.journal().into_iter().find(|line| line.id.as_str().contains(&id)) {
            return match line.outcome {
                Outcome::Skipped { reason } => Some(format!("skipped ({})", reason.as_str())),
                Outcome::Refused { .. } => Some("refused".to_owned()),
                Outcome::Captured { .. } => None,
            };
        }
        if self.node.dumps(State::Rejected).iter().any(|entry| entry.id().as_str().contains(&id)) {
            return Some("set aside".to_owned());
        }
        let ended = said.lines().any(|line| {
            // Its first words are about any crash.
            line.contains("coredump-composer: ")
                && (line.contains(&id) || line.contains(&format!("no dump of pid {pid}:")))
        });
        ended.then(|| "in the kernel's log alone".to_owned())
    }
}
