//! Keeps the host collecting, and says who it lost it to.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use log::{error, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::change::install;
use crate::host::{Deleted, Node};
use crate::lock::Busy;
use crate::step::Step;
use crate::sysctl::Sysctl;

/// Installs, then repairs until told to end. What it did stays: the end of a
/// pod is no uninstall, or each update would open a window without dumps.
///
/// # Errors
/// If the host cannot be made to collect in the first place, or not by us.
pub fn run(node: &Node) -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    // Blocked before anything else, so that none comes at a bad moment, and
    // read from a descriptor, so that one ends the wait between two looks.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("blocking SIGTERM")?;
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).context("waiting for SIGTERM")?;

    let mut watch = Watch { node, installed: false, trouble: None, drift: BTreeMap::new() };
    watch.look()?;
    while !ended(&ends, node.config.check_every)? {
        watch.look()?;
    }
    info!("ended; what is installed stays");
    Ok(())
}

/// What has been seen and said so far.
struct Watch<'a> {
    node: &'a Node,
    installed: bool,
    /// Said once, not at every look until a person comes.
    trouble: Option<String>,
    /// The same for values that could not be set back.
    drift: BTreeMap<Sysctl, String>,
}

impl Watch<'_> {
    /// Installs or repairs. No waiting for others here, which SIGTERM would not
    /// end: the next look is soon enough.
    ///
    /// # Errors
    /// If no later look can find better.
    fn look(&mut self) -> Result<()> {
        let did = if self.installed { repaired } else { |step: &Step| info!("installed: {step}") };
        match install(self.node, Duration::ZERO, did) {
            Ok(()) => {
                if !self.installed {
                    info!(host_dir:% = self.node.config.host_dir; "this node is collecting");
                } else if self.trouble.is_some() {
                    info!("this node is collecting again");
                }
                (self.installed, self.trouble) = (true, None);
                self.drift.clear();
            }
            Err(err) if err.is::<Deleted>() || !(self.installed || err.is::<Busy>()) => return Err(err),
            Err(err) => self.complain(format!("{err:#}")),
        }
        Ok(())
    }

    fn complain(&mut self, trouble: String) {
        if self.installed {
            let drift = drift(self.node);
            for (sysctl, found) in &drift {
                if self.drift.get(sysctl) != Some(found) {
                    warn!(found:?; "somebody changed {sysctl}; it is not set back yet");
                }
            }
            self.drift = drift;
        }
        if self.trouble.as_ref() != Some(&trouble) {
            error!("this node may not be collecting: {trouble}");
        }
        self.trouble = Some(trouble);
    }
}

/// The sysctls that are not as they should be.
fn drift(node: &Node) -> BTreeMap<Sysctl, String> {
    let sysctls = node.config.sysctls.iter();
    let found = |(sysctl, wanted): &(Sysctl, String)| {
        let found = sysctl.read(&node.config.sysctl_dir).ok()?;
        (found != *wanted).then_some((*sysctl, found))
    };
    sysctls.filter_map(found).collect()
}

fn repaired(step: &Step) {
    match step {
        Step::Set { sysctl, from, to } => {
            warn!(found:? = from, set:? = to; "somebody changed {sysctl}; it is set back");
        }
        // Of an installer that was killed, which is nobody else.
        Step::RemoveFile(_) => info!("tidied up: {step}"),
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
