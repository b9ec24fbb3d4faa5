//! Crashes a child of our own and waits for its dump, because only a dump
//! shows that dumps are made.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::journal::{Line, Outcome, Skip};
use protocol::settings::ComposerSettings;
use protocol::spool::{Spool, State};

use crate::change::say;
use crate::crash;
use crate::host::Node;
use crate::status;

/// A dump of a process of this size takes less than a second on an idle node.
const PATIENCE: Duration = Duration::from_secs(30);
/// If the kernel says that it dumped nothing, a composer that has given up may
/// still be writing down why.
const PATIENCE_WITHOUT_CORE: Duration = Duration::from_secs(5);

/// Runs the test.
///
/// # Errors
/// The step that failed, and where to look.
pub fn run(node: &Node) -> Result<()> {
    status::report(&status::at_rest(node), false).context("before any crash")?;
    let spool = Spool::open(node.root.locate(&node.config.spool_dir)).context("opening the spool")?;

    let comm = format!("selftest-{:06x}", crash::random() & 0xff_ffff);
    say(&format!("crashing a child named {comm}"));
    let status = crash::child(node, &comm, PATIENCE)?;

    let patience = if status.core_dumped() { PATIENCE } else { PATIENCE_WITHOUT_CORE };
    // The composer may have to wait for a container runtime before it writes.
    let (settings, _) = ComposerSettings::read(&node.config.composer_yaml);
    let line = crash::line_about(&spool, &comm, patience + settings.cri_timeout)?;
    let line = line.with_context(|| silence(status))?;
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
