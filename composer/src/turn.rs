//! How many composers work at once.
//!
//! Two hundred processes may crash in the same second. The kernel starts a
//! composer for each (`core_pipe_limit`), and if all of them worked at once,
//! none would end soon, and the node would have to bear it. So each locks a byte
//! of the settings, a file that is there anyway and that only root can open.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// How long a crashed process is held for others to be done.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// Where the bytes begin of which a pod may have some.
const OF_PODS: usize = 1 << 20;

/// The right to copy a core, until it is dropped, or we die.
pub struct Turn {
    _locks: File,
}

impl Turn {
    /// Waits until fewer than `most` others have one, and fewer than half as many
    /// of the same `pod`: one that crashes and crashes must not take it from the
    /// others. `None`: that took too long.
    ///
    /// # Errors
    /// If there is no such file, or the file system has no locks.
    pub fn wait(file: &Path, most: usize, pod: Option<&str>) -> io::Result<Option<Turn>> {
        let file = File::options().read(true).write(true).open(file)?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(pod) = pod
            && !take_one(&file, first_of(pod), (most / 2).max(1))?
        {
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
        while !take_one(&file, 0, most)? {
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
        Ok(Some(Turn { _locks: file }))
    }
}

/// As many as keep the processors busy while some wait for a disk.
pub fn most(processors: usize) -> usize {
    (2 * processors).clamp(4, 16)
}

/// Pods that share bytes wait for each other, and that is rare.
fn first_of(pod: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    pod.hash(&mut hasher);
    OF_PODS + (hasher.finish() as usize % (1 << 20)) * 16
}

/// Locks one of so many bytes, if one is free.
fn take_one(file: &File, first: usize, many: usize) -> io::Result<bool> {
    let own = process::id() as usize;
    for place in 0..many {
        if take(file, first + (place + own) % many)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Locks one byte, if nobody has it (fcntl(2), "Open file description locks").
fn take(file: &File, place: usize) -> io::Result<bool> {
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: place as libc::off_t,
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more_and_another_when_one_is_done() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let turns: Vec<_> = (0..3).map(|_| Turn::wait(&path, 3, None).unwrap().unwrap()).collect();
        assert!((0..3).all(|place| !take(file.as_file(), place).unwrap()));
        let waits = thread::spawn(move || {
            let got = Turn::wait(&path, 3, None).unwrap().is_some();
            (got, Instant::now())
        });
        thread::sleep(Duration::from_millis(100));
        let dropped = Instant::now();
        drop(turns);
        let (got, at) = waits.join().unwrap();
        assert!(got && at > dropped);
    }

    #[test]
    fn a_pod_has_half_of_them_at_the_most() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let turn = |pod| Turn::wait(file.path(), 4, pod).unwrap();
        let (first, _second) = (turn(Some("a")), turn(Some("a")));
        let began = Instant::now();
        let (_other, _host) = (turn(Some("b")).unwrap(), turn(None).unwrap());
        assert!(began.elapsed() < PATIENCE / 2);
        let again = Turn::wait(file.path(), 5, Some("a"));
        assert!(
            again.unwrap().is_none() && began.elapsed() > PATIENCE,
            "there is room, but not for this pod"
        );
        drop(first);
        assert!(turn(Some("a")).is_some());
    }

    #[test]
    fn it_grows_with_the_machine_up_to_a_point() {
        assert_eq!([1, 2, 4, 64].map(most), [4, 4, 8, 16]);
    }
}
