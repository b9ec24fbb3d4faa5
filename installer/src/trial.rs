//! Whether the kernel runs the composer. A file that is in place and a pattern that
//! names it do not show it: our `/opt` may not be the `/opt` of the kernel's own
//! mounts (a node that is itself a container), a security module may forbid to
//! execute it, the processor may be another. So a child of our own crashes, and the
//! composer's line about it is waited for.
//!
//! What came of it is written down beside the composer, for `status`, which must
//! not crash anything every ten seconds, and holds until another boot, composer,
//! pattern or spool:
//!
//! ```json
//! { "of": { "boot": "5a1c…", "composer": 2858931237, "core_pattern": "|/opt/…", "spool_dir": "/var/…" },
//!   "at": "2026-11-22T19:31:02Z", "proven": true, "outcome": "passed" }
//! ```

use std::error::Error;
use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use protocol::host::{COMPOSER, HostPath, TRIAL};
use protocol::journal;
use protocol::spool::Spool;
use serde::{Deserialize, Serialize};

use crate::crash;
use crate::host::{Node, is_absence};
use crate::sysctl::Sysctl;

/// The composer closes the pipe without reading it.
const PATIENCE: Duration = Duration::from_secs(10);
/// And writes its line next.
const PATIENCE_FOR_LINE: Duration = Duration::from_secs(5);

/// What is known about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trial {
    /// The sysctls are plain files: there is no kernel to try.
    NoKernel,
    /// None was made.
    Untried,
    /// One was made, or begun, and not of what there is now.
    Outdated {
        /// Whether any has passed since this host is ours.
        proven: bool,
    },
    /// The kernel ran the composer.
    Passed,
    /// The kernel did not run it.
    Failed {
        /// As far as can be said.
        why: String,
        /// How long that is known.
        ago: Duration,
        /// Whether any has passed since this host is ours.
        proven: bool,
    },
}

impl Trial {
    /// Whether one has passed on this host; `remembered`, if it is ours.
    pub fn is_proven(&self, remembered: bool) -> bool {
        match *self {
            Trial::NoKernel | Trial::Passed => true,
            // Of before there were trials.
            Trial::Untried => remembered,
            Trial::Outdated { proven } | Trial::Failed { proven, .. } => remembered && proven,
        }
    }
}

/// It is not known that the kernel runs the composer, and why not.
#[derive(Debug)]
pub struct NotRun(pub String);

impl Error for NotRun {}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of a trial.
#[derive(Debug, Deserialize, Serialize)]
pub struct Record {
    of: Tried,
    at: Timestamp,
    proven: bool,
    outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is to be made.
    Pending,
    /// The kernel ran the composer.
    Passed,
    /// The kernel did not, and why, as far as can be said.
    Failed(String),
}

/// What was tried.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Tried {
    boot: String,
    /// CRC-32 of its bytes.
    composer: u32,
    core_pattern: String,
    spool_dir: HostPath,
}

impl Tried {
    fn now(node: &Node) -> Result<Tried> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let composer =
            fs::read(&node.composer).with_context(|| format!("reading {}", node.composer.display()))?;
        Ok(Tried {
            boot: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            composer: crc32fast::hash(&composer),
            core_pattern: node.config.wanted(Sysctl::CorePattern).unwrap_or_default().to_owned(),
            spool_dir: node.config.spool_dir.clone(),
        })
    }
}

impl Record {
    /// The record of a trial that has this `outcome`, or is to have one.
    ///
    /// # Errors
    /// If it cannot be said of what.
    pub fn new(node: &Node, outcome: Outcome, proven: bool) -> Result<Record> {
        let proven = proven || outcome == Outcome::Passed;
        Ok(Record { of: Tried::now(node)?, at: Timestamp::now(), proven, outcome })
    }
}

/// Looks at what came of the last one.
pub fn known(node: &Node) -> Trial {
    let pattern = Sysctl::CorePattern.path(&node.config.sysctl_dir);
    if statfs(&pattern).map_or(true, |disk| disk.filesystem_type() != PROC_SUPER_MAGIC) {
        return Trial::NoKernel;
    }
    let record: Record = match fs::read(node.place(TRIAL)) {
        Err(err) if is_absence(&err) => return Trial::Untried,
        json => match json.ok().and_then(|json| serde_json::from_slice(&json).ok()) {
            Some(record) => record,
            // Whoever did that to it, the host need not be given back.
            None => return Trial::Outdated { proven: true },
        },
    };
    let proven = record.proven;
    let is_current = Tried::now(node).is_ok_and(|now| now == record.of);
    match record.outcome {
        Outcome::Passed if is_current => Trial::Passed,
        Outcome::Failed(why) if is_current => {
            // A clock that was set back makes it long ago.
            let ago = Timestamp::now().duration_since(record.at);
            Trial::Failed { why, ago: Duration::try_from(ago).unwrap_or(Duration::MAX), proven }
        }
        Outcome::Pending | Outcome::Passed | Outcome::Failed(_) => Trial::Outdated { proven },
    }
}

/// The command name of a trial, which nobody can guess.
pub fn name() -> String {
    format!("trial-{:09x}", crash::random() & 0xf_ffff_ffff)
}

/// Makes one under this name, which the composer has to know by now.
///
/// # Errors
/// If somebody changed the pattern meanwhile.
pub fn make(node: &Node, name: &str) -> Result<Outcome> {
    let outcome = match crash_as(node, name) {
        Ok(true) => return Ok(Outcome::Passed),
        Ok(false) => Outcome::Failed(format!(
            "the kernel does not run {}, or not with the {} that we see: of a crash of our own nothing came into its \
             {}; `dmesg` on the node has the reason",
            node.config.host_dir.join(COMPOSER),
            node.config.spool_dir,
            journal::FILE_NAME
        )),
        Err(err) => Outcome::Failed(format!("it is not known whether the kernel runs the composer: {err:#}")),
    };
    let now = Sysctl::CorePattern.read(&node.config.sysctl_dir)?;
    ensure!(Some(&*now) == node.config.wanted(Sysctl::CorePattern), "somebody set core_pattern to {now:?}");
    Ok(outcome)
}

/// Whether the journal has a line about it.
fn crash_as(node: &Node, name: &str) -> Result<bool> {
    let spool = Spool::open(node.root.locate(&node.config.spool_dir)).context("opening the spool")?;
    crash::child(node, name, PATIENCE)?;
    Ok(crash::line_about(&spool, name, PATIENCE_FOR_LINE)?.is_some())
}
