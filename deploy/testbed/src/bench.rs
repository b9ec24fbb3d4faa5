//! How long a crashed process is held, by us and by others: what `make bench`
//! runs.
//!
//! ```text
//!  bench ──SIGABRT──▶ victim ═══ kernel ═══pipe═══▶ meter ─exec─▶ handler ──▶ dump
//!    │◀──── wait ───────┘                             └─ getrusage ─▶ usage
//! ```
//!
//! A real process, the kernel's pipe, and handlers that the kernel runs. All of
//! them are compared within one run, one crash of each in turn. `stage` is one
//! crash, [`handler`] who takes its core, [`victim`] who dies, `remains`
//! whether what came of it is real, [`goals`] what is to be reached.

pub mod discard;
pub mod goals;
pub mod handler;
mod interrupt;
mod machine;
pub mod meter;
pub mod naive;
mod remains;
mod report;
pub mod results;
mod stage;
pub mod victim;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::unistd::geteuid;

use goals::{judge, missed};
use handler::Handler;
use machine::Machine;
use report::Report;
use results::{Crash, Results, Row, Small, Summary};
use stage::{Outcome, Stage};
use victim::Core;

/// Measures how long crashed processes are held. Takes the kernel's settings
/// for as long as that takes, and puts them back.
///
/// Tables go to stdout. The exit code is 1 if a goal was missed.
#[derive(Parser)]
pub struct Options {
    /// The memory of a process, in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    mib: u16,
    /// How often each row is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Which cores, separated by commas. All, unless it is said.
    #[arg(long, value_delimiter = ',', value_name = "CORES")]
    only: Vec<Core>,
    /// Which handlers, separated by commas. All, unless it is said.
    #[arg(long, value_delimiter = ',')]
    handlers: Vec<Handler>,
    /// How many small crashes; 0 leaves them out.
    #[arg(long, default_value_t = 200)]
    small: u16,
    /// Where dumps go. Has to be a disk.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// A file that the tables are kept in.
    #[arg(long, value_name = "PATH")]
    write: Option<PathBuf>,
    /// Tell no goals, and miss none.
    #[arg(long)]
    no_goals: bool,
}

/// Does all of it, and answers whether no goal was missed.
///
/// # Errors
/// If something could not be measured; then there is no table.
pub fn run(options: &Options) -> Result<bool> {
    ensure!(geteuid().is_root(), "only root may change kernel.core_pattern: run this as root");
    let mut machine = Machine::look(&options.dir)?;
    let mut results = Results::default();
    let cores = available(options, &mut machine, &mut results);
    eprintln!("waiting for the kernel's settings");
    let stage = Stage::set(&options.dir, options.mib.into())?;
    for core in cores {
        results.rows.extend(compare(&stage, core, options)?);
    }
    if options.small > 0 {
        results.small = Some(crash_small(&stage, options.small.into())?);
    }
    drop(stage);

    let goals = if options.no_goals { vec![] } else { judge(&results) };
    let report = Report {
        machine: &machine,
        command: &command(),
        runs: options.runs.into(),
        results: &results,
        goals: &goals,
    };
    let text = report.to_string();
    print!("{text}");
    if let Some(path) = &options.write {
        keep(path, &text)?;
    }
    Ok(!missed(&goals))
}

/// Those of the cores asked for that can be had here. What cannot is noted.
fn available(options: &Options, machine: &mut Machine, results: &mut Results) -> Vec<Core> {
    let asked = |core: &Core| options.only.is_empty() || options.only.contains(core);
    let mut cores: Vec<Core> = Core::ALL.into_iter().filter(asked).collect();
    cores.retain(|core| {
        let Some(interpreter) = core.interpreter() else { return true };
        match machine::version(*core) {
            Some(version) => machine.facts.push((interpreter, version)),
            None => {
                results
                    .notes
                    .push(format!("{core} is left out: there is no `{interpreter}` on this machine."));
                return false;
            }
        }
        true
    });
    cores
}

/// One crash of each handler, and again.
fn compare(stage: &Stage, core: Core, options: &Options) -> Result<Vec<(Core, Handler, Row)>> {
    let asked = |handler: &Handler| options.handlers.is_empty() || options.handlers.contains(handler);
    let handlers = Handler::ALL.into_iter().filter(asked);
    let mut tried: Vec<(Handler, Result<Vec<Crash>, String>)> =
        handlers.map(|handler| (handler, Ok(vec![]))).collect();
    for run in 1..=options.runs {
        for (handler, outcome) in &mut tried {
            let Ok(crashes) = outcome else { continue };
            eprint!("{core} {run}/{}, {handler}: ", options.runs);
            match stage.crash(core, options.mib.into(), *handler)? {
                Outcome::Crashed(crash) => {
                    eprintln!("{:.3} s", crash.held);
                    crashes.push(crash);
                }
                Outcome::NotThere(why) => {
                    eprintln!("not there yet: {why}");
                    *outcome = Err(why);
                }
            }
        }
    }
    let row = |outcome: Result<Vec<Crash>, String>| match outcome {
        Ok(crashes) => Summary::of(&crashes).map(Row::Measured),
        Err(why) => Some(Row::NotThere(why)),
    };
    Ok(tried.into_iter().filter_map(|(handler, outcome)| Some((core, handler, row(outcome)?))).collect())
}

/// In turn, too.
fn crash_small(stage: &Stage, times: usize) -> Result<Small> {
    eprintln!("{times} small crashes of each of two");
    let mut small = Small::default();
    for _ in 0..times {
        small.discard.push(stage.crash_small(Handler::Discard)?.as_secs_f64());
        small.ours.push(stage.crash_small(Handler::Deflate)?.as_secs_f64());
    }
    Ok(small)
}

/// As it was typed, or as `make` has typed it.
fn command() -> String {
    let mut args = env::args();
    let program = args.next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    [program].into_iter().chain(args).collect::<Vec<_>>().join(" ")
}

/// Whole or not at all.
fn keep(path: &Path, text: &str) -> Result<()> {
    let part = path.with_added_extension("part");
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("writing {}", path.display()))
}
