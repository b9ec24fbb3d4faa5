//! One installer at a time: a lock on the host directory itself, which leaves
//! no file behind and ends with its holder, however that ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Another installer is done in less than a second.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);

/// Held while the host is changed.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it is what ends the lock")] File);

impl Lock {
    /// Waits for the lock on `dir`, for a while.
    ///
    /// # Errors
    /// If there is no such directory, or somebody else holds on to it.
    pub fn take(dir: &Path) -> Result<Lock> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = attempt(dir).with_context(|| format!("locking {}", dir.display()))? {
                return Ok(lock);
            }
            if Instant::now() > deadline {
                bail!("another installer has been at work in {} for {PATIENCE:?}", dir.display());
            }
            thread::sleep(RETRY);
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
}
