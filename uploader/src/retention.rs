//! Which of the uploaded dumps have to go. The store has them: what is left of
//! them is a convenience, and must never cost a new crash its dump. What is in
//! any other state is none of this module's business.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo};
use nix::sys::statvfs::statvfs;
use protocol::settings::{KeepFree, Reader};
use protocol::spool::{DumpId, Entry, Found, Spool, State};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::dump::read_manifest;

/// Longer than a weekend and a holiday.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A tenth of the disk that a small node has.
const DEFAULT_MAX_BYTES: ByteSize = ByteSize::gib(10);

/// What `retention.after_upload` may be.
#[derive(Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum AfterUpload {
    Delete,
    Keep,
}

/// What may stay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Since it was written.
    pub max_age: Duration,
    /// Of all together.
    pub max_bytes: u64,
    /// What is to be free of the spool's disk. More than the composer keeps, or
    /// copies would be in its way.
    pub keep_free: KeepFree,
}

impl Limits {
    /// For what is left from when dumps were kept.
    const NOTHING: Limits = Limits { max_age: Duration::ZERO, max_bytes: 0, keep_free: KeepFree::Bytes(0) };

    /// Takes the mapping `retention`. `None` if nothing is to stay.
    pub fn read(reader: &mut Reader, key: &str) -> Option<Limits> {
        let mut section = reader.section(key)?;
        let keeps = section.or("after_upload", AfterUpload::Delete) == AfterUpload::Keep;
        let limits = keeps.then(|| Limits {
            max_age: max_age(&mut section),
            max_bytes: section.or("max_bytes", DEFAULT_MAX_BYTES).as_u64(),
            keep_free: section.or("keep_free", KeepFree::Auto),
        });
        for key in ["max_age", "max_bytes", "keep_free"] {
            if section.take::<IgnoredAny>(key).is_some() {
                section.reject(key, "is of no use without `after_upload: keep`: nothing is kept");
            }
        }
        reader.absorb(section.done());
        limits
    }

    /// How much of a disk of so many bytes has to be free. By default a twentieth
    /// of it, and at least 2 GiB, more than the composer keeps by default: it
    /// writes for a while before that is noticed.
    fn free(&self, disk: u64) -> u64 {
        match self.keep_free {
            KeepFree::Auto => KeepFree::Auto.bytes(disk) + (disk / 20).max(2 << 30),
            KeepFree::Bytes(bytes) => bytes,
        }
    }
}

/// A number of days, unlike what `SignedDuration` reads.
fn max_age(section: &mut Reader) -> Duration {
    let Some(span) = section.take::<Span>("max_age") else { return DEFAULT_MAX_AGE };
    let age = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|err| err.to_string());
    let age = age.and_then(|age| Duration::try_from(age).map_err(|_| "is negative".to_owned()));
    age.unwrap_or_else(|why| {
        section.reject("max_age", why);
        DEFAULT_MAX_AGE
    })
}

/// Why one has to go.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// It is too old.
    Age,
    /// All together are too large.
    Size,
    /// Their disk is needed.
    Space,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 3] = [Reason::Age, Reason::Size, Reason::Space];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Age => "age",
            Reason::Size => "size",
            Reason::Space => "space",
        }
    }
}

/// Uploaded dumps of one namespace, the oldest first.
#[derive(Default)]
struct Share<'a> {
    bytes: u64,
    dumps: VecDeque<&'a Found>,
}

/// Which uploaded dumps have to go, and why: those that are too old; and then,
/// until the rest is within bounds and `short` more bytes are free, the oldest
/// one of the namespace that has the most, so that one that crashes a lot does
/// not drive out the others. `namespace` is only asked if it matters.
pub fn plan<'a, N: Ord>(
    found: &'a [Found],
    now: SystemTime,
    limits: &Limits,
    short: u64,
    mut namespace: impl FnMut(&Entry) -> N,
) -> Vec<(&'a Found, Reason)> {
    let mut uploaded: Vec<_> = found.iter().filter(|found| found.entry.state() == State::Uploaded).collect();
    uploaded.sort_by_key(|found| (found.modified, found.entry.id()));
    let sum = |dumps: &[&Found]| dumps.iter().map(|found| found.bytes).sum::<u64>();
    let room = sum(&uploaded).saturating_sub(short);
    let too_old = |found: &&Found| now.duration_since(found.modified).is_ok_and(|age| age > limits.max_age);
    let (old, rest): (Vec<_>, Vec<_>) = uploaded.into_iter().partition(too_old);
    let mut expired: Vec<_> = old.into_iter().map(|found| (found, Reason::Age)).collect();
    let mut left = sum(&rest);
    if left <= limits.max_bytes.min(room) {
        return expired;
    }
    let mut shares: BTreeMap<N, Share<'_>> = BTreeMap::new();
    for found in rest {
        let share = shares.entry(namespace(&found.entry)).or_default();
        share.bytes += found.bytes;
        share.dumps.push_back(found);
    }
    while left > limits.max_bytes.min(room) {
        let oldest = |share: &Share<'_>| share.dumps.front().map(|found| Reverse(found.modified));
        let largest = shares.values_mut().max_by_key(|share| (share.bytes, oldest(share)));
        let Some(share) = largest else { break };
        let Some(found) = share.dumps.pop_front() else { break };
        expired.push((found, if left > limits.max_bytes { Reason::Size } else { Reason::Space }));
        share.bytes -= found.bytes;
        left -= found.bytes;
    }
    expired
}

/// What becomes of dumps that the store has.
#[derive(Debug)]
pub struct Retention {
    limits: Option<Limits>,
    /// Of uploaded dumps, as far as they had to be asked for.
    namespaces: Mutex<BTreeMap<DumpId, Option<String>>>,
}

impl Retention {
    /// They stay within `limits`, or are deleted.
    pub fn new(limits: Option<Limits>) -> Retention {
        Retention { limits, namespaces: Mutex::default() }
    }

    /// Whether any stay at all.
    pub fn keeps(&self) -> bool {
        self.limits.is_some()
    }

    /// Removes those that have to go, and tells `removed` why.
    ///
    /// # Errors
    /// If the spool cannot be listed, or some of them cannot be removed.
    pub fn apply(&self, spool: &Spool, mut removed: impl FnMut(Reason)) -> anyhow::Result<()> {
        let dir = spool.dir();
        let found = spool.list().with_context(|| format!("listing the spool {}", dir.display()))?;
        let disk = statvfs(dir).with_context(|| format!("asking what is free of {}", dir.display()))?;
        let limits = self.limits.unwrap_or(Limits::NOTHING);
        let free = disk.blocks_available() * disk.fragment_size();
        let short = limits.free(disk.blocks() * disk.fragment_size()).saturating_sub(free);
        let mut known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let there: BTreeSet<_> = found.iter().map(|found| found.entry.id()).collect();
        known.retain(|id, _| there.contains(id));
        let namespace = |entry: &Entry| {
            known.entry(entry.id().clone()).or_insert_with(|| namespace(spool, entry)).clone()
        };
        let expired = plan(&found, SystemTime::now(), &limits, short, namespace);
        let mut done = Ok(());
        for (Found { entry, bytes, .. }, reason) in expired {
            match fs::remove_file(spool.path(entry)) {
                Ok(()) => {
                    log::info!(dump:% = entry.id(), reason = reason.as_str(), bytes; "removed, the store has it");
                    removed(reason);
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => done = Err(err).with_context(|| format!("removing {entry}")),
            }
        }
        done
    }
}

/// Whose dump it is, by its manifest; those that do not know share.
fn namespace(spool: &Spool, entry: &Entry) -> Option<String> {
    let (_, manifest) = read_manifest(&spool.read(entry).ok()?, entry.id()).ok()?;
    Some(manifest.container.present()?.pod.namespace.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn read(settings: &str) -> Option<Limits> {
        let mut reader = Reader::new(&format!("retention: {{{settings}}}"));
        let limits = Limits::read(&mut reader, "retention");
        assert_eq!(reader.done(), [""; 0], "{settings}");
        limits
    }

    #[test]
    fn what_is_said_is_what_is_kept() {
        assert_eq!(read("after_upload: delete"), None);
        assert_eq!(read(""), None);
        let day = Duration::from_secs(24 * 3600);
        let default = Limits { max_age: 7 * day, max_bytes: 10 << 30, keep_free: KeepFree::Auto };
        assert_eq!(read("after_upload: keep"), Some(default));
        let said = read("after_upload: keep, max_age: 2w 1d, max_bytes: 5MiB, keep_free: 1GiB");
        let meant = Limits { max_age: 15 * day, max_bytes: 5 << 20, keep_free: KeepFree::Bytes(1 << 30) };
        assert_eq!(said, Some(meant));
    }

    #[test]
    fn copies_go_long_before_the_composer_has_no_space() {
        let free = |gib: u64| read("after_upload: keep").unwrap().free(gib << 30) >> 30;
        assert_eq!([10, 20, 40, 80, 400].map(free), [4, 5, 8, 16, 80]);
    }

    /// A dump of this namespace, written so many seconds ago.
    fn found(n: usize, namespace: u8, state: State, bytes: u64, age: u64) -> Found {
        let suffix = match state {
            State::Ready => String::new(),
            state => format!(".{state}"),
        };
        let entry = Entry::parse(&format!("20261122T193101Z-{n}-{namespace:08x}.zip{suffix}")).unwrap();
        Found { entry, bytes, modified: NOW - Duration::from_secs(age) }
    }

    fn uploaded(n: usize, namespace: u8, bytes: u64, age: u64) -> Found {
        found(n, namespace, State::Uploaded, bytes, age)
    }

    fn namespace_of(entry: &Entry) -> u8 {
        entry.id().as_str().rsplit_once('-').unwrap().1.parse().unwrap()
    }

    /// The plan, in words.
    fn planned(found: &[Found], max_age: u64, max_bytes: u64, short: u64) -> Vec<String> {
        let max_age = Duration::from_secs(max_age);
        let limits = Limits { max_age, max_bytes, keep_free: KeepFree::Auto };
        let name = |found: &Found| found.entry.id().as_str().split('-').nth(1).unwrap().to_owned();
        let expired = plan(found, NOW, &limits, short, namespace_of);
        expired.into_iter().map(|(found, why)| format!("{} {}", name(found), why.as_str())).collect()
    }

    #[test]
    fn what_is_too_old_goes_whatever_room_there_is() {
        let spool = [uploaded(1, 1, 5, 101), uploaded(2, 1, 5, 100), found(3, 1, State::Ready, 5, 999)];
        assert_eq!(planned(&spool, 100, 99, 0), ["1 age"]);
        assert_eq!(planned(&spool, 100, 99, 5), ["1 age"], "that is space, too");
        assert_eq!(planned(&spool, 100, 4, 0), ["1 age", "2 size"]);
        let of_the_future = Found { modified: NOW + Duration::from_secs(9), ..uploaded(1, 1, 5, 0) };
        assert_eq!(planned(&[of_the_future], 0, 99, 0), [""; 0]);
    }

    #[test]
    fn who_has_the_most_gives_first() {
        let spool = [
            uploaded(1, 1, 10, 90),
            uploaded(2, 2, 10, 80),
            uploaded(3, 2, 10, 70),
            uploaded(4, 2, 10, 60),
            uploaded(5, 1, 10, 50),
        ];
        assert_eq!(planned(&spool, 100, 50, 0), [""; 0]);
        assert_eq!(planned(&spool, 100, 49, 0), ["2 size"]);
        assert_eq!(
            planned(&spool, 100, 35, 0),
            ["2 size", "1 size"],
            "of equals the one with the older dump"
        );
        assert_eq!(planned(&spool, 100, 0, 0), ["2 size", "1 size", "3 size", "4 size", "5 size"]);
        assert_eq!(planned(&spool, 100, 45, 11), ["2 size", "1 space"]);
        assert_eq!(planned(&spool, 100, 50, u64::MAX).len(), 5);
    }

    proptest! {
        #[test]
        fn no_more_goes_than_has_to_and_only_copies_and_fairly(
            dumps in prop::collection::vec((0..State::ALL.len() + 3, 0..4u8, 0..100u64, 0..100u64), 0..40),
            max_age in 0..120u64, max_bytes in 0..3000u64, short in 0..2000u64,
        ) {
            // Most of them uploaded.
            let state = |n: usize| State::ALL.get(n).copied().unwrap_or(State::Uploaded);
            let spool: Vec<_> = dumps.iter().enumerate().map(|(n, (of, namespace, bytes, age))| {
                found(n, *namespace, state(*of), *bytes, *age)
            }).collect();
            let limits = Limits { max_age: Duration::from_secs(max_age), max_bytes, keep_free: KeepFree::Auto };
            let expired = plan(&spool, NOW, &limits, short, namespace_of);
            let mut kept: Vec<&Found> =
                spool.iter().filter(|found| found.entry.state() == State::Uploaded).collect();
            let sum = |kept: &[&Found]| kept.iter().map(|found| found.bytes).sum::<u64>();
            let room = sum(&kept).saturating_sub(short);
            let too_old = |found: &Found| found.modified < NOW - limits.max_age;
            for (expired, why) in expired {
                let at = kept.iter().position(|found| found.entry == expired.entry);
                prop_assert!(at.is_some(), "{} is no copy, or went before", expired.entry);
                let of = |namespace: u8| -> Vec<&Found> {
                    kept.iter().copied().filter(|found| namespace_of(&found.entry) == namespace).collect()
                };
                let own = of(namespace_of(&expired.entry));
                match why {
                    Reason::Age => prop_assert!(too_old(expired)),
                    _ => {
                        prop_assert_eq!(why == Reason::Size, sum(&kept) > max_bytes);
                        prop_assert!(sum(&kept) > max_bytes.min(room), "not needed");
                        prop_assert!((0..4).all(|other| sum(&of(other)) <= sum(&own)), "unfair");
                        prop_assert!(own.iter().all(|found| found.modified >= expired.modified));
                        prop_assert!(!kept.iter().any(|found| too_old(found)), "too old ones go first");
                    }
                }
                kept.remove(at.unwrap());
            }
            prop_assert!(sum(&kept) <= max_bytes.min(room));
            prop_assert!(!kept.iter().any(|found| too_old(found)));
        }
    }

    #[test]
    fn whose_a_dump_is_is_asked_once_and_only_if_it_matters() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        for n in 0..3 {
            let name = format!("20261122T193101Z-{n}-00000000_no_zip.zip.uploaded");
            fs::write(dir.path().join(name), [0; 10]).unwrap();
        }
        let limits = |max_bytes| Limits {
            max_age: Duration::from_secs(3600),
            max_bytes,
            keep_free: KeepFree::Bytes(0),
        };
        let asked = |retention: &Retention| retention.namespaces.lock().unwrap().len();
        let mut retention = Retention::new(Some(limits(30)));
        retention.apply(&spool, |_| panic!("all may stay")).unwrap();
        assert_eq!(asked(&retention), 0);
        retention.limits = Some(limits(20));
        let mut removed = Vec::new();
        retention.apply(&spool, |why| removed.push(why)).unwrap();
        assert_eq!((removed, asked(&retention), spool.list().unwrap().len()), (vec![Reason::Size], 3, 2));
        retention.apply(&spool, |_| panic!("the others may stay")).unwrap();
        assert_eq!(asked(&retention), 2, "what is gone is forgotten");
    }
}
