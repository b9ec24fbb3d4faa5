//! What the host is: everything a plan is made from, and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, HostRoot, STATE};

use crate::config::Config;
use crate::memory::Memory;
use crate::sysctl::Sysctl;

/// The composer is run by root and must be changed by nobody else.
pub const HOST_DIR_MODE: u32 = 0o755;
/// The mode of the composer.
pub const COMPOSER_MODE: u32 = 0o755;
/// The mode of the composer's settings.
pub const SETTINGS_MODE: u32 = 0o644;

/// A host, what it should be, and what we were shipped with.
#[derive(Debug)]
pub struct Node {
    /// What it should be.
    pub config: Config,
    /// Where its `/` is.
    pub root: HostRoot,
    /// The composer to install, a path of our own.
    pub composer: PathBuf,
}

impl Node {
    /// Where `name` in the host directory is for us.
    pub fn place(&self, name: &str) -> PathBuf {
        self.root.locate(&self.config.host_dir.join(name))
    }
}

/// What the host is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// What was remembered.
    pub memory: Option<Memory>,
    /// The host directory.
    pub dir: Directory,
    /// The composer.
    pub composer: Shipped,
    /// Its settings.
    pub settings: Shipped,
    /// Temporary files of an installer that was killed.
    pub leftovers: Vec<HostPath>,
    /// The spool.
    pub spool: Directory,
    /// The sysctls that are wanted or remembered, or why they cannot be read.
    pub sysctls: BTreeMap<Sysctl, Result<String, String>>,
}

/// A directory of the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Directory {
    /// It is not there.
    Missing {
        /// What would have to be made, the outer before the inner.
        missing: Vec<HostPath>,
    },
    /// Something else has its name.
    Other,
    /// It is there.
    Present {
        /// Permission bits, those above `rwx` included.
        mode: u32,
        /// Its group.
        gid: u32,
        /// Whether there is nothing in it but leftovers.
        empty: bool,
    },
}

/// A file of the host that should be a copy of something of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shipped {
    /// It is not there.
    Missing,
    /// Its name is taken by something that is no regular file.
    Other,
    /// It is there.
    Present {
        /// Its permission bits.
        mode: u32,
        /// Whether its bytes are ours.
        same: bool,
    },
}

/// Looks at the whole host.
///
/// # Errors
/// If something is there and cannot be looked at.
pub fn observe(node: &Node) -> Result<Host> {
    let memory = Memory::load(&node.place(STATE))?;
    let sysctls = Sysctl::ALL.into_iter().filter(|sysctl| {
        let remembered = memory.as_ref().is_some_and(|memory| memory.sysctls.contains_key(sysctl));
        remembered || node.config.wanted(*sysctl).is_some()
    });
    let read = |sysctl: Sysctl| sysctl.read(&node.config.sysctl_dir).map_err(|err| format!("{err:#}"));
    Ok(Host {
        dir: directory(node, &node.config.host_dir)?,
        composer: composer(node)?,
        settings: settings(node)?,
        leftovers: temporaries()
            .into_iter()
            .filter(|name| node.place(name).symlink_metadata().is_ok())
            .map(|name| node.config.host_dir.join(&name))
            .collect(),
        spool: directory(node, &node.config.spool_dir)?,
        sysctls: sysctls.map(|sysctl| (sysctl, read(sysctl))).collect(),
        memory,
    })
}

/// The name under which a file is written before it gets its own. Always the
/// same, so that what a kill leaves behind is found; the lock keeps two
/// installers from writing it at once.
pub fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

fn temporaries() -> [String; 3] {
    [COMPOSER, COMPOSER_SETTINGS, STATE].map(temporary)
}

/// Looks at the composer.
///
/// # Errors
/// If it, or the one we were shipped with, cannot be read.
pub fn composer(node: &Node) -> Result<Shipped> {
    let ours = &node.composer;
    let own = File::open(ours).with_context(|| format!("opening {}", ours.display()))?;
    shipped(&node.place(COMPOSER), own.metadata()?.len(), own)
}

/// Looks at the composer's settings.
///
/// # Errors
/// If they cannot be read.
pub fn settings(node: &Node) -> Result<Shipped> {
    let ours = node.config.composer_yaml.as_bytes();
    shipped(&node.place(COMPOSER_SETTINGS), ours.len() as u64, ours)
}

fn shipped(path: &Path, len: u64, ours: impl Read) -> Result<Shipped> {
    let look = || -> io::Result<Shipped> {
        let meta = path.symlink_metadata()?;
        if !meta.is_file() {
            return Ok(Shipped::Other);
        }
        // The size first: it differs between almost any two versions.
        let same = meta.len() == len && same_bytes(File::open(path)?, ours)?;
        Ok(Shipped::Present { mode: permissions(&meta), same })
    };
    match look() {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Shipped::Missing),
        looked => looked.with_context(|| format!("reading {}", path.display())),
    }
}

fn same_bytes(a: impl Read, b: impl Read) -> io::Result<bool> {
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (some, other) = (a.fill_buf()?, b.fill_buf()?);
        let len = some.len().min(other.len());
        if len == 0 || some[..len] != other[..len] {
            return Ok(some.is_empty() && other.is_empty());
        }
        a.consume(len);
        b.consume(len);
    }
}

/// Looks at a directory.
///
/// # Errors
/// If it cannot be looked at.
pub fn directory(node: &Node, dir: &HostPath) -> Result<Directory> {
    let path = node.root.locate(dir);
    let look = || -> io::Result<Directory> {
        let meta = fs::metadata(&path)?;
        if !meta.is_dir() {
            return Ok(Directory::Other);
        }
        let ours = |entry: &fs::DirEntry| temporaries().iter().any(|name| entry.file_name() == name.as_str());
        let empty = fs::read_dir(&path)?.all(|entry| entry.is_ok_and(|entry| ours(&entry)));
        Ok(Directory::Present { mode: permissions(&meta), gid: meta.gid(), empty })
    };
    match look() {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            Ok(Directory::Missing { missing: missing(node, dir) })
        }
        looked => looked.with_context(|| format!("looking at {}", path.display())),
    }
}

fn missing(node: &Node, dir: &HostPath) -> Vec<HostPath> {
    let mut missing = Vec::new();
    let mut next = Some(dir.clone());
    while let Some(dir) = next.filter(|dir| !node.root.locate(dir).exists()) {
        next = dir.parent();
        missing.insert(0, dir);
    }
    missing
}

fn permissions(meta: &fs::Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_only_to_the_end() {
        let same = |a: &str, b: &str| same_bytes(a.as_bytes(), b.as_bytes()).unwrap();
        assert!(same("", "") && same("abc", "abc"));
        assert!(!same("abc", "abd") && !same("ab", "abc") && !same("abc", "ab"));
    }
}
