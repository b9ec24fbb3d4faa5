//! Whether the kernel runs the composer. A file that is in place and a pattern that
//! names it do not show it: our `/opt` may not be the `/opt` of the kernel's own
//! mounts (a node that is itself a container), a security module may forbid to
//! execute it, the processor may be another.
//!
//! What came of it is written down beside the composer, for `status`, which must
//! not crash anything every ten seconds, and holds until another composer, another
//! pattern or another boot:
//!
//! ```json
//! { "of": { "boot": "5a1c…", "composer": [262157, 1795419062, 113204000],
//!           "core_pattern": "|/opt/…", "spool_dir": "/var/…" },
//!   "failure": null }
//! ```

use std::error::Error;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use protocol::host::{COMPOSER, HostPath, TRIAL};
use protocol::journal;
use protocol::spool::Spool;
use protocol::trial;
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
    /// It was made with something else.
    Outdated,
    /// The kernel ran it.
    Passed,
    /// The kernel did not run it, or it could do nothing.
    Failed(String),
}

/// The kernel does not run the composer, and why, as far as can be said.
#[derive(Debug)]
pub struct Failed(pub String);

impl Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of a trial.
#[derive(Debug, Deserialize, Serialize)]
pub struct Record {
    of: Tried,
    /// Why the kernel did not run the composer.
    pub failure: Option<String>,
}

/// What was tried.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Tried {
    boot: String,
    /// Inode and time of change: of no two files the same.
    composer: (u64, i64, i64),
    core_pattern: String,
    spool_dir: HostPath,
}

impl Tried {
    fn now(node: &Node) -> Result<Tried> {
        let boot = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(boot).with_context(|| format!("reading {boot}"))?.trim().to_owned();
        let composer = node.place(COMPOSER);
        let composer =
            fs::metadata(&composer).with_context(|| format!("looking at {}", composer.display()))?;
        Ok(Tried {
            boot,
            composer: (composer.ino(), composer.ctime(), composer.ctime_nsec()),
            core_pattern: node.config.wanted(Sysctl::CorePattern).unwrap_or_default().to_owned(),
            spool_dir: node.config.spool_dir.clone(),
        })
    }
}

/// Looks at what came of the last one.
///
/// # Errors
/// If that cannot be read, though it is there.
pub fn known(node: &Node) -> Result<Trial> {
    let pattern = Sysctl::CorePattern.path(&node.config.sysctl_dir);
    if statfs(&pattern).map_or(true, |disk| disk.filesystem_type() != PROC_SUPER_MAGIC) {
        return Ok(Trial::NoKernel);
    }
    let path = node.place(TRIAL);
    let json = match fs::read(&path) {
        Err(err) if is_absence(&err) => return Ok(Trial::Untried),
        json => json.with_context(|| format!("reading {}", path.display()))?,
    };
    let record = serde_json::from_slice::<Record>(&json).ok();
    let now = Tried::now(node).ok(); // the composer may be gone
    Ok(match record.filter(|record| Some(&record.of) == now.as_ref()) {
        None => Trial::Outdated,
        Some(Record { failure: None, .. }) => Trial::Passed,
        Some(Record { failure: Some(why), .. }) => Trial::Failed(why),
    })
}

/// Makes one.
///
/// # Errors
/// If it could not be made.
pub fn make(node: &Node) -> Result<Record> {
    let of = Tried::now(node)?;
    let spool = Spool::open(node.root.locate(&node.config.spool_dir)).context("opening the spool")?;
    let comm = trial::comm(crash::seed());
    crash::child(node, &comm, PATIENCE)?;
    let line = crash::line_about(&spool, &comm, PATIENCE_FOR_LINE)?;
    let failure = line.is_none().then(|| {
        format!(
            "the kernel does not run {}, or not with the {} that we see: of a crash of our own nothing came \
             into its {}; `dmesg` on the node has the reason",
            node.config.host_dir.join(COMPOSER),
            node.config.spool_dir,
            journal::FILE_NAME
        )
    });
    Ok(Record { of, failure })
}
