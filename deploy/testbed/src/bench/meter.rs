//! What a handler needs.
//!
//! The kernel's helpers are children of the kernel: nobody else can wait for
//! them. So the kernel is given a meter, which has the handler as its child,
//! and the core for no longer than it takes to pass it on.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::dup2_stdin;
use serde::{Deserialize, Serialize};

use super::handler::{Booth, Handler};

/// What a handler needed, or why it did not do its work.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Usage {
    /// If it did not end well: how it ended, and what it said.
    pub failed: Option<String>,
    /// The time of processors, in seconds.
    pub cpu: f64,
    /// The most memory it had at a time. No less than what the meter has,
    /// since the kernel counts what the child was before it became the handler.
    pub peak_kib: u64,
}

/// Has `handler` take the core on standard input, and writes down what it
/// needed. `arguments` are the kernel's, the pid first.
///
/// # Errors
/// If that cannot be written down.
pub fn run(booth: &Booth, handler: Handler, arguments: &[&str]) -> Result<()> {
    let pid = arguments.first().and_then(|arg| arg.strip_prefix('P')?.parse().ok());
    let pid: u32 = pid.context("the kernel did not say whose core it is")?;
    let usage = booth.command(handler, pid, arguments).and_then(measured);
    let usage = usage.unwrap_or_else(|err| Usage {
        failed: Some(format!("running {handler}: {err}")),
        cpu: 0.0,
        peak_kib: 0,
    });
    usage.write(&booth.usage(pid)).context("writing down what the handler needed")
}

fn measured(mut command: Command) -> io::Result<Usage> {
    let mut said = tempfile::tempfile()?;
    // Descriptor 0 and the pidfd at 3 are the child's, as they would be if the
    // kernel had run it.
    let mut child = command.stderr(said.try_clone()?).spawn()?;
    // And the core is the child's alone: as long as anyone has the pipe open
    // the crashed process is held.
    dup2_stdin(File::open("/dev/null")?)?;
    let ended = child.wait()?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let failed = if ended.success() {
        None
    } else {
        let mut text = String::new();
        said.rewind()?;
        said.read_to_string(&mut text)?;
        Some(format!("{ended}: {text}"))
    };
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Usage {
        failed,
        cpu: microseconds as f64 / 1e6,
        peak_kib: u64::try_from(usage.max_rss()).unwrap_or(0),
    })
}

impl Usage {
    /// Whoever finds it at `path` finds all of it.
    fn write(&self, path: &Path) -> io::Result<()> {
        let part = path.with_added_extension("part");
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::rename(part, path)
    }

    /// What was written there, if it was yet.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn read(path: &Path) -> Result<Option<Usage>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("reading {}", path.display())),
        }
    }
}
