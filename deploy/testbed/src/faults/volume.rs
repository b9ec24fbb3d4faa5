//! A small file system of its own, and what can be wrong with one.
//!
//! It is an image on a loop device, and the image lies in a tmpfs. What fails is
//! the kernel's own code. Where that tmpfs is full the device fails, the way a
//! thin volume does whose pool is full: what is written is lost when the kernel
//! gets to it, which is later.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::node;
use crate::wait_for;

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of what it lies in, which may have them all.
const POOL: u64 = 512 << 20;
/// What somebody else has in it.
const BALLAST: &str = "a stranger's";

/// Kinds of file systems.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// ext4, with its journal: an error makes it read-only.
    Ext4,
    /// ext4 without one, which goes on.
    Unjournaled,
    /// XFS
    Xfs,
    /// Btrfs, whose quotas bind root as well.
    Btrfs,
}

impl Kind {
    /// What the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ext4 | Kind::Unjournaled => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// Its program and options, and the MiB of an image that it makes something of.
    const fn mkfs(self) -> (&'static str, &'static [&'static str], u64) {
        match self {
            Kind::Ext4 => ("mkfs.ext4", &["-q"], 160),
            Kind::Unjournaled => ("mkfs.ext4", &["-q", "-O", "^has_journal"], 160),
            Kind::Xfs => ("mkfs.xfs", &["-q"], 320),
            Kind::Btrfs => ("mkfs.btrfs", &["-q"], 256),
        }
    }

    /// Whether this kernel has it.
    pub fn is_known(self) -> bool {
        let known = fs::read_to_string("/proc/filesystems").expect("/proc/filesystems");
        known.lines().any(|line| line.trim_start() == self.name())
    }
}

/// One of them, mounted for as long as it lives.
pub struct Volume {
    kind: Kind,
    /// Where the image is.
    pool: TempDir,
    at: PathBuf,
}

impl Volume {
    /// A new one, mounted at `at`.
    pub fn new(kind: Kind, at: &Path) -> Volume {
        let pool = tempfile::tempdir().expect("a directory for the image");
        let options = format!("size={POOL}");
        node::run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(pool.path()));
        let volume = Volume { kind, pool, at: at.to_owned() };
        let (program, options, mib) = kind.mkfs();
        let image = File::create_new(volume.image()).expect("an image");
        image.set_len(mib << 20).expect("its size");
        node::run(Command::new(program).args(options).arg(volume.image()));
        volume.mount();
        volume
    }

    fn image(&self) -> PathBuf {
        self.pool.path().join("image")
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// As it is at a start of the machine.
    pub fn mount(&self) {
        let mut mount = Command::new("mount");
        node::run(mount.args(["-t", self.kind.name(), "-o", "loop"]).args([&self.image(), &self.at]));
    }

    /// The same file system, of which nothing is in memory. Whoever has files open
    /// in it is waited for.
    pub fn remount(&self) {
        wait_for("the spool to be unmounted", PATIENCE, || {
            let mut umount = Command::new("umount");
            let done = umount.arg(&self.at).stderr(Stdio::null()).status().expect("running umount");
            done.success().then_some(())
        });
        self.mount();
    }

    /// Other options, which nobody may be in the way of.
    pub fn set(&self, options: &str) {
        wait_for(&format!("{options} of the spool"), PATIENCE, || {
            let mut mount = Command::new("mount");
            mount.args(["-o", &format!("remount,{options}")]).arg(&self.at).stderr(Stdio::null());
            mount.status().expect("running mount").success().then_some(())
        });
    }

    /// XFS stops, as it does when its log cannot be written.
    pub fn shut_down(&self) {
        node::run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at));
    }

    /// What it may hold, Btrfs; `none` is no limit.
    pub fn limit(&self, bytes: &str) {
        node::run(Command::new("btrfs").args(["quota", "enable"]).arg(&self.at));
        node::run(Command::new("btrfs").args(["qgroup", "limit", bytes]).arg(&self.at));
    }

    /// Somebody else takes what is free, but for so many bytes.
    pub fn leave(&self, bytes: u64) {
        let ballast = File::create(self.at.join(BALLAST)).expect("somebody else's file");
        let bytes = i64::try_from(free(&self.at) - bytes).expect("a size");
        fallocate(ballast, FallocateFlags::empty(), 0, bytes).expect("taking what is free");
    }

    /// Somebody else takes all of it, also what is kept for root.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.at.join(BALLAST));
        let ballast = ballast.as_mut().expect("somebody else's file");
        for piece in [1 << 20, 1 << 12, 1] {
            let piece = vec![1; piece];
            while ballast.write_all(&piece).is_ok() {}
        }
    }

    /// He has it no more.
    pub fn empty(&self) {
        fs::remove_file(self.at.join(BALLAST)).expect("removing somebody else's file");
    }

    /// Whatever has no place yet in what it lies in gets none.
    pub fn starve(&self) {
        // It may need more by the time it is set.
        wait_for("the pool to have no room", PATIENCE, || {
            let pool = statvfs(self.pool.path()).expect("asking how full it is");
            let used = (pool.blocks() - pool.blocks_free()) * pool.fragment_size();
            self.set_pool(used).then_some(())
        });
    }

    /// There is place again.
    pub fn feed(&self) {
        assert!(self.set_pool(POOL), "it can be larger");
    }

    fn set_pool(&self, bytes: u64) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={bytes}")]).arg(self.pool.path()).stderr(Stdio::null());
        mount.status().expect("running mount").success()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for at in [&*self.at, self.pool.path()] {
            let _ = Command::new("umount").arg("--lazy").arg(at).status();
        }
    }
}

/// Bytes free for anyone in the file system of `at`.
pub fn free(at: &Path) -> u64 {
    let disk = statvfs(at).expect("asking how full it is");
    disk.blocks_available() * disk.fragment_size()
}
