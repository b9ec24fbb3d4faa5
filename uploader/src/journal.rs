//! Follows `crashes.jsonl`: what composers did becomes log lines, numbers and
//! Events, each line once, whatever restarts and rotations come in between.

mod memory;
mod tail;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::journal::{FILE_NAME, Line, Outcome};
use protocol::spool::Spool;
use protocol::text::Text;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::events::Events;
use crate::monitor::Monitor;
use memory::Memory;
use tail::Mark;

/// Nothing announces a line that is appended, and to look takes microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The journal, and how far it has been read.
pub struct Journal {
    spool: Spool,
    monitor: Arc<Monitor>,
    events: Events,
    /// `None` before there is a spool to find it in.
    read: Option<Vec<Mark>>,
    /// Whether the memory on disk is behind.
    unsaved: bool,
    /// The last thing that was wrong, said once.
    complaint: Option<String>,
}

impl Journal {
    /// The journal of `spool`.
    pub fn new(spool: Spool, monitor: Arc<Monitor>, events: Events) -> Journal {
        Journal { spool, monitor, events, read: None, unsaved: false, complaint: None }
    }

    /// Follows it for ever.
    pub async fn follow(mut self) {
        loop {
            let looked = spawn_blocking(move || {
                self.look();
                self
            });
            let Ok(journal) = looked.await else { return }; // nothing in it panics
            self = journal;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Tells what is new.
    fn look(&mut self) {
        let complaint = self.advance().err().map(|err| err.to_string());
        if let Some(what) = complaint.as_ref().filter(|what| Some(*what) != self.complaint.as_ref()) {
            log::error!(spool:% = self.spool.dir().display(); "{FILE_NAME} cannot be followed as it should: {what}");
        }
        self.complaint = complaint;
    }

    fn advance(&mut self) -> io::Result<()> {
        let before = match self.read.take() {
            Some(read) => read,
            None => match Memory::load(&self.spool)? {
                Some(memory) => {
                    self.monitor.metrics.resume(&memory.crashes);
                    memory.read
                }
                None => return Ok(()),
            },
        };
        let marks = self.read.insert(before);
        let files = tail::files(&self.spool)?;
        if files.is_empty() {
            return Ok(()); // if the spool is away it may come back
        }
        let news = tail::news(&files, marks)?;
        for line in &news.lines {
            tell(line);
            self.monitor.metrics.crash(&line.outcome);
            self.events.crash(line);
        }
        self.unsaved |= *marks != news.read;
        marks.clone_from(&news.read);
        if self.unsaved {
            // What is remembered as read must not be lost by a power cut: the
            // memory would fit nothing, and all be counted again.
            files.iter().try_for_each(|file| file.sync_data())?;
            Memory { read: news.read, crashes: self.monitor.metrics.counts() }.save(&self.spool)?;
            self.unsaved = false;
        }
        Ok(())
    }
}

/// One line of log for one of the journal.
fn tell(Line { at, id, outcome, signal, comm, container, .. }: &Line) {
    let comm = quoted(comm.clone().unwrap_or_default());
    let container = quoted(Text::from(container.as_deref().unwrap_or_default()));
    let signal = signal.unwrap_or_default();
    match outcome {
        Outcome::Captured { core_bytes, dump_bytes, truncated: None, held_ms } => log::info!(
            dump:% = id, at:%, core_bytes, dump_bytes, held_ms, signal, comm:%, container:%; "captured"
        ),
        Outcome::Captured { core_bytes, dump_bytes, truncated: Some(reason), held_ms } => {
            let truncated = quoted(Text::from(reason.as_str()));
            log::warn!(
                dump:% = id, at:%, core_bytes, dump_bytes, truncated:%, held_ms, signal, comm:%, container:%;
                "captured in part"
            );
        }
        Outcome::Skipped { reason } => {
            let reason = quoted(Text::from(reason.as_str()));
            log::info!(dump:% = id, at:%, reason:%, signal, comm:%, container:%; "skipped");
        }
        Outcome::Refused { reason } => {
            let reason = quoted(Text::from(reason.as_str()));
            log::error!(dump:% = id, at:%, reason:%, signal, comm:%, container:%; "refused");
        }
    }
}

/// Words that others chose: they pass neither for a line nor for a field.
pub fn quoted(text: Text) -> String {
    format!("\"{}\"", text.to_string().replace('"', "\\\""))
}

#[cfg(test)]
mod tests;
