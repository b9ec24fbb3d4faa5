//! What is to be reached, and whether it was. All of it are ratios within one
//! run, since machines differ and have moods.

use super::handler::Handler::{self, Deflate, Discard, Naive, Raw, Zstd};
use super::results::{Results, Row, Summary, percentile};
use super::victim::Core;

/// The composer's memory.
const PEAK_KIB: u64 = 32 << 10;
/// What it may add to the time that a small crash takes.
const METADATA_MS: f64 = 20.0;

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// Of which core, or `any`.
    pub core: String,
    /// What.
    pub what: String,
    /// Whether.
    pub verdict: Verdict,
}

/// Whether a goal was reached, with what was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Yes.
    Reached(String),
    /// No.
    Missed(String),
    /// No, nor can anyone: it would be less than it takes to read the core.
    OutOfReach(String),
    /// Nobody asked for what it takes to tell.
    Unknown,
}

impl Verdict {
    fn of(reached: bool, measured: String) -> Verdict {
        if reached { Verdict::Reached(measured) } else { Verdict::Missed(measured) }
    }
}

/// All of them.
pub fn judge(results: &Results) -> Vec<Goal> {
    let held = |summary: &Summary| Some(summary.held.median);
    let size = |summary: &Summary| summary.dump_bytes;
    let mut goals = Vec::new();
    for core in [Core::Mixed, Core::Python] {
        let pair = Pair { results, core };
        goals.extend([
            pair.at_least("deflate is 25 times as fast as the naive way", (Naive, Deflate), 25.0, held),
            pair.at_most(
                "deflate holds at most 0.8 times as long as the raw file",
                (Deflate, Raw),
                0.8,
                held,
            ),
            pair.at_most("deflate holds at most 2.2 times as long as discard", (Deflate, Discard), 2.2, held),
            pair.at_most("deflate is at most 12 % larger than the naive way's", (Deflate, Naive), 1.12, size),
            pair.at_most("zstd holds at most 0.9 times as long as the raw file", (Zstd, Raw), 0.9, held),
            pair.below("zstd is smaller than deflate", (Zstd, Deflate), 1.0, size),
        ]);
    }
    let zeros = Pair { results, core: Core::Zeros };
    goals.push(zeros.at_most(
        "deflate holds at most 1.3 times as long as discard",
        (Deflate, Discard),
        1.3,
        held,
    ));
    let random = Pair { results, core: Core::Random };
    goals.push(random.at_most("deflate holds no longer than the raw file", (Deflate, Raw), 1.0, held));
    goals.push(Goal {
        core: "any".to_owned(),
        what: "the composer has at most 32 MiB".to_owned(),
        verdict: memory(results),
    });
    goals.push(Goal {
        core: "small".to_owned(),
        what: format!("metadata adds at most {METADATA_MS} ms at p99"),
        verdict: metadata(results),
    });
    goals
}

/// Whether one was missed.
pub fn missed(goals: &[Goal]) -> bool {
    goals.iter().any(|goal| matches!(goal.verdict, Verdict::Missed(_)))
}

/// Two handlers of the same core.
struct Pair<'a> {
    results: &'a Results,
    core: Core,
}

type Of = fn(&Summary) -> Option<f64>;

impl Pair<'_> {
    fn at_least(&self, what: &str, which: (Handler, Handler), limit: f64, of: Of) -> Goal {
        self.goal(what, which, of, |ratio| ratio >= limit)
    }

    fn at_most(&self, what: &str, which: (Handler, Handler), limit: f64, of: Of) -> Goal {
        let goal = self.goal(what, which, of, |ratio| ratio <= limit);
        match goal.verdict {
            Verdict::Missed(measured) if which.1 == Raw && self.is_out_of_reach(limit) => {
                Goal { verdict: Verdict::OutOfReach(measured), ..goal }
            }
            _ => goal,
        }
    }

    /// Where the page cache takes a core as fast as the kernel hands it over, the
    /// raw file is no slower than discard, and a fraction of it is less.
    fn is_out_of_reach(&self, limit: f64) -> bool {
        match (self.results.row(self.core, Raw), self.results.row(self.core, Discard)) {
            (Some(Row::Measured(raw)), Some(Row::Measured(discard))) => {
                raw.held.median * limit < discard.held.median
            }
            _ => false,
        }
    }

    fn below(&self, what: &str, which: (Handler, Handler), limit: f64, of: Of) -> Goal {
        self.goal(what, which, of, |ratio| ratio < limit)
    }

    fn goal(&self, what: &str, which: (Handler, Handler), of: Of, is_met: impl Fn(f64) -> bool) -> Goal {
        let (a, b) = which;
        let verdict = match (self.results.row(self.core, a), self.results.row(self.core, b)) {
            (Some(Row::Measured(above)), Some(Row::Measured(below))) => match (of(above), of(below)) {
                (Some(above), Some(below)) => {
                    let ratio = above / below;
                    Verdict::of(is_met(ratio), format!("{ratio:.2}"))
                }
                _ => Verdict::Unknown,
            },
            (Some(Row::NotThere(_)), _) | (_, Some(Row::NotThere(_))) => {
                Verdict::Missed("not there yet".to_owned())
            }
            _ => Verdict::Unknown,
        };
        Goal { core: self.core.to_string(), what: what.to_owned(), verdict }
    }
}

fn memory(results: &Results) -> Verdict {
    let ours = results.rows.iter().filter(|(_, handler, _)| handler.ours().is_some());
    let peaks = ours.filter_map(|(core, handler, row)| match row {
        Row::Measured(summary) => Some((summary.peak_kib, *core, *handler)),
        Row::NotThere(_) => None,
    });
    match peaks.max() {
        Some((peak, core, handler)) => {
            let mib = peak as f64 / 1024.0;
            Verdict::of(peak <= PEAK_KIB, format!("{mib:.1} MiB ({core}, {handler})"))
        }
        None => Verdict::Unknown,
    }
}

fn metadata(results: &Results) -> Verdict {
    let p99 = |held: &[f64]| percentile(held.iter().copied(), 99.0);
    let Some(small) = &results.small else { return Verdict::Unknown };
    match (p99(&small.ours), p99(&small.discard)) {
        (Some(ours), Some(discard)) => {
            let ms = (ours - discard) * 1e3;
            Verdict::of(ms <= METADATA_MS, format!("{ms:.1} ms"))
        }
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::handler::Handler::Store;
    use crate::bench::results::{Crash, Small};

    fn measured(held: f64, dump_bytes: Option<u64>, peak_kib: u64) -> Row {
        let crash = Crash { held, core_bytes: 1_000_000, dump_bytes, cpu: held, peak_kib };
        Row::Measured(Summary::of(&[crash]).unwrap())
    }

    /// Everything exactly as good as it has to be.
    fn good_enough() -> Results {
        let mut results = Results::default();
        for core in [Core::Mixed, Core::Python, Core::Zeros, Core::Random] {
            let (deflate, discard) = if core == Core::Zeros { (1.3, 1.0) } else { (2.0, 1.0) };
            let raw = if core == Core::Random { 2.0 } else { 2.5 };
            results.rows.extend([
                (core, Discard, measured(discard, None, 1 << 20)),
                (core, Raw, measured(raw, Some(1_000_000), 1 << 20)),
                (core, Naive, measured(50.0, Some(300_000), 1 << 20)),
                (core, Deflate, measured(deflate, Some(336_000), 32 << 10)),
                (core, Zstd, measured(2.25, Some(335_999), 32 << 10)),
                (core, Store, measured(3.0, Some(1_000_100), 32 << 10)),
            ]);
        }
        results.small = Some(Small { discard: vec![0.25; 200], ours: vec![0.265; 200] });
        results
    }

    fn missed_ones(results: &Results) -> Vec<String> {
        let goals = judge(results).into_iter();
        goals.filter(|goal| missed(std::slice::from_ref(goal))).map(|goal| goal.what).collect()
    }

    #[test]
    fn what_is_good_enough_is_enough() {
        let goals = judge(&good_enough());
        assert_eq!(goals.len(), 16);
        assert!(goals.iter().all(|goal| matches!(goal.verdict, Verdict::Reached(_))), "{goals:?}");
        assert!(!missed(&goals));
    }

    #[test]
    fn a_little_less_is_not() {
        let mut results = good_enough();
        for (core, handler, row) in &mut results.rows {
            match (*core, *handler) {
                (Core::Mixed, Naive) => *row = measured(49.9, Some(300_000), 0),
                (Core::Python, Zstd) => *row = measured(2.26, Some(336_000), 0),
                (Core::Zeros, Deflate) => *row = measured(1.31, Some(1000), 0),
                (Core::Random, Store) => *row = measured(1.0, Some(1000), (32 << 10) + 1),
                _ => {}
            }
        }
        results.small.as_mut().unwrap().ours[..3].fill(0.28);
        let wanted = [
            "deflate is 25 times as fast as the naive way",
            "zstd holds at most 0.9 times as long as the raw file",
            "zstd is smaller than deflate",
            "deflate holds at most 1.3 times as long as discard",
            "the composer has at most 32 MiB",
            "metadata adds at most 20 ms at p99",
        ];
        assert_eq!(missed_ones(&results), wanted);
    }

    #[test]
    fn nobody_is_faster_than_reading() {
        let mut results = good_enough();
        let of_python =
            |handler| move |row: &&mut (Core, Handler, Row)| (row.0, row.1) == (Core::Python, handler);
        for (handler, row) in [
            (Raw, measured(1.1, Some(1_000_000), 0)),
            (Deflate, measured(1.0, Some(336_000), 0)),
            (Zstd, measured(1.0, Some(335_999), 0)),
        ] {
            results.rows.iter_mut().find(of_python(handler)).unwrap().2 = row;
        }
        let out_of_reach = |results: &Results| {
            judge(results).iter().filter(|goal| matches!(goal.verdict, Verdict::OutOfReach(_))).count()
        };
        assert_eq!((out_of_reach(&results), missed(&judge(&results))), (2, false));
        results.rows.iter_mut().find(of_python(Raw)).unwrap().2 = measured(1.25, Some(1_000_000), 0);
        assert_eq!(out_of_reach(&results), 0, "1.25 times as slow as discard it can be");
    }

    #[test]
    fn what_is_not_there_is_missed_and_what_nobody_asked_for_is_not_known() {
        let mut results = good_enough();
        results.rows.retain(|(core, ..)| *core == Core::Mixed);
        results.small = None;
        let zstd = results.rows.iter_mut().find(|(_, handler, _)| *handler == Zstd).unwrap();
        zstd.2 = Row::NotThere("no such setting".to_owned());
        let goals = judge(&results);
        let verdicts =
            |wanted: fn(&Verdict) -> bool| goals.iter().filter(|goal| wanted(&goal.verdict)).count();
        assert_eq!(verdicts(|verdict| matches!(verdict, Verdict::Reached(_))), 5);
        assert_eq!(verdicts(|verdict| *verdict == Verdict::Missed("not there yet".to_owned())), 2);
        assert_eq!(verdicts(|verdict| *verdict == Verdict::Unknown), 9);
        assert!(missed(&goals));
    }
}
