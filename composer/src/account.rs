//! What is known about a crash, as it goes into the manifest.

use jiff::Timestamp;
use nix::sys::signal::Signal;
use protocol::argv::Argv;
use protocol::manifest::{Attribution, Core, Crash, Manifest, Truncation};
use protocol::spool::Hint;
use protocol::text::Text;

use crate::dump::Copied;
use crate::process::Process;
use crate::story::Story;

/// What the kernel and `/proc` say about the process.
pub fn crash(argv: &Argv, time: Option<Timestamp>, process: &Process, cmdline: Option<Vec<Text>>) -> Crash {
    Crash {
        pid: argv.pid,
        tid: argv.tid,
        uid: argv.uid,
        gid: argv.gid,
        signal: argv.signal,
        signal_name: argv.signal.map(signal_name),
        time,
        // The kernel has made a `!` of each `/` in %e (`cn_esc_printf`).
        comm: process.comm.clone().or_else(|| argv.comm.clone()),
        exe: process.exe.as_ref().ok().cloned(),
        cmdline,
        hostname: argv.hostname.clone(),
        dumpable: argv.dumpable,
        core_limit: argv.core_limit,
    }
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |signal| signal.as_str().to_owned())
}

/// What the core is, and whether it is all there.
pub fn core(copied: &Copied, story: &mut Story) -> Core {
    let expected_bytes = copied.extent.expected_bytes();
    let truncated = match expected_bytes {
        Some(expected) if copied.bytes >= expected => None,
        Some(_) => Some(Truncation::KilledWhileDumping),
        None if copied.extent.is_foreign() => {
            story.problem("the core does not begin like an ELF core; how long it should be is not known");
            None
        }
        None => {
            story.problem("the core ended before its headers did");
            Some(Truncation::KilledWhileDumping)
        }
    };
    Core { bytes: copied.bytes, expected_bytes, crc32: format!("{:08x}", copied.crc32), truncated }
}

/// Where it ran, in a word: `namespace/pod/container`, or the container's id.
pub fn container(container: &Attribution) -> Option<String> {
    match container {
        Attribution::Present(c) => Some(format!("{}/{}/{}", c.pod.namespace, c.pod.name, c.name)),
        Attribution::Missing { id, .. } => id.clone(),
    }
}

/// For people who read `ls`: the pod and container, or the command of a
/// process that is in none we know, and the signal.
pub fn hint(manifest: &Manifest) -> Hint {
    let crash = &manifest.crash;
    let signal = crash.signal_name.as_deref().unwrap_or_default().as_bytes();
    let comm = crash.comm.as_ref().map_or(&b""[..], Text::as_bytes);
    match manifest.container.present() {
        Some(c) => Hint::new([c.pod.namespace.as_bytes(), c.pod.name.as_bytes(), c.name.as_bytes(), signal]),
        None => Hint::new([comm, signal]),
    }
}
