//! What becomes of crashes when something goes wrong: what `make faults` runs,
//! and, shorter, `make test`.
//!
//! Each case does harm to real programs and a real kernel, and then counts:
//! a crash is *lost* if nobody can say what became of it, and a dump has *lied*
//! if it is not what it says it is.

mod daemon;
mod disk;
mod dump;
mod kill;
mod memory;
mod names;
mod soak;
mod store;
mod storm;
mod texts;
mod volume;

use std::fmt;

pub use disk::{disk_fails, disk_fails_briefly};
pub use kill::kill_anywhere;
pub use memory::gibibytes;
pub use names::hostile_names;
pub use soak::in_a_row;
pub use store::{store_fails, store_fails_briefly};
pub use storm::{at_once, in_a_loop};
pub use texts::hostile_texts;

/// What came of a case.
#[derive(Debug, Default)]
pub struct Tally {
    /// What was done.
    pub case: &'static str,
    /// How often.
    pub runs: usize,
    /// Crashes of which nothing is known, and why that is.
    pub lost: Vec<String>,
    /// Dumps that are not what they say.
    pub lied: Vec<String>,
    /// What else there is to say.
    pub notes: String,
}

impl Tally {
    /// Whether nothing was lost and nothing lied.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.lied.is_empty()
    }
}

/// A row of the table.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { case, runs, lost, lied, notes } = self;
        write!(f, "| {case} | {runs} | {} | {} | {notes} |", lost.len(), lied.len())
    }
}

/// The head of the table.
pub const HEAD: &str = "| case | runs | lost | lied | notes |\n|---|--:|--:|--:|---|";
