use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use jiff::Timestamp;
use protocol::host::HostPath;
use protocol::journal::{MAX_BYTES, PREVIOUS};
use protocol::spool::DumpId;

use super::*;
use crate::hook::Hook;

/// A node's spool, and composers that write to its journal.
struct Node {
    dir: tempfile::TempDir,
    crashes: u32,
}

impl Node {
    fn new() -> Node {
        Node { dir: tempfile::tempdir().unwrap(), crashes: 0 }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// An uploader that has just been started.
    fn start(&self) -> Journal {
        let hook = Hook::new("/nowhere".into(), &HostPath::try_from("/nowhere").unwrap());
        Journal::new(Spool::at(self.dir.path()), Arc::new(Monitor::new(hook, false)), Events::default())
    }

    fn append(&self, bytes: &[u8]) {
        let spool = Spool::at(self.dir.path());
        spool.append(FILE_NAME).unwrap().write_all(bytes).unwrap();
    }

    /// The text of a crash that has not been before.
    fn crash(&mut self) -> Vec<u8> {
        self.crashes += 1;
        let line = Line {
            at: Timestamp::UNIX_EPOCH,
            id: DumpId::new(Timestamp::UNIX_EPOCH, self.crashes, 7),
            outcome: Outcome::Refused { reason: "no space".into() },
            pid: Some(self.crashes),
            signal: Some(11),
            comm: Some("a".into()),
            container: None,
            pod_uid: None,
        };
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        text
    }

    fn crashes(&mut self, count: u32) {
        for _ in 0..count {
            let line = self.crash();
            self.append(&line);
        }
    }

    /// As `composer/src/journal.rs` does.
    fn rotate(&self) {
        fs::rename(self.path(FILE_NAME), self.path(PREVIOUS)).unwrap();
        self.append(b"");
    }
}

/// What has been counted when all has been read.
fn counted(journal: &mut Journal) -> u64 {
    journal.look();
    assert_eq!(journal.complaint, None);
    journal.monitor.metrics.counts()["captured/refused"]
}

#[test]
fn each_line_is_counted_once_across_restarts() {
    let mut node = Node::new();
    node.crashes(3);
    fs::write(node.path("uploader.json.new"), "of one that was killed").unwrap();
    let mut journal = node.start();
    assert_eq!(counted(&mut journal), 3);
    assert_eq!(counted(&mut journal), 3);
    node.crashes(1);
    assert_eq!(counted(&mut journal), 4);
    node.crashes(2); // while there is no uploader
    let mut journal = node.start();
    assert_eq!(counted(&mut journal), 6);
    assert_eq!(counted(&mut node.start()), 6);
}

#[test]
fn each_line_is_counted_once_whenever_the_journal_is_rotated() {
    // Read, or not; restarted, or not; before and after each rotation.
    for choices in 0..64_u32 {
        let chosen = |bit: u32| choices >> bit & 1 == 1;
        let mut node = Node::new();
        let mut journal = node.start();
        for bit in [0, 3] {
            node.crashes(2);
            if bit == 3 || chosen(bit) {
                counted(&mut journal);
            }
            node.crashes(1);
            node.rotate();
            if chosen(bit + 1) {
                counted(&mut journal);
            }
            if chosen(bit + 2) {
                journal = node.start();
            }
            node.crashes(1);
        }
        assert_eq!(counted(&mut journal), 8, "{choices:b}");
        assert_eq!(counted(&mut node.start()), 8, "{choices:b}");
    }
}

#[test]
fn a_rotation_at_the_very_moment_hides_no_line_and_shows_none_twice() {
    const ROTATIONS: u32 = 3000;
    let mut node = Node::new();
    node.append(b"");
    let spool = Spool::at(node.dir.path());
    let turns = AtomicU32::new(0);
    let (mut marks, mut seen) = (Vec::new(), 0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..ROTATIONS {
                node.crashes(1);
                node.rotate();
                node.crashes(1);
                // It may be late by one journal, not by two.
                let turn = turns.load(Ordering::SeqCst);
                while turns.load(Ordering::SeqCst) < turn + 2 {
                    thread::yield_now();
                }
            }
        });
        let mut last = false;
        while !last {
            last = writer.is_finished();
            let news = tail::news(&tail::files(&spool).unwrap(), &marks).unwrap();
            (marks, seen) = (news.read, seen + news.lines.len());
            turns.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert_eq!(seen, 2 * ROTATIONS as usize);
}

#[test]
fn a_spool_that_was_away_is_not_counted_again() {
    let mut node = Node::new();
    node.crashes(2);
    let mut journal = node.start();
    assert_eq!(counted(&mut journal), 2);
    fs::rename(node.path(FILE_NAME), node.path("away")).unwrap();
    assert_eq!(counted(&mut journal), 2);
    fs::rename(node.path("away"), node.path(FILE_NAME)).unwrap();
    assert_eq!(counted(&mut journal), 2);
}

#[test]
fn who_still_writes_to_the_journal_before_is_counted() {
    let mut node = Node::new();
    node.crashes(1);
    let mut journal = node.start();
    counted(&mut journal);
    let mut late = File::options().append(true).open(node.path(FILE_NAME)).unwrap();
    node.rotate();
    node.crashes(1);
    assert_eq!(counted(&mut journal), 2);
    late.write_all(&node.crash()).unwrap();
    assert_eq!(counted(&mut journal), 3);
}

#[test]
fn a_line_that_has_no_end_yet_waits() {
    let mut node = Node::new();
    let line = node.crash();
    let (half, rest) = line.split_at(line.len() / 2);
    node.append(half);
    let mut journal = node.start();
    assert_eq!(counted(&mut journal), 0);
    let mut journal = node.start();
    assert_eq!(counted(&mut journal), 0);
    node.append(rest);
    assert_eq!(counted(&mut journal), 1);
}

#[test]
fn lines_nobody_understands_cost_no_other() {
    let mut node = Node::new();
    let mut journal = node.start();
    node.append(b"\n{\"at\":\"20\n\xff\x00\n{\"version\":2}\n");
    node.append("[".repeat(30_000).as_bytes());
    node.append(b"\n");
    node.crashes(1);
    assert_eq!(counted(&mut journal), 1);
    node.append(&vec![b'x'; 300_000]);
    assert_eq!(counted(&mut journal), 1);
    node.append(b"\n");
    node.crashes(1);
    assert_eq!(counted(&mut journal), 2);
    assert_eq!(counted(&mut node.start()), 2);
}

#[test]
fn a_journal_that_was_cut_is_read_from_its_beginning() {
    let mut node = Node::new();
    node.crashes(5);
    node.rotate();
    node.crashes(2);
    let mut journal = node.start();
    assert_eq!(counted(&mut journal), 7);
    File::options().write(true).truncate(true).open(node.path(FILE_NAME)).unwrap();
    node.crashes(1);
    assert_eq!(counted(&mut journal), 8, "and the one before is not read again");
    fs::remove_file(node.path(FILE_NAME)).unwrap();
    fs::remove_file(node.path(PREVIOUS)).unwrap();
    node.crashes(1);
    assert_eq!(counted(&mut node.start()), 9);
}

#[test]
fn a_memory_that_cannot_be_written_is_written_later() {
    let mut node = Node::new();
    node.crashes(2);
    let mut journal = node.start();
    fs::create_dir(node.path("uploader.json.new")).unwrap();
    journal.look();
    assert!(journal.complaint.is_some() && !node.path("uploader.json").exists());
    assert_eq!(counted_in_spite(&mut journal), 2, "read once all the same");
    fs::remove_dir(node.path("uploader.json.new")).unwrap();
    assert_eq!(counted(&mut journal), 2);
    assert!(node.path("uploader.json").exists());
}

fn counted_in_spite(journal: &mut Journal) -> u64 {
    journal.look();
    journal.monitor.metrics.counts()["captured/refused"]
}

#[test]
fn a_memory_that_is_no_use_counts_all_that_is_left() {
    for rubbish in [
        &b""[..],
        b"null",
        b"{\"read\":[{\"end\":18446744073709551615,\"crc32\":0}],\"crashes\":{",
        &[b'['; 100_000],
    ] {
        let mut node = Node::new();
        node.crashes(2);
        fs::write(node.path("uploader.json"), rubbish).unwrap();
        assert_eq!(counted(&mut node.start()), 2);
        assert_eq!(counted(&mut node.start()), 2);
    }
    let mut node = Node::new();
    node.crashes(2);
    let hostile = format!(
        "{{\"read\":[{{\"end\":{0},\"crc32\":0}},{{\"end\":1,\"crc32\":1}}],\"crashes\":{{\"captured/refused\":{0},\"x\":1}}}}",
        u64::MAX
    );
    fs::write(node.path("uploader.json"), hostile).unwrap();
    assert_eq!(counted(&mut node.start()), 1, "it begins anew, as counters do");
}

#[test]
fn a_link_in_place_of_the_memory_or_the_journal_leads_nowhere() {
    let mut node = Node::new();
    let elsewhere = node.path("elsewhere");
    fs::write(&elsewhere, node.crash()).unwrap();
    fs::write(node.path("theirs"), r#"{"read":[],"crashes":{"captured/refused":9}}"#).unwrap();
    std::os::unix::fs::symlink("theirs", node.path("uploader.json")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, node.path(PREVIOUS)).unwrap();
    node.crashes(1);
    let mut journal = node.start();
    journal.look();
    assert!(journal.complaint.is_some(), "it says so");
    fs::remove_file(node.path(PREVIOUS)).unwrap();
    assert_eq!(counted(&mut journal), 1);
    assert!(!node.path("uploader.json").is_symlink());
    assert!(fs::read_to_string(node.path("theirs")).unwrap().contains(":9}"));
}

#[test]
fn a_journal_that_nobody_rotates_is_read_bit_by_bit() {
    let mut node = Node::new();
    let filler = vec![b'\n'; MAX_BYTES as usize];
    node.append(&filler);
    node.append(&filler);
    node.crashes(1);
    let mut journal = node.start();
    assert_eq!([(); 3].map(|()| counted(&mut journal)), [0, 0, 1]);
}

#[test]
fn no_spool_is_no_memory_and_no_series() {
    let mut node = Node::new();
    let spool = node.path("spool");
    let mut journal = node.start();
    journal.spool = Spool::at(&spool);
    journal.look();
    assert!(journal.read.is_none() && journal.complaint.is_none());
    assert!(!journal.monitor.text().contains("coredump_captured_total"));
    fs::create_dir(&spool).unwrap();
    fs::write(spool.join(FILE_NAME), node.crash()).unwrap();
    assert_eq!(counted(&mut journal), 1);
}

#[test]
fn what_a_container_chose_is_quoted() {
    let quoted = |bytes: &[u8]| quoted(Text::from(bytes));
    assert_eq!(quoted(b"a\nERROR b=1"), r#""a\x0aERROR b=1""#);
    assert_eq!(quoted(br#"a" b="1\"#), r#""a\" b=\"1\\""#);
    assert_eq!(quoted(b"\x1b[31m\xff"), r#""\x1b[31m\xff""#);
}

mod hostile {
    use proptest::prelude::*;
    use protocol::text::one_line;

    use super::*;
    use crate::metrics::Metrics;
    use crate::strange;

    fn journals() -> impl Strategy<Value = Vec<u8>> {
        strange::changed(vec![include_bytes!("../../../protocol/tests/golden/crashes-1.jsonl").to_vec()])
    }

    fn memories() -> impl Strategy<Value = Vec<u8>> {
        let memory = r#"{"read":[{"end":200,"crc32":7},{"end":0,"crc32":0}],"crashes":{"captured/whole":3,"skipped/busy":1}}"#;
        strange::changed(vec![memory.as_bytes().to_vec()])
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_journal_it_is_read_once_and_counted_under_names_of_ours(
            older in journals(), newer in journals()
        ) {
            let files = [file(&older), file(&newer)];
            let news = tail::news(&files, &[]).unwrap();
            prop_assert!(news.lines.len() <= older.len() + newer.len());
            prop_assert!(tail::news(&files, &news.read).unwrap().lines.is_empty());
            let metrics = Metrics::new();
            metrics.resume(&Default::default());
            let before = metrics.text(true).lines().count();
            news.lines.iter().for_each(|line| metrics.crash(&line.outcome));
            prop_assert_eq!(metrics.text(true).lines().count(), before);
        }

        #[test]
        fn whatever_was_remembered_there_is_a_memory(json in memories(), journal in journals()) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("uploader.json"), &json).unwrap();
            let memory = Memory::load(&Spool::at(dir.path())).unwrap().unwrap();
            let metrics = Metrics::new();
            metrics.resume(&memory.crashes);
            let news = tail::news(&[file(&journal)], &memory.read).unwrap();
            news.lines.iter().for_each(|line| metrics.crash(&line.outcome));
        }

        #[test]
        fn a_word_in_quotes_stays_in_them(word in strange::text(), bytes in strange::bytes()) {
            for text in [Text::from(&*word), Text::from(&bytes[..])] {
                let quoted = quoted(text);
                prop_assert_eq!(&one_line(&quoted), &quoted);
                let mut inside = quoted.strip_prefix('"').unwrap().chars();
                let mut end = inside.next();
                while end != Some('"') {
                    if end == Some('\\') {
                        inside.next();
                    }
                    end = inside.next();
                    prop_assert!(end.is_some(), "{quoted}");
                }
                prop_assert_eq!(inside.as_str(), "");
            }
        }
    }
}
