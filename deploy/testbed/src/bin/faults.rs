//! What becomes of crashes when something goes wrong: `faults --help`.

use std::process::ExitCode;

use clap::Parser;
use testbed::faults::{HEAD, Tally, at_once, disk_fails, in_a_loop, kill_anywhere, store_fails};

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
    /// Makes the same sizes, contents and moments again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut tallies =
        vec![kill_anywhere(options.kills, options.seed), at_once(options.storm), in_a_loop(options.crashes)];
    tallies.extend(disk_fails());
    tallies.extend(store_fails());
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
