//! How long a crashed process is held: `bench --help`.

use std::process::ExitCode;

use clap::Parser;
use testbed::bench::{self, Options};

fn main() -> ExitCode {
    match bench::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("not all goals are reached");
            ExitCode::FAILURE
        }
        Err(err) => {
            eprintln!("{err:#}");
            ExitCode::FAILURE
        }
    }
}
