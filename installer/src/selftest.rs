//! Crashes a child of our own and waits for its dump, because only a dump
//! shows that dumps are made.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use protocol::journal::{Line, Outcome, Skip, lines};
use protocol::settings::ComposerSettings;
use protocol::spool::{Spool, State};

use crate::change::say;
use crate::host::Node;
use crate::status;

/// The hidden command of the child.
pub const CRASH: &str = "crash-for-self-test";
/// A dump of a process of this size takes less than a second on an idle node.
const PATIENCE: Duration = Duration::from_secs(30);
/// If the kernel says that it dumped nothing, a composer that has given up may
/// still be writing down why.
const PATIENCE_WITHOUT_CORE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs the test.
///
/// # Errors
/// The step that failed, and where to look.
pub fn run(node: &Node, own: &Path) -> Result<()> {
    status::report(&status::of(node), false).context("before any crash")?;
    let spool = Spool::open(node.root.locate(&node.config.spool_dir)).context("opening the spool")?;

    let comm = format!("selftest-{:06x}", seed() & 0xff_ffff);
    say(&format!("crashing a child named {comm}"));
    let deadline = Instant::now() + PATIENCE;
    // It needs no configuration, and must not stumble over that of others.
    let child = Command::new(own)
        .args(["--config", "/dev/null", CRASH, &comm])
        .spawn()
        .context("starting a child to crash")?;
    let status = end_of(child, deadline)?;
    ensure!(status.signal().is_some(), "the child was to crash and ended with {status}");

    let patience = if status.core_dumped() { PATIENCE } else { PATIENCE_WITHOUT_CORE };
    // The composer may have to wait for a container runtime before it writes.
    let (settings, _) = ComposerSettings::read(&node.config.composer_yaml);
    let deadline = Instant::now() + patience + settings.cri_timeout;
    let line = loop {
        if let Some(line) = line_about(&spool, &comm)? {
            break line;
        }
        ensure!(Instant::now() < deadline, "{}", silence(status));
        thread::sleep(LOOK_EVERY);
    };
    if let Verdict::LeftOut = verdict(&line)? {
        say(&"self-test passed");
        return Ok(());
    }
    let found = spool.list().context("looking into the spool")?;
    match found.iter().find(|found| *found.entry.id() == line.id) {
        Some(dump) if dump.entry.state() == State::Ready => {
            say(&format!("its dump is in the spool: {}", dump.entry));
        }
        Some(dump) => bail!("its dump is {}, not ready: {}", dump.entry.state(), dump.entry),
        // The composer wrote its line after the dump was there.
        None => say(&format!("its dump {} has left the spool: the uploader has taken it", line.id)),
    }
    say(&"self-test passed");
    Ok(())
}

/// The child's part: dies under the name it was given.
///
/// # Errors
/// If it cannot take the name.
pub fn crash(comm: &str) -> Result<()> {
    nix::sys::prctl::set_name(&std::ffi::CString::new(comm)?).context("taking a name")?;
    std::process::abort()
}

/// Tells this self-test from earlier ones; nobody has to be unable to guess it.
fn seed() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.subsec_nanos().rotate_left(12) ^ std::process::id()
}

/// Waits until the kernel lets go of the child, which is when the composer has
/// read its core.
fn end_of(mut child: Child, deadline: Instant) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("waiting for the child")? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            // Nothing is lost if it just died, and nothing gained if it cannot.
            let _ = child.kill();
            bail!("the child was not gone after {PATIENCE:?}: the composer holds it; see `dmesg`");
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// What the journal says about the process named `comm`.
fn line_about(spool: &Spool, comm: &str) -> Result<Option<Line>> {
    let is_wanted =
        |line: &io::Result<Line>| line.as_ref().map_or(true, |line| line.comm == Some(comm.into()));
    lines(spool).find(is_wanted).transpose().context("reading the journal in the spool")
}

/// What it means that the journal has no line about the child.
fn silence(status: ExitStatus) -> &'static str {
    if status.core_dumped() {
        "the composer read the core and wrote no line about it: it failed; see `dmesg` for its reason"
    } else {
        "the kernel dumped no core: it could not start the composer, or had core_pipe_limit of them \
         running already; see `dmesg`"
    }
}

/// What the journal's line about the child means.
enum Verdict {
    /// There is a dump, or was one.
    Captured,
    /// The settings do not want one.
    LeftOut,
}

fn verdict(line: &Line) -> Result<Verdict> {
    match &line.outcome {
        Outcome::Captured { truncated: None, core_bytes, .. } => {
            say(&format!("captured {core_bytes} bytes of core"));
            Ok(Verdict::Captured)
        }
        Outcome::Captured { truncated: Some(why), .. } => {
            bail!("the core of the child is not whole: {}", why.as_str())
        }
        Outcome::Skipped {
            reason: reason @ (Skip::DiskFull | Skip::SpoolFull | Skip::RateLimit | Skip::Busy),
        } => {
            bail!("the composer had no room for the core of the child: {}", reason.as_str())
        }
        Outcome::Skipped { reason } => {
            say(&format!("the composer has left the child out, as configured: {}", reason.as_str()));
            Ok(Verdict::LeftOut)
        }
        Outcome::Refused { reason } => bail!("the composer refused the core of the child: {reason}"),
    }
}
