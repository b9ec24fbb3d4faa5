//! Does the real uploader behave, towards a real S3 server?

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod commands;
mod credentials;
mod events;
mod faults;
mod memory;
mod monitor;
mod options;
mod repair;
mod resume;
mod retention;
mod shipping;
mod spool;
