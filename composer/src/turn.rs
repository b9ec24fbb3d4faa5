//! How many composers work at once.
//!
//! Two hundred processes may crash in the same second. The kernel starts a
//! composer for each (`core_pipe_limit`), and if all of them worked at once,
//! none would end soon, and the node would have to bear it.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use protocol::spool::{COMPOSERS, Spool};

/// How long a crashed process is held for others to be done.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// The right to write a dump, until it is dropped, or we die.
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until fewer than `most` others have one. `None`: that took too long.
    ///
    /// # Errors
    /// If the file system has no locks.
    pub fn wait(spool: &Spool, most: usize) -> io::Result<Option<Turn>> {
        let file = spool.append(COMPOSERS)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            for place in 0..most {
                if take(&file, place)? {
                    return Ok(Some(Turn { _lock: file }));
                }
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// As many as keep the processors busy while some wait for a runtime or a disk.
pub fn most(processors: usize) -> usize {
    (2 * processors).clamp(4, 16)
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
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let turns: Vec<_> = (0..3).map(|_| Turn::wait(&spool, 3).unwrap().unwrap()).collect();
        let file = spool.append(COMPOSERS).unwrap();
        assert!((0..3).all(|place| !take(&file, place).unwrap()));
        let waits = thread::spawn(move || {
            let began = Instant::now();
            (Turn::wait(&spool, 3).unwrap().is_some(), began.elapsed())
        });
        thread::sleep(Duration::from_millis(100));
        drop(turns);
        let (got, after) = waits.join().unwrap();
        assert!(got && after > Duration::from_millis(90) && after < PATIENCE, "{after:?}");
    }

    #[test]
    fn it_grows_with_the_machine_up_to_a_point() {
        assert_eq!([1, 2, 4, 64].map(most), [4, 4, 8, 16]);
    }
}
