//! Processes to crash.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::interrupt::Interrupt;
use crate::memory::Fill;

/// A program with objects is given no more than this, in MiB, since it takes
/// its time to make them.
const OBJECTS_MIB: usize = 384;

/// What all of these die of: the one signal with a core that no runtime
/// handles. (Rust's own handler would take the first SIGSEGV.)
const SIGNAL: Signal = Signal::SIGABRT;

/// What is in a core.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub enum Core {
    /// Page by page 30 % zeros, 10 % noise, 35 % pointers and small integers, 25 % text.
    Mixed,
    /// Zeros that were written.
    Zeros,
    /// Incompressible.
    Random,
    /// A real process of Python.
    Python,
    /// A real process of Node.js.
    Node,
}

impl Core {
    /// All of them, in the order of the tables.
    pub const ALL: [Core; 5] = [Core::Mixed, Core::Zeros, Core::Random, Core::Python, Core::Node];

    /// What the crasher fills its memory with.
    fn fill(self) -> Option<Fill> {
        match self {
            Core::Mixed => Some(Fill::Mixed),
            Core::Zeros => Some(Fill::Zero),
            Core::Random => Some(Fill::Random),
            Core::Python | Core::Node => None,
        }
    }

    /// The interpreter of a real one.
    pub fn interpreter(self) -> Option<&'static str> {
        match self {
            Core::Mixed | Core::Zeros | Core::Random => None,
            Core::Python => Some("python3"),
            Core::Node => Some("node"),
        }
    }

    /// How much memory its process has at least, where `mib` are asked for.
    pub fn mib(self, mib: usize) -> usize {
        if self.fill().is_some() { mib } else { mib.min(OBJECTS_MIB) }
    }

    /// How many bytes its core has at least. Of a real process not all is in
    /// it: what was mapped from files is not.
    pub fn least_bytes(self, mib: usize) -> u64 {
        let bytes = (self.mib(mib) as u64) << 20;
        if self.fill().is_some() { bytes } else { bytes / 2 }
    }
}

/// What it is called in the tables.
impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Core::Mixed => "mixed",
            Core::Zeros => "zeros",
            Core::Random => "random",
            Core::Python => "Python",
            Core::Node => "Node.js",
        })
    }
}

/// Where the programs are that can be crashed.
pub struct Victims {
    crasher: PathBuf,
    python: PathBuf,
    node: PathBuf,
}

impl Victims {
    /// With their sources in `dir`.
    ///
    /// # Errors
    /// If those cannot be written.
    pub fn new(crasher: PathBuf, dir: &Path) -> Result<Victims> {
        let victims = Victims { crasher, python: dir.join("objects.py"), node: dir.join("objects.js") };
        fs::write(&victims.python, include_str!("victim/objects.py"))?;
        fs::write(&victims.node, include_str!("victim/objects.js"))?;
        Ok(victims)
    }

    /// Starts one, and waits until it has its memory.
    ///
    /// # Errors
    /// If that does not work out, or somebody wants us to end.
    pub fn start(&self, core: Core, mib: usize, interrupt: &Interrupt) -> Result<Victim> {
        let mib = core.mib(mib).to_string();
        let mut command = match core.fill() {
            Some(fill) => {
                let mut crasher = Command::new(&self.crasher);
                crasher.args(["--victim", "--fill", &fill.to_string(), "--heap-mb", &mib]);
                crasher
            }
            None if core == Core::Python => {
                let mut python = Command::new("python3");
                python.arg(&self.python).arg(&mib);
                python
            }
            None => {
                let mut node = Command::new("node");
                node.arg("--max-old-space-size=4096").arg(&self.node).arg(&mib);
                node
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let pid = child.id();
        interrupt.kills(Some(Pid::from_raw(pid as i32)));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let victim = Victim { child, pid, interrupt: interrupt.clone(), _stdin: stdin };
        let mut line = String::new();
        BufReader::new(stdout.context("stdout is piped")?).read_line(&mut line)?;
        interrupt.check()?;
        let said: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("{command:?} said {line:?} instead of being ready"))?;
        // A wrapper of the interpreter would be the one to crash.
        ensure!(said["pid"] == pid, "{command:?} is run by another process than the one that was started");
        Ok(victim)
    }
}

/// A process that waits to be crashed. It ends with this value, however that
/// ends, and by itself should we be killed: with its stdin.
pub struct Victim {
    child: Child,
    /// As the kernel will name it.
    pub pid: u32,
    interrupt: Interrupt,
    _stdin: Option<ChildStdin>,
}

impl Victim {
    /// Crashes it, and returns how long it was held: from the signal to the
    /// moment its parent hears of its end.
    ///
    /// # Errors
    /// If it was not dumped, or died of something else.
    pub fn crash(mut self) -> Result<Duration> {
        let pid = Pid::from_raw(self.pid as i32);
        let began = Instant::now();
        kill(pid, SIGNAL)?;
        // Not reaped, so that an interruption cannot hit another.
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        let held = began.elapsed();
        let ended = self.reap()?;
        self.interrupt.check()?;
        if ended.signal() != Some(SIGNAL as i32) || !ended.core_dumped() {
            bail!("the process was to die of {SIGNAL} and be dumped: {ended}");
        }
        Ok(held)
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        self.interrupt.kills(None);
        self.child.wait().context("waiting for the crashed process")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Once it is reaped, both do nothing.
        let _ = self.child.kill();
        let _ = self.reap();
    }
}
