//! One crash at a time, with the kernel to ourselves.

use std::env;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use nix::unistd::sync;
use tempfile::TempDir;

use super::handler::{Booth, Handler};
use super::interrupt::Interrupt;
use super::meter::Usage;
use super::remains::{Finding, Remains};
use super::results::Crash;
use super::victim::{Core, Victims};
use crate::kernel::{Kernel, Sysctl};
use crate::node;

/// What the installer sets by default. With none, the kernel would not wait for
/// the handlers, and a process would be free before they have its core.
const CORE_PIPE_LIMIT: &str = "256";
/// How long a handler may take after it has let the process go: what is left is
/// to sync a dump.
const PATIENCE: Duration = Duration::from_secs(600);
/// The same when nobody wants its dump any more.
const SHORT_PATIENCE: Duration = Duration::from_secs(30);
/// Short against what is waited for, long against what looking costs.
const POLL_EVERY: Duration = Duration::from_millis(5);
/// The most that lies on the disk at a time: two dumps, should one be late to
/// go, and what else there may be.
const DUMPS: u64 = 2;
const MORE_MIB: u64 = 1 << 10;

/// A small process.
const SMALL_MIB: usize = 1;

/// What became of a crash.
pub enum Outcome {
    /// A measurement.
    Crashed(Crash),
    /// The composer does not know the setting yet; with what it says.
    NotThere(String),
}

/// The kernel, the handlers and the processes to crash. All is as it was before
/// once it is gone; the fields are dropped in this order, the kernel first.
pub struct Stage {
    kernel: Kernel,
    booth: Booth,
    victims: Victims,
    interrupt: Interrupt,
    _programs: TempDir,
    _work: TempDir,
}

impl Stage {
    /// Waits for the kernel and sets everything up for dumps of `mib` in `dir`.
    ///
    /// # Errors
    /// If something is missing.
    pub fn set(dir: &Path, mib: usize) -> Result<Stage> {
        let fs = statvfs(dir).with_context(|| format!("looking at {}", dir.display()))?;
        let free = (fs.blocks_available() * fs.fragment_size()) >> 20;
        let wanted = DUMPS * mib as u64 + MORE_MIB;
        ensure!(free >= wanted, "{} has {free} MiB left, and may need {wanted}", dir.display());
        let (crasher, handler) = (beside_us("crasher")?, beside_us("bench-handler")?);
        let composer = node::dist().join("composer");

        let kernel = Kernel::lock();
        // After the watchdog is there, which is not to be deaf.
        let interrupt = Interrupt::watch().context("watching for signals")?;
        let work = tempfile::Builder::new().prefix("cdh-bench.").tempdir_in(dir);
        let work = work.with_context(|| format!("making a directory in {}", dir.display()))?;
        let programs = node::short_dir();
        let booth = Booth::furnish(programs.path(), &work.path().canonicalize()?, &handler, &composer)?;
        let victims = Victims::new(crasher, programs.path())?;
        kernel.set(Sysctl::CorePipeLimit, CORE_PIPE_LIMIT);
        Ok(Stage { kernel, booth, victims, interrupt, _programs: programs, _work: work })
    }

    /// Crashes a process with `handler` under a meter, and leaves nothing of it.
    ///
    /// # Errors
    /// If it is no measurement: a handler that failed, a core that is not whole.
    pub fn crash(&self, core: Core, mib: usize, handler: Handler) -> Result<Outcome> {
        self.kernel.set(Sysctl::CorePattern, &self.booth.metered(handler)?);
        let victim = self.victims.start(core, mib, &self.interrupt)?;
        let pid = victim.pid;
        let remains = Remains::of(&self.booth, handler, pid);
        sync(); // what was written before must not get into the way of this
        let held = victim.crash();
        // Also after one that was broken off: its handler is still at it.
        let usage = self.wait_for("the handler to end", || Usage::read(&self.booth.usage(pid)));
        let (held, usage) = (held?, usage?);
        if let Some(why) = usage.failed {
            bail!("{handler} failed: {why}");
        }
        Ok(match remains.examine(core.least_bytes(mib))? {
            Finding::NotThere(why) => Outcome::NotThere(why),
            Finding::Whole { core_bytes, dump_bytes } => Outcome::Crashed(Crash {
                held: held.as_secs_f64(),
                core_bytes,
                dump_bytes,
                cpu: usage.cpu,
                peak_kib: usage.peak_kib,
            }),
        })
    }

    /// Crashes a tiny process as it would be without a benchmark: the kernel
    /// runs `handler` itself. Returns how long the process was held.
    ///
    /// # Errors
    /// If it was not dumped.
    pub fn crash_small(&self, handler: Handler) -> Result<Duration> {
        self.kernel.set(Sysctl::CorePattern, &self.booth.plain(handler)?);
        let victim = self.victims.start(Core::Mixed, SMALL_MIB, &self.interrupt)?;
        let remains = Remains::of(&self.booth, handler, victim.pid);
        let held = victim.crash()?;
        if handler.ours().is_some() {
            // And not only to be sure: it must be over before the next begins.
            self.wait_for("a dump", || remains.ready())?;
            remains.examine(Core::Mixed.least_bytes(SMALL_MIB))?;
        }
        Ok(held)
    }

    fn wait_for<T>(&self, what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(answer) = condition()? {
                return Ok(answer);
            }
            let patience = if self.interrupt.has_come() { SHORT_PATIENCE } else { PATIENCE };
            ensure!(began.elapsed() < patience, "waited {patience:?} in vain for {what}");
            thread::sleep(POLL_EVERY);
        }
    }
}

/// A program that was built with us.
fn beside_us(name: &str) -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is not there: build all of testbed's programs", path.display());
    Ok(path)
}
