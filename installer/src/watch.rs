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
use protocol::record;

use crate::change::{install, uninstall};
use crate::cluster::{DaemonSet, Verdict};
use crate::host::{Deleted, Node, observe};
use crate::lock::Busy;
use crate::step::Step;
use crate::sysctl::Sysctl;
use crate::trial::NotRun;

/// Installs, then repairs until told to end. What it did stays: the end of a
/// pod is no uninstall, or each update would open a window without dumps. Only
/// if `daemon_set` is being removed is the node given back.
///
/// # Errors
/// If a host that never worked cannot be made to collect; [`Deleted`]; or if not
/// everything could be given back.
pub fn run(node: &Node, daemon_set: Option<&DaemonSet>) -> Result<()> {
    record::begin();
    // Blocked before anything else, so that none comes at a bad moment, and
    // read from a descriptor, so that one ends the wait between two looks.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("blocking SIGTERM")?;
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).context("waiting for SIGTERM")?;

    let worked = observe(node).is_ok_and(|host| host.memory.is_some() && host.trial.is_proven(true));
    let mut watch = Watch { node, worked, installed: false, trouble: None, drift: BTreeMap::new() };
    watch.look()?;
    if let Some(daemon_set) = daemon_set {
        daemon_set.look_out()?;
    }
    let signal = loop {
        match ended(&ends, node.config.check_every)? {
            Some(signal) => break signal,
            None => watch.look()?,
        }
    };
    // Nobody but a person at a terminal sends the other one.
    match daemon_set.filter(|_| signal == Signal::SIGTERM).map(DaemonSet::verdict) {
        None => info!("ended; what is installed stays"),
        Some(Verdict::Stay(why)) => info!("ended; what is installed stays: {why}"),
        Some(Verdict::Leave(why)) => {
            info!("giving this node back: {why}");
            uninstall(node, |did| info!("{did}"))?;
            // Who removes us listens for this.
            info!("this node is what it was before");
        }
    }
    Ok(())
}

/// What has been seen and said so far.
struct Watch<'a> {
    node: &'a Node,
    /// Before we came. Somebody has to be there who gives such a node back.
    worked: bool,
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
            Err(err) if err.is::<Deleted>() => return Err(err),
            // The next trial may pass; the rest is in place.
            Err(err) if self.worked || self.installed || err.is::<Busy>() || err.is::<NotRun>() => {
                self.complain(format!("{err:#}"));
            }
            Err(err) => return Err(err),
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
        Step::Try => info!("the kernel was seen to run the composer"),
        step => warn!("somebody changed this node: had to {step}"),
    }
}

/// Waits for the next look, or for the signal that ends it.
fn ended(ends: &SignalFd, check_every: Duration) -> Result<Option<Signal>> {
    let timeout = PollTimeout::try_from(check_every).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(ends.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) | Err(Errno::EINTR) => return Ok(None),
        Ok(_) => {}
        Err(err) => return Err(err).context("waiting for SIGTERM"),
    }
    let signal = ends.read_signal().context("reading which signal came")?;
    Ok(signal.and_then(|signal| Signal::try_from(signal.ssi_signo.cast_signed()).ok()))
}
