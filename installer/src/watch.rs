//! Keeps the host collecting, and says who it lost it to.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use log::{error, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::change::install;
use crate::host::Node;
use crate::plan::Step;

/// Installs, then repairs until told to end. What it did stays: the end of a
/// pod is no uninstall, or each update would open a window without dumps.
///
/// # Errors
/// If the host cannot be made to collect in the first place.
pub fn run(node: &Node) -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    // Blocked before anything else, so that none comes at a bad moment, and
    // read from a descriptor, so that one ends the wait between two looks.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("blocking SIGTERM")?;
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).context("waiting for SIGTERM")?;

    install(node, |step| info!("installed: {step}"))?;
    info!(host_dir:% = node.config.host_dir; "this node is collecting");
    let mut trouble = None;
    while !ended(&ends, node.config.check_every)? {
        match install(node, repaired) {
            Ok(()) if trouble.take().is_some() => info!("this node is collecting again"),
            Ok(()) => {}
            Err(err) => {
                // Once, not at every look until a person comes.
                let err = format!("{err:#}");
                if trouble.as_ref() != Some(&err) {
                    error!("this node may not be collecting: {err}");
                }
                trouble = Some(err);
            }
        }
    }
    info!("ended; this node goes on collecting");
    Ok(())
}

fn repaired(step: &Step) {
    match step {
        Step::Set { sysctl, from, to } => {
            warn!(found:? = from, set:? = to; "somebody changed {sysctl}; it is set back");
        }
        step => warn!("somebody changed this node: had to {step}"),
    }
}

/// Waits for the next look, or for the end.
fn ended(ends: &SignalFd, check_every: Duration) -> Result<bool> {
    let timeout = PollTimeout::try_from(check_every).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(ends.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(err) => Err(err).context("waiting for SIGTERM"),
    }
}
