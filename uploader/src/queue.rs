//! What to do next, given what is in the spool. Touches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use protocol::spool::{DumpId, Entry, Found, State};

/// A part younger than this is not asked about: see
/// [`is_abandoned`](protocol::spool::is_abandoned).
const NEWBORN: Duration = Duration::from_secs(60);

/// Who does it.
#[derive(Clone, Copy, Debug)]
pub struct Workers {
    /// How many dumps are uploaded at a time.
    pub count: usize,
    /// Up to this many bytes a dump is small.
    pub small: u64,
}

impl Workers {
    /// How many large dumps may be uploaded at a time. If there are two workers
    /// one is kept for small ones, which then never wait for hours behind large
    /// ones.
    fn for_large(self) -> usize {
        self.count.saturating_sub(1).max(1)
    }
}

/// Something to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Put it into the store.
    Upload(Entry),
    /// Find out whether its composer lives; if not, it is torn.
    Examine(Entry),
    /// Make a dump that can be read of it.
    Repair(Entry),
}

/// What is going on, and what has been tried.
#[derive(Debug, Default)]
pub struct Progress {
    /// Dumps that are being uploaded.
    pub busy: BTreeSet<DumpId>,
    /// Whether one is being repaired.
    pub repairing: bool,
    /// How often the upload of a dump has failed.
    pub failures: BTreeMap<DumpId, u32>,
    /// Dumps that are themselves in trouble, and until when they are left alone.
    pub resting: BTreeMap<DumpId, SystemTime>,
}

impl Progress {
    fn rests(&self, id: &DumpId, now: SystemTime) -> bool {
        self.resting.get(id).is_some_and(|until| *until > now)
    }

    /// Forgets dumps that are no longer there.
    pub fn retain(&mut self, found: &[Found]) {
        let there: BTreeSet<_> = found.iter().map(|found| found.entry.id()).collect();
        self.failures.retain(|id, _| there.contains(id));
        self.resting.retain(|id, _| there.contains(id));
    }
}

/// What to do next. One repair at a time, which takes a disk and a processor.
/// Uploads as far as there are `workers`, or none: those that failed least often
/// first, so that no dump stands in the way of the others, and among those the
/// oldest.
pub fn plan(found: &[Found], now: SystemTime, progress: &Progress, workers: Option<Workers>) -> Vec<Step> {
    let mut ready = Vec::new();
    let mut steps = Vec::new();
    let mut torn = None;
    for found @ Found { entry, modified, .. } in found {
        match entry.state() {
            State::Ready if !progress.busy.contains(entry.id()) && !progress.rests(entry.id(), now) => {
                ready.push(found);
            }
            State::Part if now.duration_since(*modified).is_ok_and(|age| age > NEWBORN) => {
                steps.push(Step::Examine(entry.clone()));
            }
            State::Torn if !progress.repairing && !progress.rests(entry.id(), now) => {
                torn.get_or_insert(entry);
            }
            State::Ready | State::Part | State::Torn | State::Rejected | State::Uploaded => {}
        }
    }
    steps.extend(torn.cloned().map(Step::Repair));
    let Some(workers) = workers else { return steps };
    ready.sort_by_key(|found| (progress.failures.get(found.entry.id()), found.entry.id()));
    let large = |found: &Found| found.bytes > workers.small;
    let busy = found.iter().filter(|found| progress.busy.contains(found.entry.id()) && large(found));
    let mut for_large = workers.for_large().saturating_sub(busy.count());
    ready.retain(|found| {
        let goes = !large(found) || for_large > 0;
        for_large -= usize::from(goes && large(found));
        goes
    });
    let free = workers.count.saturating_sub(progress.busy.len());
    steps.extend(ready.into_iter().take(free).map(|found| Step::Upload(found.entry.clone())));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, age: u64) -> Found {
        let entry = Entry::parse(&format!("20261122T193101Z-{name}")).unwrap();
        Found { entry, bytes: 1, modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age) }
    }

    fn large(name: &str) -> Found {
        Found { bytes: 11, ..found(name, 0) }
    }

    fn planned(found: &[Found], progress: &Progress, count: usize) -> Vec<String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let workers = (count > 0).then_some(Workers { count, small: 10 });
        let name = |step| match step {
            Step::Upload(entry) => format!("upload {}", &entry.id().as_str()[17..18]),
            Step::Examine(entry) => format!("examine {}", &entry.id().as_str()[17..18]),
            Step::Repair(entry) => format!("repair {}", &entry.id().as_str()[17..18]),
        };
        plan(found, now, progress, workers).into_iter().map(name).collect()
    }

    #[test]
    fn the_oldest_ready_dumps_go_first_and_not_too_many() {
        let spool = [found("1-00000000.zip", 0), found("2-00000000_x.zip", 0), found("3-00000000.zip", 0)];
        assert_eq!(planned(&spool, &Progress::default(), 2), ["upload 1", "upload 2"]);
        assert_eq!(planned(&spool, &Progress::default(), 0), [""; 0]);
    }

    #[test]
    fn what_is_being_uploaded_is_not_begun_again() {
        let spool = [found("1-00000000.zip", 0), found("2-00000000.zip", 0)];
        let busy = BTreeSet::from([spool[0].entry.id().clone()]);
        let progress = Progress { busy, ..Default::default() };
        assert_eq!(planned(&spool, &progress, 2), ["upload 2"]);
        assert_eq!(planned(&spool, &progress, 1), [""; 0]);
    }

    #[test]
    fn large_dumps_leave_a_worker_to_small_ones() {
        let spool = [
            large("1-00000000.zip"),
            large("2-00000000.zip"),
            found("3-00000000.zip", 0),
            large("4-00000000.zip"),
        ];
        let planned = |busy: &[usize], count| {
            let busy = busy.iter().map(|n| spool[n - 1].entry.id().clone()).collect();
            planned(&spool, &Progress { busy, ..Default::default() }, count)
        };
        assert_eq!(planned(&[], 1), ["upload 1"], "one has to do it all");
        assert_eq!(planned(&[], 2), ["upload 1", "upload 3"]);
        assert_eq!(planned(&[1], 2), ["upload 3"]);
        assert_eq!(planned(&[3], 2), ["upload 1"]);
        assert_eq!(planned(&[1, 3], 2), [""; 0]);
        assert_eq!(planned(&[1], 3), ["upload 2", "upload 3"]);
        assert_eq!(planned(&[1, 3], 3), ["upload 2"]);
        assert_eq!(planned(&[], 9), ["upload 1", "upload 2", "upload 3", "upload 4"]);
    }

    #[test]
    fn a_dump_that_keeps_failing_lets_others_pass() {
        let spool = [found("1-00000000.zip", 0), found("2-00000000.zip", 0)];
        let failures = BTreeMap::from([(spool[0].entry.id().clone(), 3)]);
        let mut progress = Progress { failures, ..Default::default() };
        assert_eq!(planned(&spool, &progress, 1), ["upload 2"]);
        progress.retain(&spool[1..]);
        assert!(progress.failures.is_empty());
    }

    #[test]
    fn a_dump_in_trouble_is_left_alone_for_a_while() {
        let spool = [found("1-00000000.zip", 0), found("2-00000000.zip", 0)];
        let until = |seconds| {
            let until = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            Progress { resting: BTreeMap::from([(spool[0].entry.id().clone(), until)]), ..Default::default() }
        };
        assert_eq!(planned(&spool, &until(1001), 2), ["upload 2"]);
        assert_eq!(planned(&spool, &until(1000), 2), ["upload 1", "upload 2"]);
    }

    #[test]
    fn a_part_is_examined_when_it_is_no_newborn() {
        let spool = [found("1-00000000.zip.part", 61), found("2-00000000.zip.part", 59)];
        assert_eq!(planned(&spool, &Progress::default(), 2), ["examine 1"]);
    }

    #[test]
    fn torn_dumps_are_repaired_one_at_a_time() {
        let spool = [found("1-00000000.zip.torn", 0), found("2-00000000.zip.torn", 0)];
        assert_eq!(planned(&spool, &Progress::default(), 0), ["repair 1"], "also while the store is away");
        assert_eq!(planned(&spool, &Progress { repairing: true, ..Default::default() }, 2), [""; 0]);
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1001);
        let resting = BTreeMap::from([(spool[0].entry.id().clone(), until)]);
        assert_eq!(planned(&spool, &Progress { resting, ..Default::default() }, 2), ["repair 2"]);
    }

    #[test]
    fn what_has_to_wait_for_a_person_waits_and_what_was_uploaded_is_not_again() {
        let spool = [found("2-00000000.zip.rejected", 999), found("3-00000000.zip.uploaded", 999)];
        assert_eq!(planned(&spool, &Progress::default(), 2), [""; 0]);
    }
}
