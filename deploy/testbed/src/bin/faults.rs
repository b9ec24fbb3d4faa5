//! What becomes of crashes when something goes wrong: `faults --help`.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use testbed::faults::{
    HEAD, Tally, at_once, disk_fails, gibibytes, hostile_names, hostile_texts, in_a_loop, in_a_row,
    kill_anywhere, store_fails,
};

/// Does harm to the three programs and prints what came of it. Takes the
/// kernel's settings for as long as that takes, and puts them back.
#[derive(Parser)]
struct Options {
    /// How often somebody is killed.
    #[arg(long, default_value_t = 500)]
    kills: usize,
    /// How many processes crash at once.
    #[arg(long, default_value_t = 200)]
    storm: usize,
    /// How often the same one crashes.
    #[arg(long, default_value_t = 1000)]
    crashes: usize,
    /// How many processes crash that call themselves something strange.
    #[arg(long, default_value_t = 48)]
    names: usize,
    /// How many strange texts the programs are given to read.
    #[arg(long, default_value_t = 1_000_000)]
    texts: usize,
    /// How many crashes one uploader ships, one after the other.
    #[arg(long, default_value_t = 1000)]
    soak: usize,
    /// How many dumps of a gibibyte are uploaded at once.
    #[arg(long, default_value_t = 4)]
    gibibytes: usize,
    /// Makes the same sizes, contents and moments again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What is to be done, and counted.
type Case = Box<dyn FnOnce() -> Vec<Tally>>;

/// When no other case is begun any more.
const BOUND: Duration = Duration::from_secs(20 * 60);

/// What came of a case nobody knows, and that is not clean.
fn unknown(case: &'static str, why: &str) -> Tally {
    Tally { case, lost: vec![format!("{case}: {why}")], ..Tally::default() }
}

fn main() -> ExitCode {
    let Options { kills, storm, crashes, names, texts, soak, gibibytes: dumps, seed } = Options::parse();
    let began = Instant::now();
    let cases: [(&'static str, Case); 9] = [
        ("kill anywhere", Box::new(move || vec![kill_anywhere(kills, seed)])),
        ("storm", Box::new(move || vec![at_once(storm)])),
        ("crash loop", Box::new(move || vec![in_a_loop(crashes)])),
        ("disk", Box::new(disk_fails)),
        ("store", Box::new(store_fails)),
        ("hostile texts", Box::new(move || vec![hostile_texts(texts)])),
        ("hostile names", Box::new(move || vec![hostile_names(names, seed)])),
        ("soak", Box::new(move || vec![in_a_row(soak)])),
        ("gibibytes", Box::new(move || vec![gibibytes(dumps)])),
    ];
    let tallies: Vec<_> = cases
        .into_iter()
        .flat_map(|(case, run)| match began.elapsed() < BOUND {
            // One that panics, such as by waiting in vain, spoils no other.
            true => panic::catch_unwind(AssertUnwindSafe(run))
                .unwrap_or_else(|_| vec![unknown(case, "it broke off; see above")]),
            false => vec![unknown(case, "there was no time left for it")],
        })
        .collect();
    println!("{HEAD}");
    for tally in &tallies {
        println!("{tally}");
    }
    for what in tallies.iter().flat_map(|tally| tally.lost.iter().chain(&tally.lied)) {
        eprintln!("{what}");
    }
    match tallies.iter().all(Tally::is_clean) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
