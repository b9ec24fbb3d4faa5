//! What is counted. Labels are words of ours alone: whatever is in the journal,
//! there are no more series than this module knows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use protocol::journal::{Outcome, Skip};
use protocol::manifest::Truncation;
use protocol::spool::{Found, State};

use crate::retention::Reason;
use crate::upload::{Fate, Trouble};

/// Media type of [`Metrics::text`], which Prometheus reads since 2.5.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A reason of a later version, or a stranger's.
const OTHER: &str = "other";
/// What becomes of a crash.
const CRASHES: [&str; 4] = ["whole", "truncated", "skipped", "refused"];
/// What becomes of an upload.
const UPLOADS: [&str; 3] = ["stored", "rejected", "failed"];
/// What becomes of an Event.
const EVENTS: [&str; 3] = ["sent", "dropped", "failed"];
/// From a small dump next door to some gigabytes over a slow link.
const SECONDS: [f64; 10] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0];

type Labels = [(&'static str, &'static str); 1];

/// All metrics.
pub struct Metrics {
    registry: Registry,
    captured: Family<Labels, Counter>,
    truncated: Family<Labels, Counter>,
    skipped: Family<Labels, Counter>,
    uploads: Family<Labels, Counter>,
    upload_bytes: Counter,
    upload_seconds: Histogram,
    expired: Family<Labels, Counter>,
    /// Of Events.
    pub events: EventCounter,
    dumps: Family<Labels, Gauge>,
    bytes: Gauge,
    /// With no labels, and so one value or none.
    oldest: Family<[(&'static str, &'static str); 0], Gauge>,
    owned: Gauge,
}

impl Metrics {
    /// All at zero, but those of crashes, which begin with [`Metrics::resume`].
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("coredump");
        let captured = Family::default();
        let help = "Crashes the kernel handed over, by what became of them";
        registry.register("captured", help, captured.clone());
        let truncated = Family::default();
        registry.register("truncated", "Cores that end before their end, by reason", truncated.clone());
        let skipped = Family::default();
        let help = "Crashes that the settings leave out, or had no room for, by reason";
        registry.register("skipped", help, skipped.clone());
        let uploads = Family::default();
        registry.register("uploads", "Attempts to upload a dump, by result", uploads.clone());
        let upload_bytes = Counter::default();
        registry.register(
            "upload_bytes",
            "Bytes of dumps that the store has confirmed",
            upload_bytes.clone(),
        );
        let upload_seconds = Histogram::new(SECONDS);
        let help = "Time an upload took that succeeded";
        registry.register("upload_duration_seconds", help, upload_seconds.clone());
        let expired = Family::default();
        let help = "Uploaded dumps that were removed from the spool, by reason";
        registry.register("expired", help, expired.clone());
        let events = EventCounter::default();
        registry.register("events", "Events on pods, by what became of them", events.0.clone());
        let dumps = Family::default();
        registry.register("spool_dumps", "Dumps in the spool, by state", dumps.clone());
        let bytes = Gauge::default();
        registry.register("spool_bytes", "Bytes of all dumps in the spool", bytes.clone());
        let oldest = Family::default();
        let help = "When the oldest dump that waits for its upload was written; absent if none does";
        registry.register("spool_oldest_timestamp_seconds", help, oldest.clone());
        let owned = Gauge::default();
        registry.register("core_pattern_owned", "Whether the kernel runs our composer", owned.clone());
        let build = Family::<Labels, Gauge>::default();
        registry.register("build_info", "The version of the uploader", build.clone());
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        for result in UPLOADS {
            drop(uploads.get_or_create(&[("result", result)]));
        }
        for reason in Reason::ALL {
            drop(expired.get_or_create(&[("reason", reason.as_str())]));
        }
        for result in EVENTS {
            drop(events.0.get_or_create(&[("result", result)]));
        }
        Metrics {
            registry,
            captured,
            truncated,
            skipped,
            uploads,
            upload_bytes,
            upload_seconds,
            expired,
            events,
            dumps,
            bytes,
            oldest,
            owned,
        }
    }

    /// Counts a crash.
    pub fn crash(&self, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Captured { truncated: None, .. } => "whole",
            Outcome::Captured { truncated: Some(reason), .. } => {
                let known = Truncation::KNOWN.iter().find(|known| *known == reason);
                count(&self.truncated, "reason", known.map_or(OTHER, Truncation::as_str));
                "truncated"
            }
            Outcome::Skipped { reason } => {
                let known = Skip::KNOWN.iter().find(|known| *known == reason);
                count(&self.skipped, "reason", known.map_or(OTHER, Skip::as_str));
                "skipped"
            }
            Outcome::Refused { .. } => "refused",
        };
        count(&self.captured, "result", result);
    }

    /// Counts an attempt to upload so many bytes.
    pub fn upload(&self, result: &Result<Fate, Trouble>, bytes: u64, time: Duration) {
        let result = match result {
            Ok(Fate::Stored) => {
                self.upload_bytes.inc_by(bytes);
                self.upload_seconds.observe(time.as_secs_f64());
                "stored"
            }
            Ok(Fate::Rejected) => "rejected",
            Ok(Fate::Gone) => return,
            Err(Trouble::Store(_) | Trouble::Dump(_)) => "failed",
        };
        count(&self.uploads, "result", result);
    }

    /// Counts an uploaded dump that had to go.
    pub fn expired(&self, reason: Reason) {
        count(&self.expired, "reason", reason.as_str());
    }

    /// Sets what there is to say about the spool.
    pub fn spool(&self, found: &[Found]) {
        for state in State::ALL {
            let dumps = found.iter().filter(|found| found.entry.state() == state).count();
            self.dumps.get_or_create(&[("state", state.as_str())]).set(signed(dumps as u64));
        }
        self.bytes.set(signed(found.iter().map(|found| found.bytes).sum()));
        // What waits for a person may wait for ever, and hide what is stuck.
        let waits = |found: &&Found| !matches!(found.entry.state(), State::Rejected | State::Uploaded);
        let waiting = found.iter().filter(waits);
        match waiting.filter_map(|found| found.modified.duration_since(SystemTime::UNIX_EPOCH).ok()).min() {
            Some(oldest) => {
                self.oldest.get_or_create(&[]).set(signed(oldest.as_secs()));
            }
            None => self.oldest.clear(),
        }
    }

    /// The text of all metrics, of which one is only known now.
    pub fn text(&self, owned: bool) -> String {
        self.owned.set(owned.into());
        let mut text = String::new();
        let Ok(()) = encode(&mut text, &self.registry) else { unreachable!("a string takes all text") };
        text
    }

    /// The counters of crashes, to be remembered.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.crashes().map(|(name, counter)| (name, counter.get())).collect()
    }

    /// Goes on counting crashes from there. Without this there is no series of
    /// them: one that began at 0 and then jumped would tell of crashes that were
    /// counted long ago.
    pub fn resume(&self, counts: &BTreeMap<String, u64>) {
        for (name, counter) in self.crashes() {
            counter.inc_by(counts.get(&name).copied().unwrap_or(0));
        }
    }

    fn crashes(&self) -> impl Iterator<Item = (String, Counter)> {
        let captured = CRASHES.map(|word| ("captured", &self.captured, "result", word));
        let truncated = Truncation::KNOWN.iter().map(Truncation::as_str).chain([OTHER]);
        let truncated = truncated.map(|word| ("truncated", &self.truncated, "reason", word));
        let skipped = Skip::KNOWN.iter().map(Skip::as_str).chain([OTHER]);
        let skipped = skipped.map(|word| ("skipped", &self.skipped, "reason", word));
        captured.into_iter().chain(truncated).chain(skipped).map(|(name, family, label, word)| {
            (format!("{name}/{word}"), family.get_or_create_owned(&[(label, word)]))
        })
    }
}

/// Counts Events; shared with those who tell and send them.
#[derive(Clone, Default)]
pub struct EventCounter(Family<Labels, Counter>);

impl EventCounter {
    /// The API server has it.
    pub fn sent(&self) {
        count(&self.0, "result", "sent");
    }

    /// There was no room for it.
    pub fn dropped(&self) {
        count(&self.0, "result", "dropped");
    }

    /// The API server did not take it, or was not there.
    pub fn failed(&self) {
        count(&self.0, "result", "failed");
    }
}

fn count(family: &Family<Labels, Counter>, label: &'static str, word: &'static str) {
    family.get_or_create(&[(label, word)]).inc();
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use protocol::spool::Entry;

    use super::*;

    fn captured(truncated: Option<Truncation>) -> Outcome {
        Outcome::Captured { core_bytes: 1, dump_bytes: 1, truncated, held_ms: 1 }
    }

    #[test]
    fn whatever_is_in_the_journal_the_series_are_the_same() {
        let metrics = Metrics::new();
        metrics.resume(&BTreeMap::from([("captured/whole".into(), 7), ("captured/\"x\ny".into(), 9)]));
        let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        let before = series(&metrics.text(true));
        for stranger in ["x\ny", "\"} 1", "other"] {
            metrics.crash(&captured(Some(Truncation::Other(stranger.into()))));
            metrics.crash(&Outcome::Skipped { reason: Skip::Other(stranger.into()) });
            metrics.crash(&Outcome::Refused { reason: stranger.into() });
        }
        metrics.crash(&captured(None));
        let text = metrics.text(true);
        assert_eq!(series(&text), before);
        for line in [
            "coredump_captured_total{result=\"whole\"} 8\n",
            "coredump_captured_total{result=\"truncated\"} 3\n",
            "coredump_captured_total{result=\"skipped\"} 3\n",
            "coredump_captured_total{result=\"refused\"} 3\n",
            "coredump_truncated_total{reason=\"other\"} 3\n",
            "coredump_truncated_total{reason=\"disk_full\"} 0\n",
            "coredump_skipped_total{reason=\"other\"} 3\n",
            "coredump_skipped_total{reason=\"not_a_pod\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn each_reason_is_counted_as_itself_and_remembered() {
        let metrics = Metrics::new();
        Truncation::KNOWN.iter().for_each(|reason| metrics.crash(&captured(Some(reason.clone()))));
        Skip::KNOWN.iter().for_each(|reason| metrics.crash(&Outcome::Skipped { reason: reason.clone() }));
        let counts = metrics.counts();
        let reasons = (Truncation::KNOWN.len() as u64, Skip::KNOWN.len() as u64);
        assert_eq!((counts["captured/truncated"], counts["captured/skipped"]), reasons);
        let ones = counts.values().filter(|count| **count == 1).count();
        assert_eq!(
            (ones as u64, counts["truncated/other"], counts["skipped/other"]),
            (reasons.0 + reasons.1, 0, 0)
        );
        let next = Metrics::new();
        assert!(!next.text(true).contains("coredump_captured_total"), "not before it is known");
        next.resume(&counts);
        assert_eq!(next.counts(), counts);
    }

    #[test]
    fn the_spool_is_what_was_found_and_the_oldest_is_one_that_waits() {
        let found = |name: &str, seconds, bytes| Found {
            entry: Entry::parse(&format!("20261122T193101Z-{name}")).unwrap(),
            bytes,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        };
        let metrics = Metrics::new();
        metrics.spool(&[
            found("1-00000000.zip.rejected", 10, 1),
            found("2-00000000_x.zip", 40, 2),
            found("3-00000000.zip", 30, 3),
            found("4-00000000.zip.part", 50, 4),
            found("5-00000000_x.zip.uploaded", 20, 5),
        ]);
        let text = metrics.text(false);
        for line in [
            "coredump_spool_dumps{state=\"ready\"} 2\n",
            "coredump_spool_dumps{state=\"torn\"} 0\n",
            "coredump_spool_dumps{state=\"uploaded\"} 1\n",
            "coredump_spool_bytes 15\n",
            "coredump_spool_oldest_timestamp_seconds{} 30\n",
            "coredump_core_pattern_owned 0\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        metrics.spool(&[found("1-00000000.zip.rejected", 10, 1), found("5-00000000.zip.uploaded", 20, 5)]);
        assert!(!metrics.text(true).contains("coredump_spool_oldest_timestamp_seconds{"));
    }
}
