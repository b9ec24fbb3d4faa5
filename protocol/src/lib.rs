//! What the programs of the collector must agree on, byte for byte.
//!
//! Something belongs here if two of our programs must agree on its bytes.
//! Convenience is not a reason.
//!
//! | module | written by | read by |
//! |---|---|---|
//! | [`argv`] | installer, into `kernel.core_pattern` | composer, as its arguments; uploader |
//! | [`cluster`] | the kubelet, into each pod | installer, uploader |
//! | [`host`] | installer | composer, uploader, people |
//! | [`settings`] | installer, into `composer.yaml` | composer |
//! | [`spool`] | composer | uploader |
//! | [`manifest`] | composer, into each dump | uploader, people |
//! | [`zip64`] | composer, around the core in each dump | uploader, where a composer died |
//! | [`journal`] | composer, into `crashes.jsonl`; uploader, for one that died | all three, people |
//! | `record` | installer and uploader, into their logs | people |
//!
//! [`text`] is how bytes that need not be UTF-8 travel through all of them.

pub mod argv;
pub mod cluster;
pub mod host;
pub mod journal;
pub mod manifest;
#[cfg(feature = "record")]
pub mod record;
pub mod settings;
pub mod spool;
#[cfg(test)]
mod strange;
pub mod text;
pub mod zip64;
