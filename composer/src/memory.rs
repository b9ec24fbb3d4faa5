//! The node's memory, and ours.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, setrlimit};

/// More than we ever need, with the stacks of all threads: what is beyond it is
/// a mistake of ours, which the node is not to pay for.
const MOST: u64 = 256 << 20;
/// When the node is out of memory, we are to go before most: with us goes the
/// crashed process, and its memory (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: &str = "500";

/// Bounds what we may take. That it cannot be is no reason to lose a core.
pub fn restrain() {
    let _ = setrlimit(Resource::RLIMIT_DATA, MOST, MOST);
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
}

/// What may lie in the page cache because of crashes, in bytes, and wait to be
/// written to the disk. The kernel begins to write, and soon to slow down whoever
/// makes it, when more than a tenth of what is available waits, or what else it is
/// told (`vm.dirty_background_ratio`, `vm.dirty_background_bytes`). With others in
/// mind, little more than half of that.
pub fn share() -> io::Result<u64> {
    let number = |name: &str| -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/sys/vm/{name}"))?;
        text.trim().parse().map_err(io::Error::other)
    };
    let threshold = match number("dirty_background_bytes")? {
        0 => kib("/proc/meminfo", "MemAvailable:")? * 1024 / 100 * number("dirty_background_ratio")?,
        bytes => bytes,
    };
    Ok((threshold / 8 * 5).saturating_sub(kib("/proc/meminfo", "Dirty:")? * 1024))
}

/// The most we have had at once, in KiB.
pub fn peak_kib() -> io::Result<u64> {
    kib("/proc/self/status", "VmHWM:")
}

/// A line of `proc_meminfo(5)` or of `proc_pid_status(5)`.
fn kib(path: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("no {name} in {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_known() {
        let (share, peak) = (share().unwrap(), peak_kib().unwrap());
        assert!(share < 1 << 50, "{share}");
        assert!(peak > 100 && peak < 1 << 30, "{peak}");
        assert!(kib("/proc/meminfo", "Surprise:").is_err());
    }
}
