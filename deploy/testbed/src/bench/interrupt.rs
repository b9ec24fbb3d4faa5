//! Ctrl-C, in the middle of whatever it is.
//!
//! Signals are for a thread. It kills the process that is being waited for,
//! which ends its dump as well, and everyone finds out that they have to stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// Whether somebody wants the benchmark to end.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Default)]
struct State {
    wanted: AtomicBool,
    victim: Mutex<Option<Pid>>,
}

impl Interrupt {
    /// Takes the signals that would end us, in this thread and those that it
    /// starts; children are born deaf to them as well.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn watch() -> io::Result<Interrupt> {
        let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block()?;
        let interrupt = Interrupt::default();
        let watched = interrupt.clone();
        let watch = move || {
            while signals.wait().is_ok() {
                watched.0.wanted.store(true, Ordering::SeqCst);
                if let Some(victim) = *watched.victim() {
                    let _ = kill(victim, Signal::SIGKILL);
                }
            }
        };
        thread::Builder::new().name("interrupt".into()).spawn(watch)?;
        Ok(interrupt)
    }

    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        self.0.wanted.load(Ordering::SeqCst)
    }

    /// Stops whoever asks if it has come.
    ///
    /// # Errors
    /// If it has.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.has_come(), "interrupted");
        Ok(())
    }

    /// From now on `victim` dies if it comes. The last one must not be reaped
    /// before it is replaced: its pid is its own until then.
    pub fn kills(&self, victim: Option<Pid>) {
        *self.victim() = victim;
        // It may have come before there was anybody to kill.
        if let (true, Some(victim)) = (self.has_come(), victim) {
            let _ = kill(victim, Signal::SIGKILL);
        }
    }

    fn victim(&self) -> std::sync::MutexGuard<'_, Option<Pid>> {
        self.0.victim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
