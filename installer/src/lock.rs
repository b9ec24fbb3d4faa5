//! One installer at a time: a lock on the host directory itself, which leaves
//! no file behind and ends with its holder, however that ends.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::is_absence;

/// Another installer is done in less than a second, but there may be many, and
/// a slow disk. For those who cannot come back later.
pub const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);

/// Held while the host is changed.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it is what ends the lock")] File);

/// Somebody else holds the lock on this directory, and will let go of it.
#[derive(Debug)]
pub struct Busy(PathBuf);

impl Error for Busy {}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another installer is at work in {}", self.0.display())
    }
}

impl Lock {
    /// Waits for the lock on `dir`, for a while; `None` if there is no such
    /// directory, or no longer: whoever held the lock may have uninstalled.
    ///
    /// # Errors
    /// [`Busy`], or that it cannot be locked.
    pub fn take(dir: &Path, patience: Duration) -> Result<Option<Lock>> {
        let deadline = Instant::now() + patience;
        loop {
            match attempt(dir) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) if Instant::now() >= deadline => bail!(Busy(dir.to_owned())),
                Ok(None) => thread::sleep(RETRY),
                Err(err) if is_absence(&err) => return Ok(None),
                Err(err) => return Err(err).with_context(|| format!("locking {}", dir.display())),
            }
        }
    }
}

fn attempt(dir: &Path) -> io::Result<Option<Lock>> {
    let file = File::open(dir)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(err)) => return Err(err),
    }
    // Whoever held it before us may have uninstalled, and then what we have
    // locked is a directory without a name.
    let (locked, named) = (file.metadata()?, fs::metadata(dir)?);
    let same = (locked.dev(), locked.ino()) == (named.dev(), named.ino());
    Ok(same.then_some(Lock(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_had_by_one_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = attempt(dir.path()).unwrap().unwrap();
        assert!(attempt(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(attempt(dir.path()).unwrap().is_some());
    }

    #[test]
    fn a_held_lock_and_a_vanished_directory_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = attempt(dir.path()).unwrap().unwrap();
        assert!(Lock::take(dir.path(), Duration::ZERO).unwrap_err().is::<Busy>());
        // Whoever waits for the lock of an installer that uninstalls.
        let waiting = dir.path().to_owned();
        let waiting = thread::spawn(move || Lock::take(&waiting, PATIENCE).map(|lock| lock.is_none()));
        fs::remove_dir(dir.path()).unwrap();
        assert!(waiting.join().unwrap().unwrap());
    }
}
