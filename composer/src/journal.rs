//! Appends to `crashes.jsonl`; [`protocol::journal`] says what is in it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use protocol::journal::{FILE_NAME, Line, MAX_BYTES, PREVIOUS};
use protocol::spool::Spool;

/// Holders write one line; one that takes longer is stuck, and the line can do
/// without the lock, which only keeps two composers from rotating at once.
const LOCK_DEADLINE: Duration = Duration::from_secs(1);

/// Appends `line`.
pub fn append(spool: &Spool, line: &Line) -> io::Result<()> {
    let mut record = serde_json::to_vec(line)?;
    record.push(b'\n');
    let path = spool.dir().join(FILE_NAME);
    let mut journal = locked(spool, &path)?;
    if journal.metadata()?.len() + record.len() as u64 > MAX_BYTES {
        fs::rename(&path, spool.dir().join(PREVIOUS))?;
        journal = spool.append(FILE_NAME)?;
    }
    journal.write_all(&record)
}

/// Opens the journal and locks it, and makes sure that it is still the journal:
/// whoever held the lock before us may have rotated it away.
fn locked(spool: &Spool, path: &Path) -> io::Result<File> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        let journal = spool.append(FILE_NAME)?;
        let held = match journal.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(err)) => return Err(err),
        };
        let current =
            fs::metadata(path).is_ok_and(|now| journal.metadata().is_ok_and(|ours| same(&now, &ours)));
        if (held && current) || Instant::now() > deadline {
            return Ok(journal);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use protocol::journal::Outcome;
    use protocol::spool::DumpId;

    use super::*;

    fn line(pid: u32) -> Line {
        Line {
            at: Timestamp::UNIX_EPOCH,
            id: DumpId::new(Timestamp::UNIX_EPOCH, pid, 7),
            outcome: Outcome::Refused { reason: "no space\nleft".into() },
            pid: Some(pid),
            signal: Some(11),
            comm: Some(b"a\xff\"\n"[..].into()),
        }
    }

    fn read(dir: &Path, name: &str) -> Vec<Line> {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_of_many_composers_at_once_stay_whole() {
        let dir = tempfile::tempdir().unwrap();
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
        let dir = tempfile::tempdir().unwrap();
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
    fn a_lock_that_is_never_let_go_costs_a_second_and_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let stuck = spool.append(FILE_NAME).unwrap();
        stuck.lock().unwrap();
        append(&spool, &line(1)).unwrap();
        assert_eq!(read(dir.path(), FILE_NAME), [line(1)]);
    }
}
