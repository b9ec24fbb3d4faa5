//! The tables, in Markdown.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::goals::{Goal, Verdict};
use super::handler::Handler;
use super::machine::Machine;
use super::results::{Results, Row, Small, Spread, Summary, percentile};
use super::victim::Core;

const MIB: f64 = (1 << 20) as f64;

/// Everything there is to tell.
pub struct Report<'a> {
    /// Where it was measured.
    pub machine: &'a Machine,
    /// How it was asked for.
    pub command: &'a str,
    /// How often each row was measured.
    pub runs: usize,
    /// What was measured.
    pub results: &'a Results,
    /// What was to be reached; empty if nobody wants to know.
    pub goals: &'a [Goal],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# How long a crashed process is held\n")?;
        writeln!(f, "Written by `make bench`. What is to be reached is at the end.\n{HOW_TO_READ}\n")?;
        for core in Core::ALL {
            let rows: Vec<_> = self.results.rows_of(core).collect();
            if !rows.is_empty() {
                table(f, core, &rows)?;
            }
        }
        if let Some(small) = &self.results.small {
            small_table(f, small)?;
        }
        let not_there = self.results.rows.iter().filter_map(|(_, handler, row)| match row {
            Row::NotThere(why) => Some(format!("There is no row of \"{handler}\" yet: {why}")),
            Row::Measured(_) => None,
        });
        let notes: BTreeSet<String> = not_there.chain(self.results.notes.iter().cloned()).collect();
        for note in notes {
            writeln!(f, "{note}\n")?;
        }
        writeln!(f, "## Machine\n\n| | |\n|---|---|")?;
        let run = [("command", format!("`{}`", self.command)), ("runs", self.runs.to_string())];
        for (name, fact) in run.iter().chain(&self.machine.facts) {
            writeln!(f, "| {name} | {fact} |")?;
        }
        if !self.goals.is_empty() {
            goal_table(f, self.goals)?;
        }
        Ok(())
    }
}

const HOW_TO_READ: &str = "
Held is from the signal to the return of the parent's `wait`: what a pod waits for. Medians, and the least and the most
in brackets. One crash of each row, then the next of each, so that a mood of the machine hits all of them; compare
within a table, never between machines. MB/s are 10⁶ bytes of core in a second held. Peak memory (the highest of all
runs) and processor seconds are the handler's alone, until it has ended; what the kernel needs to hand the core over it
needs in the name of the crashed process. Nothing is written back to the disk when a run begins. Neither `cat` nor the
naive way sync what they have written; ours does, after it has let the process go.

*discard* reads from a pipe of 1 MiB and does nothing else: the floor. *raw file* is `cat > file`. *the naive way* is
`io::copy` into an entry of a zip, deflate level 6 by miniz_oxide, one thread: what the incumbent does.";

fn table(f: &mut fmt::Formatter<'_>, core: Core, rows: &[(Handler, &Row)]) -> fmt::Result {
    let sizes = rows.iter().filter_map(|(_, row)| match row {
        Row::Measured(summary) => Some(summary.core_bytes),
        Row::NotThere(_) => None,
    });
    let size = Spread::of(sizes).map_or_else(String::new, |bytes| format!("{:.0} MiB. ", bytes.median / MIB));
    writeln!(f, "## {core}\n\n{size}{}\n", made_of(core))?;
    writeln!(f, "| handler | held, s | MB/s | dump, MiB | of the core | peak memory, MiB | processor, s |")?;
    writeln!(f, "|---|---|--:|--:|--:|--:|--:|")?;
    for (handler, row) in rows {
        match row {
            Row::NotThere(_) => writeln!(f, "| {handler} | not there yet | | | | | |")?,
            Row::Measured(summary) => measured(f, *handler, summary)?,
        }
    }
    writeln!(f)
}

fn measured(f: &mut fmt::Formatter<'_>, handler: Handler, summary: &Summary) -> fmt::Result {
    let Summary { held, core_bytes, rate, dump_bytes, cpu, peak_kib } = summary;
    let (size, share) = match dump_bytes {
        Some(bytes) => (format!("{:.1}", bytes / MIB), format!("{:.1} %", bytes / core_bytes * 100.0)),
        None => (String::new(), String::new()),
    };
    let peak = *peak_kib as f64 / 1024.0;
    writeln!(f, "| {handler} | {} | {rate:.0} | {size} | {share} | {peak:.1} | {cpu:.2} |", seconds(held))
}

fn seconds(held: &Spread) -> String {
    format!("{:.3} ({:.3}–{:.3})", held.median, held.min, held.max)
}

fn made_of(core: Core) -> &'static str {
    match core {
        Core::Mixed => {
            "Of its pages 30 % are zeros, 10 % noise, 35 % pointers and small integers, 25 % text \
             (`deploy/testbed/src/memory/mixed.rs`)."
        }
        Core::Zeros => "Zeros that were written; the kernel hands a hole over as the same.",
        Core::Random => "Incompressible.",
        Core::Python => {
            "A real process with dicts, lists, strings and numbers (`objects.py` in `deploy/testbed/src/bench/victim`)."
        }
        Core::Node => {
            "A real process with objects, strings and buffers (`objects.js` in `deploy/testbed/src/bench/victim`)."
        }
    }
}

fn small_table(f: &mut fmt::Formatter<'_>, small: &Small) -> fmt::Result {
    writeln!(f, "## Small crashes\n")?;
    let times = small.ours.len();
    writeln!(
        f,
        "{times} of each, of a process of 1 MiB, with nothing that measures between the kernel and the"
    )?;
    writeln!(f, "handler. What ours takes longer is what it takes to find out whose crash it was.\n")?;
    writeln!(f, "| handler | p50, ms | p99, ms | longest, ms |\n|---|--:|--:|--:|")?;
    for (handler, held) in [(Handler::Discard, &small.discard), (Handler::Deflate, &small.ours)] {
        let mut row = format!("| {handler} |");
        for percent in [50.0, 99.0, 100.0] {
            let held = percentile(held.iter().copied(), percent).unwrap_or(f64::NAN);
            write!(row, " {:.1} |", held * 1e3)?;
        }
        writeln!(f, "{row}")?;
    }
    writeln!(f)
}

fn goal_table(f: &mut fmt::Formatter<'_>, goals: &[Goal]) -> fmt::Result {
    writeln!(f, "\n## Goals\n\n| core | goal | measured | reached |\n|---|---|--:|---|")?;
    for Goal { core, what, verdict } in goals {
        let (measured, reached) = match verdict {
            Verdict::Reached(measured) => (measured.as_str(), "yes"),
            Verdict::Missed(measured) => (measured.as_str(), "**no**"),
            Verdict::OutOfReach(measured) => (measured.as_str(), "no; it is less than discard"),
            Verdict::Unknown => ("", "not measured"),
        };
        writeln!(f, "| {core} | {what} | {measured} | {reached} |")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Crash;

    #[test]
    fn a_report_has_a_row_for_each_handler_and_each_goal() {
        let crash =
            |held, dump_bytes| Crash { held, core_bytes: 2 << 20, dump_bytes, cpu: 0.5, peak_kib: 3 << 10 };
        let row = |crashes: &[Crash]| Row::Measured(Summary::of(crashes).unwrap());
        let results = Results {
            rows: vec![
                (Core::Mixed, Handler::Discard, row(&[crash(2.0, None), crash(1.0, None), crash(4.0, None)])),
                (Core::Mixed, Handler::Deflate, row(&[crash(2.0, Some(1 << 20))])),
                (Core::Mixed, Handler::Zstd, Row::NotThere("no such setting".to_owned())),
            ],
            small: Some(Small { discard: vec![0.004], ours: vec![0.012] }),
            notes: vec!["There is no node on this machine.".to_owned()],
        };
        let goals = [
            ("mixed", Verdict::Reached("0.70".to_owned())),
            ("zeros", Verdict::Missed("1.40".to_owned())),
            ("random", Verdict::Unknown),
        ];
        let goals = goals.map(|(core, verdict)| Goal {
            core: core.to_owned(),
            what: "to be fast".to_owned(),
            verdict,
        });
        let machine = Machine { facts: vec![("kernel", "6.18".to_owned())] };
        let report = Report {
            machine: &machine,
            command: "bench --runs 3",
            runs: 3,
            results: &results,
            goals: &goals,
        };
        let text = report.to_string();
        for line in [
            "## mixed",
            "There is no row of \"ours, zstd\" yet: no such setting",
            "| discard | 2.000 (1.000–4.000) | 1 |  |  | 3.0 | 0.50 |",
            "| ours, deflate | 2.000 (2.000–2.000) | 1 | 1.0 | 50.0 % | 3.0 | 0.50 |",
            "| ours, zstd | not there yet | | | | | |",
            "| discard | 4.0 | 4.0 | 4.0 |",
            "| ours, deflate | 12.0 | 12.0 | 12.0 |",
            "There is no node on this machine.",
            "| command | `bench --runs 3` |",
            "| kernel | 6.18 |",
            "| mixed | to be fast | 0.70 | yes |",
            "| zeros | to be fast | 1.40 | **no** |",
            "| random | to be fast |  | not measured |",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
        assert!(!text.contains("## random"), "{text}");
    }
}
