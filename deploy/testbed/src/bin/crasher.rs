//! A process that crashes for real, and what the containers of tests are made
//! of: besides crashing it can be a pod's first process.

use std::env;
use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use testbed::memory::{Fill, Memory};
use testbed::wait_for;

/// Nobody waits for a crash any longer than this.
const PATIENCE: Duration = Duration::from_secs(600);

/// Fills memory, says where it is, and crashes.
#[derive(Parser)]
struct Args {
    /// How much memory, in MiB.
    #[arg(long, default_value_t = 1)]
    heap_mb: usize,
    /// What to fill it with.
    #[arg(long, default_value_t = Fill::Pattern)]
    fill: Fill,
    /// The signal to die of, with or without SIG. Process 1 can only die of SEGV.
    #[arg(long, default_value = "SEGV", value_parser = signal)]
    signal: Signal,
    /// Write this to stdout before crashing, as it is: a newline is the caller's to add.
    #[arg(long, value_name = "TEXT")]
    stdout: Vec<OsString>,
    /// The same to stderr, after all that goes to stdout.
    #[arg(long, value_name = "TEXT")]
    stderr: Vec<OsString>,
    /// Write all that so many times.
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: usize,
    /// Wait for a line on stdin, or its end, before crashing.
    #[arg(long)]
    wait: bool,
    /// Wait until there is such a file before crashing.
    #[arg(long, value_name = "PATH")]
    until: Option<PathBuf>,
    /// Do not crash, but wait to be killed, or for the end of stdin, and end.
    #[arg(long)]
    victim: bool,
    /// Do not crash, but have a child that does, and stay.
    #[arg(long)]
    child: bool,
    /// Do nothing but stay, and bury what dies.
    #[arg(long)]
    pause: bool,
    /// A command name, of which the kernel keeps 15 bytes.
    #[arg(long)]
    comm: Option<OsString>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.pause {
        return stay();
    }
    if let Some(comm) = &args.comm {
        prctl::set_name(&CString::new(comm.clone().into_vec())?).context("setting the command name")?;
    }
    if args.child {
        let child = env::args_os().skip(1).filter(|arg| arg != "--child");
        Command::new(env::current_exe()?).args(child).spawn().context("starting the child")?;
        return stay();
    }
    let memory = Memory { fill: args.fill, length: args.heap_mb << 20 }.allocate();
    let said = serde_json::json!({
        "pid": process::id(),
        "address": memory.as_ptr() as usize,
        "length": memory.len(),
    });
    writeln!(io::stdout(), "{said}").context("saying where the memory is")?;
    if args.victim {
        io::copy(&mut io::stdin(), &mut io::sink())?;
        drop(memory);
        return Ok(());
    }
    if args.wait {
        io::stdin().read_line(&mut String::new())?;
    }
    if let Some(path) = &args.until {
        wait_for(&path.display().to_string(), PATIENCE, || path.exists().then_some(()));
    }
    for _ in 0..args.repeat {
        say(&mut io::stdout(), &args.stdout)?;
        say(&mut io::stderr(), &args.stderr)?;
    }
    // Rust's handler for stack overflows takes the first SIGSEGV or SIGBUS,
    // finds that it is none, and leaves the next one to the kernel.
    for _ in 0..2 {
        raise(args.signal)?;
    }
    // Nobody can send process 1 of a container what it does not handle, not
    // even itself. It takes a fault, and here is one without unsafe: when its
    // SIGABRT does not kill, glibc's abort executes `hlt` (on x86), which is
    // a SIGSEGV.
    if process::id() == 1 && args.signal == Signal::SIGSEGV {
        process::abort();
    }
    drop(memory);
    bail!("survived {}", args.signal)
}

/// What `write` does not take at once it is given again, but nothing is kept:
/// last words must not wait for a newline.
fn say(to: &mut impl Write, texts: &[OsString]) -> Result<()> {
    for text in texts {
        to.write_all(text.as_bytes()).and_then(|()| to.flush()).context("saying what was to be said")?;
    }
    Ok(())
}

/// Until it is told to end. Process 1 would not hear of SIGTERM otherwise, and
/// is the one to reap whom others have left.
fn stay() -> Result<()> {
    let heard = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM].into_iter().collect::<SigSet>();
    heard.thread_block()?;
    // What died before that was not heard of.
    while reaped()? || heard.wait()? == Signal::SIGCHLD {}
    Ok(())
}

fn reaped() -> Result<bool> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(false),
        ended => Ok(ended.map(|_| true)?),
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    let full = format!("SIG{}", name.strip_prefix("SIG").unwrap_or(name));
    full.parse().map_err(|_| format!("{name} is no signal"))
}
