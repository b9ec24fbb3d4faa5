//! What was measured.

use super::handler::Handler;
use super::victim::Core;

/// One crash.
#[derive(Clone, Debug, PartialEq)]
pub struct Crash {
    /// From the signal to the return of the parent's wait, in seconds.
    pub held: f64,
    /// What the kernel handed over.
    pub core_bytes: u64,
    /// What there was on the disk in the end; nothing of what is discarded.
    pub dump_bytes: Option<u64>,
    /// The handler's processor time in seconds, also after the process was free.
    pub cpu: f64,
    /// The handler's peak memory.
    pub peak_kib: u64,
}

/// Several measurements of the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half are below, half above.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let values = sorted(values);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Spread { median, min, max })
    }
}

/// The value that so many percent are not above; the nearest one there is.
/// `None` of nothing.
pub fn percentile(values: impl IntoIterator<Item = f64>, percent: f64) -> Option<f64> {
    let values = sorted(values);
    let rank = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// A handler's crashes of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Seconds held.
    pub held: Spread,
    /// The median of them; they differ by a few pages, since no two processes
    /// are quite the same.
    pub core_bytes: f64,
    /// Megabytes, of 10⁶ bytes, in a second held.
    pub rate: f64,
    /// The median of them.
    pub dump_bytes: Option<f64>,
    /// The median of them.
    pub cpu: f64,
    /// The highest of them.
    pub peak_kib: u64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(crashes: &[Crash]) -> Option<Summary> {
        let median = |of: fn(&Crash) -> f64| Some(Spread::of(crashes.iter().map(of))?.median);
        let dumps = crashes.iter().filter_map(|crash| crash.dump_bytes).map(|bytes| bytes as f64);
        Some(Summary {
            held: Spread::of(crashes.iter().map(|crash| crash.held))?,
            core_bytes: median(|crash| crash.core_bytes as f64)?,
            rate: median(|crash| crash.core_bytes as f64 / crash.held / 1e6)?,
            dump_bytes: Spread::of(dumps).map(|dumps| dumps.median),
            cpu: median(|crash| crash.cpu)?,
            peak_kib: crashes.iter().map(|crash| crash.peak_kib).max()?,
        })
    }
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// It did its work.
    Measured(Summary),
    /// This composer cannot do that yet, and says why.
    NotThere(String),
}

/// Many crashes of a tiny process, where all that counts is what a handler does
/// besides copying. In seconds held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Small {
    /// Those that were only read.
    pub discard: Vec<f64>,
    /// Those that became dumps as they are by default.
    pub ours: Vec<f64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Who did what with which core.
    pub rows: Vec<(Core, Handler, Row)>,
    /// If it was asked for.
    pub small: Option<Small>,
    /// What the tables do not say.
    pub notes: Vec<String>,
}

impl Results {
    /// A row, if there is one.
    pub fn row(&self, core: Core, handler: Handler) -> Option<&Row> {
        self.rows_of(core).find_map(|(of, row)| (of == handler).then_some(row))
    }

    /// The rows of a core.
    pub fn rows_of(&self, core: Core) -> impl Iterator<Item = (Handler, &Row)> {
        self.rows.iter().filter(move |(of, ..)| *of == core).map(|(_, handler, row)| (*handler, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([2.0]), Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
        assert_eq!(Spread::of([9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 9.0, 2.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = || (1..=200).rev().map(f64::from);
        assert_eq!(percentile(values(), 50.0), Some(100.0));
        assert_eq!(percentile(values(), 99.0), Some(198.0));
        assert_eq!(percentile(values(), 100.0), Some(200.0));
        assert_eq!(percentile([7.0], 99.0), Some(7.0));
        assert_eq!(percentile([], 99.0), None);
    }

    #[test]
    fn a_summary_has_medians_and_the_highest_peak() {
        let crash = |held: f64, peak_kib| Crash {
            held,
            core_bytes: 8_000_000,
            dump_bytes: Some(2_000_000),
            cpu: held / 2.0,
            peak_kib,
        };
        let summary = Summary::of(&[crash(4.0, 100), crash(1.0, 900), crash(2.0, 500)]).unwrap();
        assert_eq!(summary.held, Spread { median: 2.0, min: 1.0, max: 4.0 });
        assert_eq!((summary.rate, summary.cpu, summary.peak_kib), (4.0, 1.0, 900));
        assert_eq!((summary.core_bytes, summary.dump_bytes), (8e6, Some(2e6)));
        assert_eq!(Summary::of(&[]), None);
    }
}
