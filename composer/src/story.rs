//! The composer's own account of a crash: a dump carries its own story.

use std::fmt::Write;
use std::time::{Duration, Instant};

use protocol::text::one_line;

/// More lines than any crash makes; what would exceed it is a bug of ours, and
/// must not become a memory leak beside a dying process.
const MAX_LINES: usize = 500;

/// What happened, and when, counted from the composer's start.
pub struct Story {
    began: Instant,
    lines: usize,
    log: String,
    problems: Vec<String>,
}

impl Story {
    /// Begins now.
    pub fn begin() -> Story {
        Story { began: Instant::now(), lines: 0, log: String::new(), problems: Vec::new() }
    }

    /// How long after the beginning that was.
    pub fn until(&self, then: Instant) -> Duration {
        then.saturating_duration_since(self.began)
    }

    /// Something happened.
    pub fn note(&mut self, what: impl std::fmt::Display) {
        self.lines += 1;
        if self.lines <= MAX_LINES {
            let line = one_line(&what.to_string());
            let _ = writeln!(self.log, "{:>7} ms  {line}", self.began.elapsed().as_millis());
        }
    }

    /// Something went wrong, and we coped: a note, and an entry in the manifest.
    pub fn problem(&mut self, what: impl std::fmt::Display) {
        self.note(format_args!("problem: {what}"));
        if self.problems.len() < MAX_LINES {
            self.problems.push(what.to_string());
        }
    }

    /// `composer.log`, so far.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// What went wrong, so far.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}
