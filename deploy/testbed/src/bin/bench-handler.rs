//! What the kernel runs for the benchmark: `bench-handler meter HANDLER P%P …`
//! has one take the core and measures it, `discard` and `naive FILE` are two
//! themselves.

use std::env;
use std::fs::File;
use std::io;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use testbed::bench::handler::{Booth, Handler};
use testbed::bench::{discard, meter, naive};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["meter", name, ref arguments @ ..] => {
            let handler = Handler::from_str(name, false).map_err(anyhow::Error::msg)?;
            meter::run(&Booth::around_us()?, handler, arguments)
        }
        ["discard"] => {
            println!("{}", discard::run().context("discarding the core")?);
            Ok(())
        }
        ["naive", file] => {
            let bytes = File::create(file).and_then(|file| naive::write(&mut io::stdin().lock(), file));
            println!("{}", bytes.with_context(|| format!("writing {file}"))?);
            Ok(())
        }
        _ => bail!("is run by the benchmark, see `bench --help`"),
    }
}
