//! A child of our own that crashes, because only what becomes of a crash shows
//! that crashes are seen.

use std::collections::hash_map::RandomState;
use std::ffi::CString;
use std::hash::BuildHasher;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use protocol::journal::{Line, lines};
use protocol::spool::Spool;

use crate::host::Node;

/// The hidden command of the child.
pub const COMMAND: &str = "crash";
/// It is to leave no zombie: in a pod we are the first process.
const PATIENCE_WITH_KILLED: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The child's part: dies under the name it was given.
///
/// # Errors
/// If it cannot take the name.
pub fn die(comm: &str) -> Result<()> {
    nix::sys::prctl::set_name(&CString::new(comm)?).context("taking a name")?;
    std::process::abort()
}

/// Tells this crash from others, and nobody can guess it.
pub fn random() -> u64 {
    RandomState::new().hash_one(()) // std seeds it from getrandom(2)
}

/// Crashes a child named `comm`, of at most 15 bytes, and waits until the kernel
/// lets go of it, which is when the composer has closed the pipe.
///
/// # Errors
/// If it cannot be started, ends in another way, or is not gone after `patience`.
pub fn child(node: &Node, comm: &str, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    // It needs no configuration, and must not stumble over that of others.
    let mut child = Command::new(&node.installer)
        .args(["--config", "/dev/null", COMMAND, comm])
        .spawn()
        .context("starting a child to crash")?;
    if let Some(status) = end_of(&mut child, deadline)? {
        ensure!(
            status.signal() == Some(Signal::SIGABRT as i32),
            "the child was to crash and ended with {status}"
        );
        return Ok(status);
    }
    // Nothing is lost if it just died, and nothing gained if it cannot.
    let _ = child.kill();
    end_of(&mut child, Instant::now() + PATIENCE_WITH_KILLED)?;
    bail!("the child was not gone after {patience:?}: the composer holds it; see `dmesg`")
}

/// How it ended, if it does until then.
fn end_of(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait().context("waiting for the child")?;
        if status.is_some() || Instant::now() > deadline {
            return Ok(status);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits for what the journal says about the process named `comm`. `None` if it
/// says nothing for as long as `patience`.
///
/// # Errors
/// If the journal cannot be read.
pub fn line_about(spool: &Spool, comm: &str, patience: Duration) -> Result<Option<Line>> {
    let is_wanted =
        |line: &io::Result<Line>| line.as_ref().map_or(true, |line| line.comm == Some(comm.into()));
    let deadline = Instant::now() + patience;
    loop {
        let line = lines(spool).find(is_wanted).transpose().context("reading the journal in the spool")?;
        if line.is_some() || Instant::now() > deadline {
            return Ok(line);
        }
        thread::sleep(LOOK_EVERY);
    }
}
