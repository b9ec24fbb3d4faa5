//! Ships finished dumps to a store.
//!
//! ```text
//!  spool ──inotify──▶ watch ──▶ list ──▶ plan ──▶ upload ──▶ store ──▶ confirm ──▶ delete, or keep
//!                       ▲                   │                              │
//!                       └── every few minutes, after an overflow, at start ┘
//! ```
//!
//! What is torn is repaired on its way into the list. It may be down for a day: nothing is lost, since dumps are in the spool
//! until the store has confirmed them, and the name of a file is all there is
//! to know about its state ([`protocol::spool`]).

mod bandwidth;
mod cli;
mod config;
mod daemon;
mod dump;
mod events;
mod hook;
mod http;
mod journal;
mod key;
mod ledger;
mod metrics;
mod monitor;
mod push;
mod queue;
mod reach;
mod repair;
mod retention;
mod store;
#[cfg(test)]
#[path = "../../protocol/src/strange.rs"]
mod strange;
mod upload;
mod view;
mod watch;

pub use cli::main;
