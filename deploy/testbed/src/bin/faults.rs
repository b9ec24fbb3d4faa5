//! What becomes of crashes when something goes wrong: `faults --help`.

use std::process::ExitCode;

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

fn main() -> ExitCode {
    let options = Options::parse();
    let mut tallies =
        vec![kill_anywhere(options.kills, options.seed), at_once(options.storm), in_a_loop(options.crashes)];
    tallies.extend(disk_fails());
    tallies.extend(store_fails());
    tallies.extend([
        hostile_texts(options.texts),
        hostile_names(options.names, options.seed),
        in_a_row(options.soak),
        gibibytes(options.gibibytes),
    ]);
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
