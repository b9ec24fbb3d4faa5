//! What was measured on, without which no number means anything.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use super::victim::Core;
use crate::node;

/// File systems that are memory: what is written there is not written.
const MEMORY: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];

/// Facts, each with its name.
pub struct Machine {
    /// In the order they are told.
    pub facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks around. Dumps go to `dir`.
    ///
    /// # Errors
    /// If that is not on a disk.
    pub fn look(dir: &Path) -> Result<Machine> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        let real = dir.canonicalize().with_context(|| format!("looking at {}", dir.display()))?;
        let mount = Mount::of(&real, &mounts).with_context(|| format!("no mount has {}", dir.display()))?;
        ensure!(!MEMORY.contains(&mount.kind), "{} is no disk but {}", dir.display(), mount.kind);
        let cores = thread::available_parallelism().map_or(0, Into::into);
        let disk = format!("{}: {} on {} ({})", dir.display(), mount.kind, mount.source, mount.options);
        Ok(Machine {
            facts: vec![
                ("date", Timestamp::now().strftime("%F %H:%M UTC").to_string()),
                ("processor", format!("{} ({ARCH}), {cores} cores", line("/proc/cpuinfo", "model name"))),
                ("memory", memory()),
                ("kernel", text("/proc/sys/kernel/osrelease")),
                ("huge pages", text("/sys/kernel/mm/transparent_hugepage/enabled")),
                ("dumps", disk),
                ("load before", text("/proc/loadavg")),
                ("composer", composer()),
                ("naive way", format!("miniz_oxide {}, level 6", locked("miniz_oxide"))),
                ("raw file", said("cat", &["--version"])),
            ],
        })
    }
}

/// What an interpreter says it is, if there is one.
pub fn version(core: Core) -> Option<String> {
    let version = said(core.interpreter()?, &["--version"]);
    (!version.is_empty()).then_some(version)
}

fn composer() -> String {
    let program = node::dist().join("composer");
    let commit = said("git", &["describe", "--always", "--dirty"]);
    format!("{} ({commit})", said(&program.display().to_string(), &["--version"]))
}

fn memory() -> String {
    let total = line("/proc/meminfo", "MemTotal");
    let kib = total.strip_suffix(" kB").and_then(|kib| kib.parse::<f64>().ok());
    kib.map_or(total, |kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0))
}

/// The first line a program says, or nothing.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let said = String::from_utf8(output.unwrap_or_default()).unwrap_or_default();
    said.lines().next().unwrap_or_default().to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of the first `name : value`.
fn line(path: &str, name: &str) -> String {
    let text = text(path);
    let mut found = text.lines().filter_map(|line| line.strip_prefix(name)?.split_once(':'));
    found.next().map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// The version of a crate that is built in.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let package = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
    package.and_then(|(_, rest)| Some(rest.split_once('"')?.0)).unwrap_or_default()
}

#[derive(Debug, PartialEq)]
struct Mount<'a> {
    kind: &'a str,
    source: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// The one that has `path`: the longest, and the latest of those. See
    /// proc_pid_mountinfo(5).
    fn of(path: &Path, mountinfo: &'a str) -> Option<Mount<'a>> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(4);
            let (at, options) = (Path::new(mount.next()?), mount.next()?);
            let mut source = source.split(' ');
            let mount = Mount { kind: source.next()?, source: source.next()?, options };
            path.starts_with(at).then_some((at.as_os_str().len(), mount))
        });
        mounts.max_by_key(|(length, _)| *length).map(|(_, mount)| mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_longest_mount_that_has_it() {
        let mounts = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 22 0:25 / /var/tmp rw - tmpfs first rw
31 22 0:26 / /var/tmp rw,nosuid shared:2 master:1 - tmpfs second rw
32 22 0:27 / /var/tmpfs rw - xfs /dev/vdb rw";
        let of = |path| Mount::of(Path::new(path), mounts).unwrap();
        assert_eq!(of("/var/lib"), Mount { kind: "ext4", source: "/dev/vda", options: "rw,relatime" });
        assert_eq!(of("/var/tmp/a"), Mount { kind: "tmpfs", source: "second", options: "rw,nosuid" });
        assert_eq!(of("/var/tmpfs").kind, "xfs");
    }

    #[test]
    fn memory_is_no_disk() {
        let refused = Machine::look(Path::new("/dev/shm")).err().map(|err| err.to_string());
        assert_eq!(refused.as_deref(), Some("/dev/shm is no disk but tmpfs"));
    }

    #[test]
    fn the_naive_way_has_a_version() {
        assert!(locked("miniz_oxide").starts_with(|c: char| c.is_ascii_digit()));
    }
}
