//! What a repair leaves in the spool.

use std::io::Write;
use std::process::Command;

use protocol::spool::State;

use super::super::*;
use super::sample::{ID, bytes_of, id, sample, words};

/// A torn dump in a spool.
fn torn(spool: &Spool, bytes: &[u8]) -> Entry {
    let part = spool.create(id()).unwrap();
    part.file().write_all(bytes).unwrap();
    drop(part);
    let part = spool.list().unwrap().remove(0).entry;
    spool.set_state(&part, State::Torn).unwrap()
}

#[test]
fn unzip_finds_nothing_wrong_with_a_repaired_dump() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let stream = sample(Method::Deflated);
    let cut = bytes_of(&stream.begun(&stream.bytes[..300]));
    let (file, _) = stream.complete();
    let (_, _, content) = zip64::Entry::read(&file).unwrap().unwrap();
    file.write_all_at(&[0xff; 64], content + stream.borders[3].0 as u64).unwrap();
    for bytes in [cut, bytes_of(&file)] {
        let torn = torn(&spool, &bytes);
        assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Ready);
        let ready = spool.list().unwrap().remove(0).entry;
        assert_eq!(ready.to_string(), format!("{ID}{}.zip", "_crasher_SIGSEGV"));
        let unzip = Command::new("unzip").arg("-t").arg(spool.path(&ready)).output().unwrap();
        assert!(unzip.status.success(), "{unzip:?}");
        let said = String::from_utf8(unzip.stdout).unwrap();
        assert!(said.contains("No errors detected") && !said.contains("warning"), "{said}");
        std::fs::remove_file(spool.path(&ready)).unwrap();
    }
}

#[test]
fn a_crash_whose_composer_died_is_in_the_journal_once_however_often_its_repair_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let stream = sample(Method::Deflated);
    let part = bytes_of(&stream.begun(&stream.bytes[..300]));
    for again in 0..2 {
        let torn = torn(&spool, &part);
        assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Ready);
        let ready = spool.list().unwrap().remove(0).entry;
        let bytes = std::fs::metadata(spool.path(&ready)).unwrap().len();
        // As if it had been killed just before that.
        std::fs::remove_file(spool.path(&ready)).unwrap();
        let journal: Vec<_> = lines(&spool).map(Result::unwrap).collect();
        let [line] = &journal[..] else { panic!("{again}: {journal:?}") };
        assert_eq!((&line.id, line.pid, &line.comm), (&id(), words().crash.pid, &words().crash.comm));
        let Outcome::Captured { dump_bytes, truncated, .. } = &line.outcome else { panic!("{line:?}") };
        assert_eq!((*dump_bytes, truncated), (bytes, &Some(Truncation::ComposerDied)));
        assert_eq!(line.container, words().container.place());
    }
}

#[test]
fn a_crash_of_which_nothing_is_left_is_refused_and_says_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let torn = torn(&spool, &bytes_of(&sample(Method::Deflated).begun(&[])));
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Removed);
    let journal: Vec<_> = lines(&spool).map(Result::unwrap).collect();
    let [line] = &journal[..] else { panic!("{journal:?}") };
    assert!(
        matches!(&line.outcome, Outcome::Refused { reason } if reason.contains("not one byte")),
        "{line:?}"
    );
    assert_eq!((line.pid, &line.comm), (words().crash.pid, &words().crash.comm));
}

#[test]
fn what_somebody_else_repairs_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let stream = sample(Method::Deflated);
    let torn = torn(&spool, &bytes_of(&stream.begun(&stream.bytes)));
    let before = std::fs::read(spool.path(&torn)).unwrap();
    let theirs = spool.adopt(&torn).unwrap().unwrap();
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Taken);
    assert!(std::fs::read(spool.path(&torn)).unwrap() == before);
    drop(theirs);
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Ready);
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Taken);
}

#[test]
fn a_dump_of_which_there_is_nothing_is_removed() {
    let stream = sample(Method::Deflated);
    for bytes in [vec![], vec![0; 100_000], bytes_of(&stream.begun(&stream.bytes[..20]))] {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let torn = torn(&spool, &bytes);
        assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Removed);
        assert!(spool.list().unwrap().is_empty());
    }
}

#[test]
fn much_of_which_nothing_can_be_read_is_for_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let torn = torn(&spool, &vec![7; MOST_REMOVED as usize + 1]);
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Repaired::Rejected);
    assert_eq!(spool.list().unwrap()[0].entry.state(), State::Rejected);
}
