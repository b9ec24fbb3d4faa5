//! Does the real binary behave? No root, no network, and none of the settings
//! of the machine that runs it.

#![expect(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod commands;
mod killed;
mod node;
mod pod;
mod removal;
mod selftest;
mod watch;
