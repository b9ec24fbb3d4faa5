//! `crashes.jsonl`: what happened on this node, in order. One line for each
//! crash the kernel handed over, also for those that became no dump.
//!
//! The line is written when all is over: whoever finds a line about a captured
//! crash finds its dump ready, unless the uploader was there before.
//!
//! Of a crash whose composer died the uploader writes it, when it repairs the
//! dump, or finds that there is nothing to repair.
//!
//! A line is appended with one `write` by whoever holds the file's lock, so
//! lines never mix; past [`MAX_BYTES`] the file becomes [`PREVIOUS`] and a new
//! one begins. A reader passes over lines that it does not understand: they may
//! be of a later version, or of a composer that was killed while it wrote.

mod append;

use std::io::{self, BufRead, BufReader, Read};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::manifest::Truncation;
use crate::spool::{DumpId, Spool};
use crate::text::Text;

pub use append::append;

/// The journal's name within the spool.
pub const FILE_NAME: &str = "crashes.jsonl";
/// The journal before this one.
pub const PREVIOUS: &str = "crashes.jsonl.1";
/// About 4,000 crashes; a node with more than that since anyone looked has one
/// cause, not 4,000.
pub const MAX_BYTES: u64 = 1 << 20;

/// Both files' lines, the older first. A file that is not there has none; of one
/// that is no journal no more is read than a journal may have.
///
/// # Errors
/// If a file cannot be read; there is nothing more of that file to come then.
pub fn lines(spool: &Spool) -> impl Iterator<Item = io::Result<Line>> {
    [PREVIOUS, FILE_NAME].into_iter().flat_map(|name| {
        let (lines, failed) = match spool.read_other(name) {
            // The last line may begin just below the limit.
            Ok(file) => (Some(BufReader::new(file.take(2 * MAX_BYTES)).split(b'\n')), None),
            Err(err) if err.kind() == io::ErrorKind::NotFound => (None, None),
            Err(err) => (None, Some(Err(err))),
        };
        let mut is_over = false;
        let until_it_fails =
            move |line: &io::Result<Vec<u8>>| !std::mem::replace(&mut is_over, line.is_err());
        let understood = |line: io::Result<Vec<u8>>| match line {
            Ok(line) => serde_json::from_slice(&line).ok().map(Ok),
            Err(err) => Some(Err(err)),
        };
        lines.into_iter().flatten().take_while(until_it_fails).filter_map(understood).chain(failed)
    })
}

/// One crash.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Line {
    /// When the composer was done with it.
    pub at: Timestamp,
    /// The id of its dump, or the one it would have had.
    pub id: DumpId,
    /// What became of it.
    pub outcome: Outcome,
    /// The process, in the initial pid namespace.
    pub pid: Option<u32>,
    /// The signal's number.
    pub signal: Option<i32>,
    /// Its command name.
    pub comm: Option<Text>,
    /// Where it ran, as far as is known: `namespace/pod/container`, or the
    /// container's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The uid of its pod, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// What became of a crash.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is a dump.
    Captured {
        /// Bytes of the core in it.
        core_bytes: u64,
        /// Bytes of the zip.
        dump_bytes: u64,
        /// Null if the core is whole, else why it is not.
        truncated: Option<Truncation>,
        /// As in the manifest.
        held_ms: u64,
    },
    /// There is none, for the node's sake or as the settings want it.
    Skipped {
        /// Why.
        reason: Skip,
    },
    /// There is none.
    Refused {
        /// Why not, a sentence for people.
        reason: String,
    },
}

/// Why a crash was not to be captured.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// The process ran in no pod, and `capture` is `pods`.
    NotAPod,
    /// `namespaces` leaves out its pod's.
    Namespace,
    /// `labels` leave out its pod.
    Label,
    /// Its pod has the annotation [`OPT_OUT`] with the value `"false"`.
    Annotation,
    /// No more than `keep_free` was free.
    DiskFull,
    /// `spool_max_bytes` were in the spool.
    SpoolFull,
    /// `rate_limit`: it had as many dumps lately.
    RateLimit,
    /// As many others were being written as may be, for too long.
    Busy,
    /// The installer made it, to see that there is a line about it.
    Trial,
    /// A reason of a later version.
    #[serde(untagged)]
    Other(String),
}

/// What a pod is annotated with whose crashes nobody wants.
pub const OPT_OUT: &str = "coredump-handler/capture";

impl Skip {
    /// All that this version knows.
    pub const KNOWN: &[Skip] = &[
        Skip::NotAPod,
        Skip::Namespace,
        Skip::Label,
        Skip::Annotation,
        Skip::DiskFull,
        Skip::SpoolFull,
        Skip::RateLimit,
        Skip::Busy,
        Skip::Trial,
    ];

    /// The word in the journal.
    pub fn as_str(&self) -> &str {
        match self {
            Skip::NotAPod => "not_a_pod",
            Skip::Namespace => "namespace",
            Skip::Label => "label",
            Skip::Annotation => "annotation",
            Skip::DiskFull => "disk_full",
            Skip::SpoolFull => "spool_full",
            Skip::RateLimit => "rate_limit",
            Skip::Busy => "busy",
            Skip::Trial => "trial",
            Skip::Other(reason) => reason,
        }
    }
}

#[cfg(test)]
mod hostile {
    use proptest::prelude::*;

    use super::*;
    use crate::strange;

    fn samples() -> Vec<Vec<u8>> {
        let lines = include_str!("../tests/golden/crashes-1.jsonl").lines();
        lines.map(|line| line.as_bytes().to_vec()).collect()
    }

    proptest! {
        #[test]
        fn whatever_line_can_be_read_is_one_line_again(json in strange::changed(samples())) {
            if let Ok(line) = serde_json::from_slice::<Line>(&json) {
                let again = serde_json::to_string(&line).unwrap();
                prop_assert!(!again.contains(['\n', '\r', '\0']), "{again:?}");
                prop_assert_eq!(serde_json::from_str::<Line>(&again).unwrap(), line);
            }
        }

        #[test]
        fn whatever_is_said_in_it_a_line_is_one_and_can_be_read(
            comm in strange::bytes(), container in strange::text(), reason in strange::text()
        ) {
            let mut line: Line = serde_json::from_slice(&samples()[0]).unwrap();
            (line.comm, line.container) = (Some(comm[..].into()), Some(container));
            for outcome in [Outcome::Refused { reason: reason.clone() }, Outcome::Skipped { reason: Skip::Other(reason) }] {
                line.outcome = outcome;
                let json = serde_json::to_string(&line).unwrap();
                prop_assert!(!json.contains(['\n', '\r', '\0']), "{json:?}");
                let read: Line = serde_json::from_str(&json).unwrap();
                // A word of a later version may be one of today's.
                prop_assert_eq!((&read.comm, &read.container), (&line.comm, &line.container));
            }
        }
    }
}
