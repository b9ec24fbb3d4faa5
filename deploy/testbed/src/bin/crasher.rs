//! A process that crashes for real.

use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::process;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};
use testbed::memory::{Fill, Memory};

/// Fills memory, says where it is, and crashes.
#[derive(Parser)]
struct Args {
    /// How much memory, in MiB.
    #[arg(long, default_value_t = 1)]
    heap_mb: usize,
    /// What to fill it with.
    #[arg(long, default_value_t = Fill::Pattern)]
    fill: Fill,
    /// The signal to die of, with or without SIG.
    #[arg(long, default_value = "SEGV", value_parser = signal)]
    signal: Signal,
    /// Wait for a line on stdin, or its end, before crashing.
    #[arg(long)]
    wait: bool,
    /// A command name, of which the kernel keeps 15 bytes.
    #[arg(long)]
    comm: Option<OsString>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(comm) = args.comm {
        prctl::set_name(&CString::new(comm.into_vec())?).context("setting the command name")?;
    }
    let memory = Memory { fill: args.fill, length: args.heap_mb << 20 }.allocate();
    let said = serde_json::json!({
        "pid": process::id(),
        "address": memory.as_ptr() as usize,
        "length": memory.len(),
    });
    writeln!(io::stdout(), "{said}").context("saying where the memory is")?;
    if args.wait {
        io::stdin().read_line(&mut String::new())?;
    }
    // Rust's handler for stack overflows takes the first SIGSEGV or SIGBUS,
    // finds that it is none, and leaves the next one to the kernel.
    for _ in 0..2 {
        raise(args.signal)?;
    }
    drop(memory);
    bail!("survived {}", args.signal)
}

fn signal(name: &str) -> Result<Signal, String> {
    let full = format!("SIG{}", name.strip_prefix("SIG").unwrap_or(name));
    full.parse().map_err(|_| format!("{name} is no signal"))
}
