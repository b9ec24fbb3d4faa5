//! The three programs of `dist/` and the real kernel. Needs root.
//!
//! Each test has the kernel for itself, for as long as it holds a
//! [`Kernel`](testbed::kernel::Kernel).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod capture;
mod crash;
mod install;
mod journey;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testbed::kernel::Kernel;
use testbed::node::{self, Dump, Node};

/// For things that take a moment, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node whose installer has been run, and the kernel for it. The kernel goes
/// first when both are dropped, so that it never names a composer that is gone.
struct Collecting {
    kernel: Kernel,
    node: Node,
}

impl Collecting {
    fn new(settings: &str) -> Collecting {
        let collecting = Collecting { kernel: Kernel::lock(), node: Node::new(settings) };
        node::run(&mut collecting.node.installer(["install"]));
        collecting
    }

    /// Waits for the one dump.
    fn dump(&self) -> Dump {
        let ready = self.node.wait_for_ready(1, PATIENCE);
        let [entry] = &ready[..] else { panic!("{ready:?}") };
        self.node.open(entry)
    }
}

/// `unzip`'s opinion of a zip.
fn unzip_approves(zip: &Path) {
    node::run(Command::new("unzip").arg("-tq").arg(zip));
}

/// What the kernel's log holds.
fn kernel_log() -> String {
    let mut kmsg: File = OpenOptions::new()
        .read(true)
        .custom_flags(0o4000 /* O_NONBLOCK */)
        .open("/dev/kmsg")
        .expect("/dev/kmsg");
    let mut log = Vec::new();
    let mut record = [0; 8192];
    loop {
        match kmsg.read(&mut record) {
            Ok(n) => log.extend_from_slice(&record[..n]),
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => {} // overwritten while we read
            Err(err) => panic!("reading /dev/kmsg: {err}"),
        }
    }
    String::from_utf8_lossy(&log).into_owned()
}

/// The peak memory a composer says it had, in KiB.
fn peak_memory(dump: &mut Dump) -> u64 {
    let log = String::from_utf8(dump.entry("composer.log")).expect("the log is text");
    let said =
        log.lines().find_map(|line| line.split_once("used at most ")?.1.strip_suffix(" KiB of memory"));
    said.expect("the log tells the memory").parse().expect("a number")
}
