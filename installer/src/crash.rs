//! A child of our own that crashes, because only what becomes of a crash shows
//! that crashes are seen.

use std::ffi::CString;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use protocol::journal::{Line, lines};
use protocol::spool::Spool;

use crate::host::Node;

/// The hidden command of the child.
pub const COMMAND: &str = "crash";
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The child's part: dies under the name it was given.
///
/// # Errors
/// If it cannot take the name.
pub fn die(comm: &str) -> Result<()> {
    nix::sys::prctl::set_name(&CString::new(comm)?).context("taking a name")?;
    std::process::abort()
}

/// Tells this crash from earlier ones; nobody has to be unable to guess it.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(20)
}

/// Crashes a child named `comm`, of at most 15 bytes, and waits until the kernel
/// lets go of it, which is when the composer has closed the pipe.
///
/// # Errors
/// If it cannot be started, or is not gone after `patience`.
pub fn child(node: &Node, comm: &str, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    // It needs no configuration, and must not stumble over that of others.
    let mut child: Child = Command::new(&node.installer)
        .args(["--config", "/dev/null", COMMAND, comm])
        .spawn()
        .context("starting a child to crash")?;
    loop {
        if let Some(status) = child.try_wait().context("waiting for the child")? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            // Nothing is lost if it just died, and nothing gained if it cannot.
            let _ = child.kill();
            bail!("the child was not gone after {patience:?}: the composer holds it; see `dmesg`");
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
