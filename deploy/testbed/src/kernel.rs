//! What a machine has one of: its kernel's settings for cores.
//!
//! A watchdog, a shell in a process group of its own, holds a pipe's reading
//! end, the lock, and the values that were there before. When the pipe closes,
//! however that comes about, it puts them back, and only then the lock is free.
//! A test that passed, one that panicked and one that was killed take the same
//! way out.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

const LOCK: &str = "coredump-handler-kernel.lock";

/// Every step is tried, whatever became of the others. It looks itself whether
/// they had their effect: once it is gone, so is the lock, and the next test may
/// have set something else.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r _
failed=0
while [ $# -gt 0 ]; do
    printf '%s\n' "$2" > "$1"
    [ "$(cat "$1")" = "$2" ] || failed=1
    shift 2
done
exit $failed
"#;

/// A setting that tests may change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sysctl {
    /// `fs.suid_dumpable`
    SuidDumpable,
    /// `kernel.core_pattern`
    CorePattern,
    /// `kernel.core_pipe_limit`
    CorePipeLimit,
    /// `kernel.core_uses_pid`
    CoreUsesPid,
}

impl Sysctl {
    /// All of them, in the order in which they are put back: the kernel warns
    /// of an unsafe pattern while `suid_dumpable` is 2.
    pub const ALL: [Sysctl; 4] =
        [Sysctl::SuidDumpable, Sysctl::CorePattern, Sysctl::CorePipeLimit, Sysctl::CoreUsesPid];

    /// Its file.
    pub const fn path(self) -> &'static str {
        match self {
            Sysctl::SuidDumpable => "/proc/sys/fs/suid_dumpable",
            Sysctl::CorePattern => "/proc/sys/kernel/core_pattern",
            Sysctl::CorePipeLimit => "/proc/sys/kernel/core_pipe_limit",
            Sysctl::CoreUsesPid => "/proc/sys/kernel/core_uses_pid",
        }
    }

    /// What it is now. Anyone may ask.
    pub fn read(self) -> String {
        let value = fs::read_to_string(self.path());
        let value = value.unwrap_or_else(|err| panic!("reading {}: {err}", self.path()));
        value.trim_end_matches('\n').to_owned()
    }
}

/// The right to change the kernel's settings. They are as they were before
/// when it is gone; declare it after the [`Node`](crate::node::Node) whose
/// composer it points the kernel at, so that it goes first.
pub struct Kernel {
    watchdog: Child,
    before: [String; 4],
}

impl Kernel {
    /// Waits until no other test has the kernel, and takes it.
    pub fn lock() -> Kernel {
        assert!(geteuid().is_root(), "only root may change kernel.core_pattern: run this test as root");
        let lock = lock_file();
        lock.lock().expect("locking the kernel's lock file");
        let before = Sysctl::ALL.map(Sysctl::read);
        let values = Sysctl::ALL.iter().zip(&before).flat_map(|(sysctl, value)| [sysctl.path(), value]);
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .args(values)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            // Not to be written to: it is how the lock outlives us.
            .stdout(lock)
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is not for it
            .spawn()
            .expect("starting the watchdog of the kernel's settings");
        Kernel { watchdog, before }
    }

    /// Changes a setting for as long as the guard lives.
    pub fn set(&self, sysctl: Sysctl, value: &str) {
        fs::write(sysctl.path(), format!("{value}\n"))
            .unwrap_or_else(|err| panic!("setting {} to {value:?}: {err}", sysctl.path()));
    }

    /// What a setting was before, and will be again.
    pub fn before(&self, sysctl: Sysctl) -> &str {
        &self.before[sysctl as usize]
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // `wait` closes the pipe.
        let ended = self.watchdog.wait();
        let restored = ended.as_ref().is_ok_and(ExitStatus::success);
        if !thread::panicking() {
            assert!(restored, "the watchdog ({ended:?}) did not restore the kernel's settings");
        }
    }
}

/// The kernel's log.
pub struct Log(File);

impl Log {
    /// All that it still holds.
    pub fn all() -> Log {
        let nonblock = OFlag::O_NONBLOCK.bits();
        Log(File::options().read(true).custom_flags(nonblock).open("/dev/kmsg").expect("/dev/kmsg"))
    }

    /// What comes from now on.
    pub fn from_now() -> Log {
        let mut log = Log::all();
        log.0.seek(SeekFrom::End(0)).expect("the end of /dev/kmsg");
        log
    }

    /// What has come since it was last read, but for what was overwritten meanwhile.
    pub fn read(&mut self) -> String {
        let mut log = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(n) => log.extend_from_slice(&record[..n]),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {}
                Err(err) => panic!("reading /dev/kmsg: {err}"),
            }
        }
        String::from_utf8_lossy(&log).into_owned()
    }
}

fn lock_file() -> File {
    let open = |dir| File::options().append(true).create(true).open(Path::new(dir).join(LOCK));
    open("/run/lock").or_else(|_| open("/tmp")).expect("a lock file in /run/lock or /tmp")
}
