//! The three programs of `dist/` and the real kernel. Needs root.
//!
//! Each test has the kernel for itself, for as long as it holds a
//! [`Kernel`](testbed::kernel::Kernel).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod attribution;
mod capture;
mod cgroup;
mod collector;
mod install;
mod journey;
mod pods;
mod space;
mod storm;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::kernel::{Kernel, Log};
use testbed::node::{self, Dump, Node};
use testbed::wait_for;

/// For things that take a moment, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// A node whose installer has been run, and the kernel for it. The kernel goes
/// first when both are dropped, so that it never names a composer that is gone.
struct Collecting {
    kernel: Kernel,
    node: Node,
    log: Log,
}

impl Collecting {
    fn new(settings: &str) -> Collecting {
        let (kernel, node) = (Kernel::lock(), Node::new(settings));
        let collecting = Collecting { kernel, node, log: Log::from_now() };
        collecting.node.install();
        collecting
    }

    /// Waits for the one dump.
    fn dump(&self) -> Dump {
        let ready = self.node.wait_for_ready(1, PATIENCE);
        let [entry] = &ready[..] else { panic!("{ready:?}") };
        self.node.open(entry)
    }
}

impl Drop for Collecting {
    /// Whoever reads of a test that failed wants to know what the composer said.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the kernel's log meanwhile:\n{}", self.log.read());
        }
    }
}

/// A daemon, that ends with its test however that ends.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Running {
        let mut mortal = Command::new("setpriv");
        mortal.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        mortal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command = mortal;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Running(child.expect("starting a daemon"))
    }

    /// Asks it to end, and returns what it said, if it ended well.
    fn terminate(mut self) -> String {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).expect("SIGTERM");
        let ended = wait_for("a daemon to end", PATIENCE, || self.0.try_wait().expect("the daemon"));
        let mut said = String::new();
        self.0.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        assert!(ended.success(), "{said}");
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mount that goes with its test.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    /// A file system of its own, as small or as read-only as asked.
    fn tmpfs<'a>(at: &'a Path, options: &str) -> Mounted<'a> {
        node::run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at));
        Mounted(at)
    }

    /// The same directory, with other options.
    fn bind<'a>(at: &'a Path, options: &str) -> Mounted<'a> {
        node::run(Command::new("mount").arg("--bind").args([at, at]));
        let mounted = Mounted(at);
        node::run(Command::new("mount").args(["-o", &format!("remount,bind,{options}")]).arg(at));
        mounted
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// `unzip`'s opinion of a zip.
fn unzip_approves(zip: &Path) {
    node::run(Command::new("unzip").arg("-tq").arg(zip));
}

/// What the kernel's log holds.
fn kernel_log() -> String {
    Log::all().read()
}

/// The peak memory a composer says it had, in KiB.
fn peak_memory(dump: &mut Dump) -> u64 {
    let log = String::from_utf8(dump.entry("composer.log")).expect("the log is text");
    let said =
        log.lines().find_map(|line| line.split_once("used at most ")?.1.strip_suffix(" KiB of memory"));
    said.expect("the log tells the memory").parse().expect("a number")
}
