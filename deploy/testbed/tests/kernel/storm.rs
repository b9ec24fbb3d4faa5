//! Many crashes at once, and one after the other.

use std::os::unix::process::ExitStatusExt;

use protocol::journal::{Line, Outcome, Skip};
use protocol::spool::State;
use testbed::wait_for;

use crate::{Collecting, PATIENCE, kernel_log, unzip_approves};
use testbed::crash::Crasher;

fn journal(collecting: &Collecting, lines: usize) -> Vec<Line> {
    wait_for(&format!("{lines} lines in the journal"), PATIENCE, || {
        let journal = collecting.node.journal();
        (journal.len() >= lines).then_some(journal)
    })
}

#[test]
fn of_many_that_crash_at_once_each_is_kept_or_counted() {
    const CRASHES: usize = 60;
    let collecting = Collecting::new("");
    let skipped_before = kernel_log().matches("over core_pipe_limit").count();
    let mut crashers: Vec<_> =
        (0..CRASHES).map(|_| Crasher::start(["--heap-mb", "20", "--fill", "mixed"])).collect();
    crashers.iter_mut().for_each(Crasher::let_go);
    for crasher in crashers {
        assert!(crasher.end().signal().is_some());
    }
    let lines = journal(&collecting, CRASHES);
    assert_eq!(lines.len(), CRASHES);
    let captured =
        lines.iter().filter(|line| matches!(line.outcome, Outcome::Captured { truncated: None, .. }));
    let captured: Vec<_> = captured.map(|line| line.id.clone()).collect();
    let busy = lines.iter().filter(|line| line.outcome == Outcome::Skipped { reason: Skip::Busy }).count();
    assert_eq!(captured.len() + busy, CRASHES, "{lines:?}");
    assert!(!captured.is_empty(), "{lines:?}");
    let ready = collecting.node.dumps(State::Ready);
    assert_eq!(ready.len(), captured.len());
    assert!(ready.iter().all(|entry| captured.contains(entry.id())));
    assert_eq!(collecting.node.dumps(State::Part), []);
    for entry in ready {
        unzip_approves(&collecting.node.spool_dir().join(entry.to_string()));
    }
    // Lines of before may have left the log meanwhile.
    assert!(kernel_log().matches("over core_pipe_limit").count() <= skipped_before);
}

#[test]
fn who_keeps_crashing_is_dumped_no_more_than_it_may() {
    let collecting = Collecting::new("composer: {keep_free: 64MiB, rate_limit: {burst: 3, every: 1h}}");
    for n in 1..=12 {
        Crasher::start(["--heap-mb", "1"]).end();
        journal(&collecting, n);
    }
    Crasher::start(["--heap-mb", "1", "--comm", "another"]).end();
    let lines = journal(&collecting, 13);
    for (n, line) in lines.iter().enumerate() {
        match n {
            0..3 | 12 => assert!(matches!(line.outcome, Outcome::Captured { .. }), "{n}: {line:?}"),
            _ => assert_eq!(line.outcome, Outcome::Skipped { reason: Skip::RateLimit }, "{n}"),
        }
    }
    assert_eq!(collecting.node.dumps(State::Ready).len(), 4);
    assert_eq!(collecting.node.dumps(State::Part), []);
}
