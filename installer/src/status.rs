//! Is this node collecting, and if not, exactly why? Changes nothing.

use anyhow::{Context, Result, bail};
use nix::unistd::{AccessFlags, access};
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, SPOOL_MODE};
use serde::Serialize;

use crate::change::say;
use crate::host::{self, Deleted, Directory, HOST_DIR_MODE, Node, SETTINGS_MODE, Shipped};
use crate::plan::is_shared;
use crate::sysctl::Sysctl;
use crate::trial::{self, Trial};

/// All checks.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether all of them are passed.
    pub collecting: bool,
    /// Each of them.
    pub checks: Vec<Check>,
}

/// One thing without which no dump is collected.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What it is.
    pub detail: String,
}

/// Checks everything, whatever the outcome of the rest.
pub fn of(node: &Node) -> Status {
    let mut checks = checks(node);
    match trial::known(node) {
        Trial::NoKernel => {}
        trial => checks.push(check("kernel", tried(trial))),
    }
    Status::new(checks)
}

/// Checks everything that can be seen without a crash.
pub fn at_rest(node: &Node) -> Status {
    Status::new(checks(node))
}

fn checks(node: &Node) -> Vec<Check> {
    let mut checks = vec![
        check("host_dir", host_dir(node)),
        check("composer", composer(node)),
        check("settings", settings(node)),
        check("spool", spool(node)),
    ];
    for (sysctl, wanted) in &node.config.sysctls {
        checks.push(check(sysctl.name(), value(node, *sysctl, wanted)));
    }
    checks
}

impl Status {
    fn new(checks: Vec<Check>) -> Status {
        Status { collecting: checks.iter().all(|check| check.ok), checks }
    }
}

/// Prints the status for a person, or as JSON.
///
/// # Errors
/// If this node is not collecting: then with all the reasons.
pub fn report(status: &Status, json: bool) -> Result<()> {
    if json {
        say(&serde_json::to_string_pretty(status)?);
    } else {
        for Check { name, ok, detail } in &status.checks {
            say(&format!("{:4} {name:16} {detail}", if *ok { "ok" } else { "FAIL" }));
        }
    }
    let failed = status.checks.iter().filter(|check| !check.ok);
    let reasons: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    if !status.collecting {
        bail!("this node is not collecting: {}", reasons.join("; "));
    }
    Ok(())
}

fn check(name: &'static str, outcome: Result<String>) -> Check {
    let ok = outcome.is_ok();
    Check { name, ok, detail: outcome.unwrap_or_else(|err| format!("{err:#}")) }
}

fn host_dir(node: &Node) -> Result<String> {
    let path = &node.config.host_dir;
    let directory = host::directory(node, path)?;
    if let Directory::Present { stranger: Some(uid), .. } = directory {
        bail!("{path} belongs to uid {uid}, who could replace what root runs");
    }
    let (mode, _) = usable(path, directory)?;
    if mode != HOST_DIR_MODE {
        bail!("{path} has mode {mode:o} and should have {HOST_DIR_MODE:o}");
    }
    Ok(format!("{path} is for root alone to change"))
}

/// The mode and the group of a directory that we can use.
fn usable(path: &HostPath, directory: Directory) -> Result<(u32, u32)> {
    match directory {
        Directory::Missing { .. } => bail!("{path} is not there"),
        Directory::Other => bail!("{path} is not a directory"),
        Directory::Deleted => bail!(Deleted(path.clone())),
        Directory::Present { mode, .. } if is_shared(mode) => {
            bail!("{path} has mode {mode:o}: others share it")
        }
        Directory::Present { mode, gid, .. } => Ok((mode, gid)),
    }
}

fn composer(node: &Node) -> Result<String> {
    let path = node.config.host_dir.join(COMPOSER);
    match host::composer(node)? {
        Shipped::Missing => bail!("{path} is not there"),
        Shipped::Other => bail!("{path} is not a regular file"),
        Shipped::Present { stranger: Some(uid), .. } => {
            bail!("{path} belongs to uid {uid}, who could change what root runs")
        }
        Shipped::Present { mode, .. } if mode & 0o111 != 0o111 => {
            bail!("{path} has mode {mode:o} and cannot be executed")
        }
        Shipped::Present { mode, .. } if mode & 0o022 != 0 => {
            bail!("{path} has mode {mode:o}, and root would run what others can change")
        }
        Shipped::Present { same: false, .. } => {
            bail!("{path} is not the composer of this installer's version")
        }
        Shipped::Present { same: true, .. } if !host::executes(node)? => {
            bail!("{path} is where nothing is executed: its file system is mounted noexec")
        }
        Shipped::Present { same: true, .. } => Ok(format!("{path} is of this version")),
    }
}

fn settings(node: &Node) -> Result<String> {
    let path = node.config.host_dir.join(COMPOSER_SETTINGS);
    match host::settings(node)? {
        Shipped::Missing => bail!("{path} is not there"),
        Shipped::Other => bail!("{path} is not a regular file"),
        Shipped::Present { stranger: Some(uid), .. } => bail!("{path} belongs to uid {uid}"),
        Shipped::Present { mode, .. } if mode != SETTINGS_MODE => {
            bail!("{path} has mode {mode:o} and should have {SETTINGS_MODE:o}")
        }
        Shipped::Present { same: false, .. } => {
            bail!("{path} is not what the installer's configuration says")
        }
        Shipped::Present { same: true, .. } => Ok(format!("{path} is as configured")),
    }
}

fn spool(node: &Node) -> Result<String> {
    let (path, wanted) = (&node.config.spool_dir, node.config.spool_gid);
    let (mode, gid) = usable(path, host::directory(node, path)?)?;
    if mode != SPOOL_MODE {
        bail!("{path} has mode {mode:o} and should have {SPOOL_MODE:o}");
    }
    if gid != wanted {
        bail!("{path} belongs to group {gid} and should belong to {wanted}");
    }
    // Also finds what no mode tells: a file system mounted read-only.
    access(&node.root.locate(path), AccessFlags::W_OK | AccessFlags::X_OK)
        .with_context(|| format!("{path} cannot be written to"))?;
    Ok(format!("{path} can be written to"))
}

fn value(node: &Node, sysctl: Sysctl, wanted: &str) -> Result<String> {
    let found = sysctl.read(&node.config.sysctl_dir)?;
    if found != wanted {
        bail!("is {found:?} and should be {wanted:?}");
    }
    Ok(format!("is {found:?}"))
}

/// Whether the kernel was seen to run it.
fn tried(trial: Trial) -> Result<String> {
    match trial {
        Trial::Passed => Ok("runs the composer".to_owned()),
        Trial::Failed { why, .. } => bail!(why),
        Trial::NoKernel | Trial::Untried | Trial::Outdated { .. } => {
            bail!("was not yet seen to run this composer")
        }
    }
}
