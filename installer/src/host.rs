//! What the host is: everything a plan is made from, and nothing else.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, HostRoot, STATE, TRIAL, TRIAL_NAME};

use crate::config::Config;
use crate::memory::Memory;
use crate::sysctl::Sysctl;
use crate::trial::{self, Trial};

/// The kernel runs the composer as root. Others may see whether it is there, as
/// the uploader does, and not open the directory, which is enough to take its
/// lock.
pub const HOST_DIR_MODE: u32 = 0o711;
/// The mode of the composer.
pub const COMPOSER_MODE: u32 = 0o755;
/// The mode of the composer's settings. Composers lock them.
pub const SETTINGS_MODE: u32 = 0o600;

/// A host, what it should be, and what we were shipped with.
#[derive(Debug)]
pub struct Node {
    /// What it should be.
    pub config: Config,
    /// Where its `/` is.
    pub root: HostRoot,
    /// The composer to install, a path of our own.
    pub composer: PathBuf,
    /// Our own executable.
    pub installer: PathBuf,
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
    /// Whether the kernel executes files in it, or would; or why that is not known.
    pub executes: Result<bool, String>,
    /// Whether there is a composer to install, or why not.
    pub ours: Result<(), String>,
    /// The composer, or why it cannot be looked at.
    pub composer: Result<Shipped, String>,
    /// Its settings, or why they cannot be looked at.
    pub settings: Result<Shipped, String>,
    /// What an installer that was killed would have removed.
    pub leftovers: Vec<HostPath>,
    /// The spool, or why it cannot be looked at.
    pub spool: Result<Directory, String>,
    /// The sysctls that are wanted or remembered, or why they cannot be read.
    pub sysctls: BTreeMap<Sysctl, Result<String, String>>,
    /// Whether the kernel ran the composer.
    pub trial: Trial,
}

/// A directory of the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Directory {
    /// It is not there.
    Missing {
        /// What would have to be made, the outer before the inner.
        missing: Vec<HostPath>,
    },
    /// Something else has its name, or that of a directory around it.
    Other,
    /// It is mounted, and deleted where it was mounted from.
    Deleted,
    /// It is there.
    Present {
        /// Permission bits, those above `rwx` included.
        mode: u32,
        /// Its owner, if that is not who we are.
        stranger: Option<u32>,
        /// Its group.
        gid: u32,
        /// Whether there is nothing in it but leftovers, and what came of a trial.
        empty: bool,
    },
}

/// A directory was deleted on the host while it is mounted in our pod: what is
/// put there, the kernel will not find, and only a new pod gets a new mount.
#[derive(Debug)]
pub struct Deleted(pub HostPath);

impl Error for Deleted {}

impl fmt::Display for Deleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is deleted on the host; restart to mount it anew", self.0)
    }
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
        /// Its owner, if that is not who we are.
        stranger: Option<u32>,
        /// Whether its bytes are ours.
        same: bool,
    },
}

/// Looks at the whole host.
///
/// # Errors
/// If the memory or the directory it lies in cannot be looked at. Without the
/// rest there may still be something to do.
pub fn observe(node: &Node) -> Result<Host> {
    let memory = Memory::load(&node.place(STATE))?;
    let sysctls = Sysctl::ALL.into_iter().filter(|sysctl| {
        let remembered = memory.as_ref().is_some_and(|memory| memory.sysctls.contains_key(sysctl));
        remembered || node.config.wanted(*sysctl).is_some()
    });
    Ok(Host {
        dir: directory(node, &node.config.host_dir)?,
        executes: text(executes(node)),
        ours: text(own_composer(node).map(drop)),
        composer: text(composer(node)),
        settings: text(settings(node)),
        leftovers: temporaries()
            .into_iter()
            .chain([TRIAL_NAME.to_owned()])
            .filter(|name| node.place(name).symlink_metadata().is_ok())
            .map(|name| node.config.host_dir.join(&name))
            .collect(),
        spool: text(directory(node, &node.config.spool_dir)),
        sysctls: sysctls.map(|sysctl| (sysctl, text(sysctl.read(&node.config.sysctl_dir)))).collect(),
        trial: trial::known(node),
        memory,
    })
}

/// A reason is for people, and can be compared.
fn text<T>(looked: Result<T>) -> Result<T, String> {
    looked.map_err(|err| format!("{err:#}"))
}

/// The name under which a file is written before it gets its own. Always the
/// same, so that what a kill leaves behind is found; the lock keeps two
/// installers from writing it at once.
pub fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

fn temporaries() -> [String; 5] {
    [COMPOSER, COMPOSER_SETTINGS, STATE, TRIAL, TRIAL_NAME].map(temporary)
}

/// Looks at the composer.
///
/// # Errors
/// If it, or the one we were shipped with, cannot be read.
pub fn composer(node: &Node) -> Result<Shipped> {
    shipped(&node.place(COMPOSER), || own_composer(node))
}

/// The composer to install, and its length.
fn own_composer(node: &Node) -> Result<(u64, File)> {
    let ours = &node.composer;
    let open = || File::open(ours).and_then(|file| Ok((file.metadata()?.len(), file)));
    open().with_context(|| format!("opening {}", ours.display()))
}

/// Looks at the composer's settings.
///
/// # Errors
/// If they cannot be read.
pub fn settings(node: &Node) -> Result<Shipped> {
    let ours = node.config.composer_yaml.as_bytes();
    shipped(&node.place(COMPOSER_SETTINGS), || Ok((ours.len() as u64, ours)))
}

/// What there is at `path`. Ours is asked for only if there is something to
/// compare it with.
fn shipped<R: Read>(path: &Path, ours: impl Fn() -> Result<(u64, R)>) -> Result<Shipped> {
    let reading = || format!("reading {}", path.display());
    let meta = match path.symlink_metadata() {
        Err(err) if is_absence(&err) => return Ok(Shipped::Missing),
        meta => meta.with_context(reading)?,
    };
    if !meta.is_file() {
        return Ok(Shipped::Other);
    }
    let (len, ours) = ours()?;
    // The size first: it differs between almost any two versions.
    let same = meta.len() == len
        && File::open(path).and_then(|theirs| same_bytes(theirs, ours)).with_context(reading)?;
    Ok(Shipped::Present { mode: permissions(&meta), stranger: stranger(&meta), same })
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
        if meta.nlink() == 0 {
            return Ok(Directory::Deleted);
        }
        let ours = temporaries().into_iter().chain([TRIAL, TRIAL_NAME].map(str::to_owned));
        let ours: Vec<OsString> = ours.map(OsString::from).collect();
        let empty =
            fs::read_dir(&path)?.all(|entry| entry.is_ok_and(|entry| ours.contains(&entry.file_name())));
        let (mode, stranger) = (permissions(&meta), stranger(&meta));
        Ok(Directory::Present { mode, stranger, gid: meta.gid(), empty })
    };
    match look() {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            Ok(Directory::Missing { missing: missing(node, dir) })
        }
        Err(err) if err.kind() == ErrorKind::NotADirectory => Ok(Directory::Other),
        looked => looked.with_context(|| format!("looking at {}", path.display())),
    }
}

fn missing(node: &Node, dir: &HostPath) -> Vec<HostPath> {
    let mut missing = Vec::new();
    let mut next = Some(dir.clone());
    // Never the root, which is for whoever starts us to name.
    let absent = |dir: &HostPath| dir.as_str() != "/" && !node.root.locate(dir).exists();
    while let Some(dir) = next.filter(absent) {
        next = dir.parent();
        missing.insert(0, dir);
    }
    missing
}

/// Whether the host executes what is in the host directory, or will be: ours is
/// mounted with the flags of the host's.
///
/// # Errors
/// If the kernel does not say how it is mounted.
pub fn executes(node: &Node) -> Result<bool> {
    let mut dir = node.root.locate(&node.config.host_dir);
    while !dir.exists() && dir.pop() {}
    let disk = statvfs(&dir).with_context(|| format!("asking how {} is mounted", dir.display()))?;
    Ok(!disk.flags().contains(FsFlags::ST_NOEXEC))
}

/// Whether nothing has that name, not even that of a directory around it.
pub fn is_absence(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The owner of a file, if that is not who we are.
pub fn stranger(meta: &fs::Metadata) -> Option<u32> {
    Some(meta.uid()).filter(|uid| *uid != geteuid().as_raw())
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
