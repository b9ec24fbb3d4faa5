//! How a line gets into the journal, whole, whoever else is writing.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use super::{FILE_NAME, Line, MAX_BYTES, PREVIOUS};
use crate::spool::Spool;
use nix::fcntl::{FallocateFlags, fallocate};

/// Holders write one line; one that takes longer is stuck, and the line can do
/// without the lock, which only keeps two composers from rotating at once.
const LOCK_DEADLINE: Duration = Duration::from_secs(1);

/// Room on the disk for 400 lines to come: they are about crashes for which there
/// is none.
const AHEAD: i64 = 128 << 10;

/// Appends `line`, in one piece.
///
/// # Errors
/// If it cannot be written.
pub fn append(spool: &Spool, line: &Line) -> io::Result<()> {
    let mut record = serde_json::to_vec(line)?;
    record.push(b'\n');
    let (mut journal, held) = open(spool)?;
    let before = journal.metadata()?.len();
    // Only one composer at a time may rotate, or the second would replace the
    // full journal with the new one.
    if held && before + record.len() as u64 > MAX_BYTES {
        fs::rename(spool.dir().join(FILE_NAME), spool.dir().join(PREVIOUS))?;
        journal = spool.append(FILE_NAME)?;
    } else if !ends_a_line(&journal, before) {
        // A composer was killed there, or its disk was full.
        record.insert(0, b'\n');
    }
    let at = journal.metadata()?.len();
    // Without it the line may still fit.
    let _ = fallocate(&journal, FallocateFlags::FALLOC_FL_KEEP_SIZE, at as i64, AHEAD);
    journal.write_all(&record)
}

/// Opens the journal and locks it, and makes sure that it is still the journal:
/// whoever held the lock before us may have rotated it away. Returns whether it
/// is ours alone.
fn open(spool: &Spool) -> io::Result<(File, bool)> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    let path = spool.dir().join(FILE_NAME);
    loop {
        let journal = spool.append(FILE_NAME)?;
        let held = match journal.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(err)) => return Err(err),
        };
        let current =
            fs::metadata(&path).is_ok_and(|now| journal.metadata().is_ok_and(|ours| same(&now, &ours)));
        if (held && current) || Instant::now() > deadline {
            return Ok((journal, held && current));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn ends_a_line(journal: &File, len: u64) -> bool {
    let mut last = [b'\n'];
    // Without reading it the worst is one line that nobody understands.
    let _ = len.checked_sub(1).map(|at| journal.read_at(&mut last, at));
    last == [b'\n']
}

fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::Outcome;
    use crate::spool::DumpId;
    use jiff::Timestamp;

    fn line(pid: u32) -> Line {
        Line {
            at: Timestamp::UNIX_EPOCH,
            id: DumpId::new(Timestamp::UNIX_EPOCH, pid, 7),
            outcome: Outcome::Refused { reason: "no space\nleft".into() },
            pid: Some(pid),
            signal: Some(11),
            comm: Some(b"a\xff\"\n"[..].into()),
            container: None,
            pod_uid: None,
        }
    }

    fn read(dir: &Path, name: &str) -> Vec<Line> {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A directory of no disk: one that stalls for a second has the lock given up.
    fn in_memory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn lines_of_many_composers_at_once_stay_whole() {
        let dir = in_memory();
        let spool = Spool::open(dir.path()).unwrap();
        thread::scope(|scope| {
            for pid in 0..50 {
                let spool = &spool;
                scope.spawn(move || append(spool, &line(pid)).unwrap());
            }
        });
        let mut pids: Vec<_> = read(dir.path(), FILE_NAME).iter().map(|line| line.pid.unwrap()).collect();
        pids.sort_unstable();
        assert_eq!(pids, Vec::from_iter(0..50));
    }

    #[test]
    fn a_full_journal_is_rotated_once_and_no_line_is_lost_on_the_way() {
        let dir = in_memory();
        let spool = Spool::open(dir.path()).unwrap();
        append(&spool, &line(1)).unwrap();
        let filler = vec![b'\n'; MAX_BYTES as usize];
        spool.append(FILE_NAME).unwrap().write_all(&filler).unwrap();
        thread::scope(|scope| {
            for pid in 2..10 {
                let spool = &spool;
                scope.spawn(move || append(spool, &line(pid)).unwrap());
            }
        });
        assert_eq!(read(dir.path(), FILE_NAME).len(), 8);
        assert!(fs::read_to_string(dir.path().join(PREVIOUS)).unwrap().starts_with("{\"at\""));
    }

    #[test]
    fn a_journal_that_was_rotated_meanwhile_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let rotator = spool.append(FILE_NAME).unwrap();
        rotator.lock().unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| append(&spool, &line(1)).unwrap());
            // However long it has been waiting for the lock by now.
            thread::yield_now();
            fs::rename(dir.path().join(FILE_NAME), dir.path().join(PREVIOUS)).unwrap();
            drop(spool.append(FILE_NAME).unwrap());
            drop(rotator);
            writer.join().unwrap();
        });
        assert_eq!(read(dir.path(), FILE_NAME), [line(1)]);
        assert!(read(dir.path(), PREVIOUS).is_empty());
    }

    #[test]
    fn half_a_line_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        append(&spool, &line(1)).unwrap();
        spool.append(FILE_NAME).unwrap().write_all(b"{\"at\":\"20").unwrap();
        append(&spool, &line(2)).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        let lines: Vec<Line> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(lines, [line(1), line(2)]);
    }

    #[test]
    fn lines_to_come_have_room_before_the_disk_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        append(&spool, &line(1)).unwrap();
        let journal = fs::metadata(dir.path().join(FILE_NAME)).unwrap();
        assert!(journal.len() < 1000 && journal.blocks() * 512 >= AHEAD as u64, "{journal:?}");
    }

    #[test]
    fn a_lock_that_is_never_let_go_costs_a_second_and_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let stuck = spool.append(FILE_NAME).unwrap();
        stuck.lock().unwrap();
        append(&spool, &line(1)).unwrap();
        assert_eq!(read(dir.path(), FILE_NAME), [line(1)]);
    }
}
