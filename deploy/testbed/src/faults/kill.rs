//! Composers and uploaders are killed at any moment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::host::COMPOSER;
use protocol::journal::{Line, Outcome};
use protocol::manifest::Truncation;
use protocol::spool::{DumpId, State};

use super::Tally;
use super::daemon::Uploader;
use super::dump::{Kind, judge};
use crate::crash::Crasher;
use crate::kernel::Kernel;
use crate::memory::{Fill, Memory, noise};
use crate::node::Node;
use crate::store::Store;
use crate::wait_for;

const BUCKET: &str = "dumps";
const FILLS: [Fill; 4] = [Fill::Mixed, Fill::Random, Fill::Pattern, Fill::Zero];
/// The largest of the processes, in MiB, and how long after its crash the last
/// kill may come, in ms: when the last of its core is being compressed.
const MOST_MIB: u64 = 24;
const LATEST_MS: u64 = 120;
/// An uploader does not ask about a part that is younger than a minute.
const OLD: Duration = Duration::from_secs(120);
/// Longer than the uploader leaves a dump alone that somebody else may have.
const PATIENCE: Duration = Duration::from_secs(240);

/// A process that crashed, and what was done to those who took care of it.
struct Crash {
    pid: u32,
    address: u64,
    memory: Memory,
    composer_killed: bool,
    /// Whether there was a part, or a dump, after that.
    begun: bool,
}

/// Crashes so many processes of random size and content, and kills their
/// composers, the uploader, or both, at random moments; then lets the uploader
/// do its work, and counts. `seed` makes the same moments again, as far as
/// moments can be the same.
pub fn kill_anywhere(runs: usize, seed: u64) -> Tally {
    let (kernel, node, store) = (Kernel::lock(), Node::new(""), Store::temporary(BUCKET));
    node.install();
    node.upload_to(&store, BUCKET, "part_size: 5MiB\n");
    let mut uploader = Uploader::start(&node);
    let mut crashes = Vec::new();
    for run in 0..runs as u64 {
        let mut dice = Dice(seed.wrapping_add(run << 20));
        crashes.push(crash(&node, &mut uploader, &mut dice));
    }
    wait_for("the composers", PATIENCE, || composers(&node).is_empty().then_some(()));
    uploader.kill();
    age_parts(&node);
    let uploader = Uploader::start(&node);
    let is_empty =
        || [State::Part, State::Torn, State::Ready].iter().all(|state| node.dumps(*state).is_empty());
    wait_for("an empty spool", PATIENCE, || is_empty().then_some(()));
    drop(uploader);
    let tally = count(&node, &store, &crashes);
    drop(kernel);
    tally
}

/// One crash, and one kill.
fn crash(node: &Node, uploader: &mut Uploader, dice: &mut Dice) -> Crash {
    let mib = 1 + dice.roll(MOST_MIB) as usize;
    let fill = FILLS[dice.roll(FILLS.len() as u64) as usize];
    let mut crasher = Crasher::start(["--heap-mb", &mib.to_string(), "--fill", &fill.to_string()]);
    let (pid, address) = (crasher.pid, crasher.address);
    crasher.let_go();
    let [whom, when] = [dice.roll(3), dice.roll(1000 * LATEST_MS)];
    thread::sleep(Duration::from_micros(when));
    let mut composer_killed = false;
    if whom != 0 {
        // Not that of the crash before, which may not have ended yet.
        let its = format!("P{pid}");
        let is_its = |composer: &Pid| {
            fs::read(format!("/proc/{composer}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|arg| arg == its.as_bytes()))
        };
        for composer in composers(node).into_iter().filter(is_its) {
            composer_killed |= kill(composer, Signal::SIGKILL).is_ok();
        }
    }
    if whom != 1 {
        uploader.kill();
        *uploader = Uploader::start(node);
    }
    crasher.end();
    let dumps = node.spool().list().expect("the spool can be listed");
    let begun = dumps.iter().any(|found| is_of(found.entry.id(), pid));
    Crash { pid, address, memory: Memory { fill, length: mib << 20 }, composer_killed, begun }
}

/// What became of all of them.
fn count(node: &Node, store: &Store, crashes: &[Crash]) -> Tally {
    let mut tally = Tally { case: "kill anywhere", runs: crashes.len(), ..Tally::default() };
    let (mut whole, mut truncated, mut counted, mut unbegun) = (0, 0, 0, 0);
    let objects = by_pid(store.objects(BUCKET));
    let journal = node.journal();
    for Crash { pid, address, memory, composer_killed, begun } in crashes {
        let line = journal.iter().find(|line| is_of(&line.id, *pid));
        match objects.get(pid).map(Vec::as_slice).unwrap_or_default() {
            [key] => match judge(&store.path(BUCKET, key), *address, *memory) {
                // One that is killed when it has published says nothing of it.
                Ok(kind)
                    if line.is_none()
                        && (kind == Kind::Truncated(Truncation::ComposerDied) || !composer_killed) =>
                {
                    tally.lost.push(format!("{key} in the journal"));
                }
                Ok(Kind::Whole) => whole += 1,
                Ok(Kind::Truncated(_)) => truncated += 1,
                Err(why) => tally.lied.push(format!("{key}: {why}")),
            },
            [] if line.is_some_and(|line| !is_captured(line)) => counted += 1,
            [] if *composer_killed && !begun => unbegun += 1,
            [] => tally.lost.push(format!("pid {pid}")),
            more => tally.lied.push(format!("{more:?} are of one crash")),
        }
    }
    match store.open_uploads() {
        0 => {}
        left => tally.lied.push(format!("{left} uploads in parts are left")),
    }
    tally.notes = format!(
        "{whole} whole, {truncated} truncated, {counted} refused or removed, {unbegun} whose composer was killed before there was a dump",
    );
    tally
}

fn is_of(id: &DumpId, pid: u32) -> bool {
    id.as_str().contains(&format!("Z-{pid}-"))
}

fn is_captured(line: &Line) -> bool {
    matches!(line.outcome, Outcome::Captured { .. })
}

/// Makes parts old enough for the uploader to ask whether their composers live.
pub(super) fn age_parts(node: &Node) {
    for part in node.dumps(State::Part) {
        let file = File::options().append(true).open(node.spool_dir().join(part.to_string()));
        file.and_then(|file| file.set_modified(SystemTime::now() - OLD)).expect("ageing a part");
    }
}

/// Keys, by the pid in the id that they end with.
pub(super) fn by_pid(keys: Vec<String>) -> BTreeMap<u32, Vec<String>> {
    let mut pids: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for key in keys {
        let id =
            key.rsplit('/').next().and_then(|name| name.strip_suffix(".zip")).unwrap_or_default().to_owned();
        let id = DumpId::try_from(id).expect("a key ends with an id");
        let pid = id.as_str().split('-').nth(1).and_then(|pid| pid.parse().ok()).expect("an id has a pid");
        pids.entry(pid).or_default().push(key);
    }
    pids
}

/// The composers of `node` that are alive.
pub(super) fn composers(node: &Node) -> Vec<Pid> {
    let composer = node.host_dir().join(COMPOSER);
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == composer);
    pids.filter(ours).map(Pid::from_raw).collect()
}

/// Numbers that are random, and the same for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// From 0 to below `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        noise(self.0) % sides
    }
}
