//! A containerd's directory, and the watchdog that leaves nothing of it.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::node;

/// In the directory: the cgroups of its pods, one a line.
pub(super) const CGROUPS: &str = "cgroups";
/// In the directory: locked for as long as it has a watchdog.
const ALIVE: &str = "alive";

/// What the directory's name begins with: a unix socket's path has 107 bytes.
const PREFIX: &str = "cdh-ctd.";

/// Held by whoever makes a directory, looks for those of others, or removes
/// one. It is empty if the machine has a `/kubepods` that is not of our making
/// and stays when the last of us goes.
const LOCK: &str = "coredump-handler-containerd.lock";

const WATCHDOG: &str = include_str!("watchdog.sh");

/// A directory with a watchdog.
pub(super) struct Home {
    dir: PathBuf,
    watchdog: Child,
}

impl Home {
    /// A new one. What others have left without a watchdog is cleared away.
    pub fn new() -> Home {
        let parent = node::short_dir_parent();
        let mut lock =
            File::options().append(true).create(true).open(lock_path()).expect("containerd's lock file");
        lock.lock().expect("locking containerd's lock file");
        let found = siblings(parent);
        if found.is_empty() {
            lock.set_len(0).expect("emptying the lock file");
            if !has_kubepods() {
                writeln!(lock, "/kubepods is ours").expect("writing to the lock file");
            }
        }
        // Nobody is between making a directory and locking it, so these are orphans.
        let orphans: Vec<_> = found.into_iter().filter_map(|dir| Some((try_lock(&dir)?, dir))).collect();
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
        let dir = dir.expect("a temporary directory for containerd").keep();
        let alive = try_lock(&dir).expect("nobody else knows it");
        drop(lock);

        for (alive, dir) in orphans {
            eprintln!("clearing away {}", dir.display());
            // It tries again next time if it does not get through.
            let _ = watch(&dir, alive).stdin(Stdio::null()).status();
        }
        let watchdog = watch(&dir, alive).stdin(Stdio::piped()).spawn().expect("starting a watchdog");
        Home { dir, watchdog }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Takes it away, with all that runs in it, and returns whether that worked.
    pub fn leave(&mut self) -> bool {
        // `wait` closes the pipe.
        self.watchdog.wait().as_ref().is_ok_and(ExitStatus::success)
    }
}

fn watch(dir: &Path, alive: File) -> Command {
    let mut watchdog = Command::new("/bin/sh");
    watchdog.args(["-c", WATCHDOG, "watchdog"]).arg(dir).arg(lock_path()).current_dir("/");
    watchdog.stdout(alive); // not to be written to: it is how the lock outlives us
    watchdog.process_group(0); // Ctrl-C is not for it
    watchdog
}

/// The lock of a directory, unless its watchdog has it.
fn try_lock(dir: &Path) -> Option<File> {
    let path = dir.join(ALIVE);
    let alive = File::options().append(true).create(true).open(&path);
    let alive = alive.unwrap_or_else(|err| panic!("opening {}: {err}", path.display()));
    match alive.try_lock() {
        Ok(()) => Some(alive),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(err)) => panic!("locking {}: {err}", path.display()),
    }
}

fn siblings(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).expect("the directory of temporary directories");
    let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    ours.map(|entry| entry.path()).collect()
}

fn has_kubepods() -> bool {
    let entries = fs::read_dir("/sys/fs/cgroup").expect("the machine has cgroups");
    entries.flatten().any(|entry| entry.file_name() == "kubepods" || entry.path().join("kubepods").exists())
}

fn lock_path() -> PathBuf {
    let dir = Path::new("/run/lock");
    if dir.is_dir() { dir } else { Path::new("/tmp") }.join(LOCK)
}
