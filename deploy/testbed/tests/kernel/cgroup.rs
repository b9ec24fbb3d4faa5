//! A cgroup like those in which a kubelet's containers run, without a kubelet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testbed::wait_for;

/// What its path says: a pod and a container that no runtime knows.
pub const POD_UID: &str = "ebd4ed5f-7157-41bc-8004-afdf4f6afe14";
pub const CONTAINER_ID: &str = "2931aa398062759b9ca3f1df74ec3eaacb35a4b68eaa200ddc96794f078d9c9e";

/// A container's cgroup, empty, and gone when dropped.
pub struct ContainerCgroup {
    mount: &'static Path,
    path: PathBuf,
}

impl ContainerCgroup {
    pub fn new() -> ContainerCgroup {
        // Of a hybrid of version 1 and 2 the part that is 2, else all of 2.
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists());
        let mount = mount.expect("a cgroup hierarchy of version 2");
        let path = mount.join(format!("kubepods/besteffort/pod{POD_UID}/{CONTAINER_ID}"));
        fs::create_dir_all(&path).unwrap();
        ContainerCgroup { mount, path }
    }

    /// Moves a process into it.
    pub fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for ContainerCgroup {
    fn drop(&mut self) {
        // Processes that have just died may still be in it.
        let empty = || fs::remove_dir(&self.path).ok().or_else(|| (!self.path.exists()).then_some(()));
        wait_for("a cgroup to be empty", Duration::from_secs(10), empty);
        // Those above it may be in use by others.
        for parent in self.path.ancestors().skip(1).take_while(|parent| *parent != self.mount) {
            let _ = fs::remove_dir(parent);
        }
    }
}
