//! A containerd's settings, in which nothing lies outside of its directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::image::PAUSE;

const NETWORK: &str = include_str!("network.sh");

/// Where they are.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("config.toml")
}

/// Writes them and returns the snapshotter they name.
///
/// cgroups stay real, unlike in most containerds of tests: they are how a
/// crash is known to be a container's. Version 2 is understood by 1.x and 2.x.
pub(super) fn write(dir: &Path, socket: &Path) -> &'static str {
    let snapshotter = if overlays(dir) { "overlayfs" } else { "native" };
    add_network(dir);
    let config = format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
# The one has a socket in /run, the other complains that it is not set up.
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# There are no profiles to be had here.
disable_apparmor = true
# A kubelet asks for less than 0, which takes CAP_SYS_RESOURCE, and not every
# root has that.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/cni/bin"
conf_dir = "{dir}/cni/conf"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{dir}/runc"
"#,
        dir = dir.display(),
        socket = socket.display(),
    );
    fs::write(path(dir), config).expect("containerd's settings");
    snapshotter
}

/// Pods get a network namespace and an address that leads nowhere, so that no
/// plugin has to be installed.
fn add_network(dir: &Path) {
    // Not in one: 2.x takes `conf/<network>` for a directory of more settings.
    let [bin, conf] = ["bin", "conf"].map(|name| dir.join("cni").join(name));
    fs::create_dir_all(&bin).expect("the directory of network plugins");
    fs::create_dir(&conf).expect("the directory of network settings");
    // containerd calls `loopback` unbidden.
    for plugin in ["none", "loopback"] {
        fs::write(bin.join(plugin), NETWORK).expect("a network plugin");
        fs::set_permissions(bin.join(plugin), PermissionsExt::from_mode(0o755)).expect("its mode");
    }
    let network = r#"{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "none"}]}"#;
    fs::write(conf.join("none.conflist"), network).expect("the network's settings");
}

/// True if overlayfs works here: it does not on top of another one.
fn overlays(dir: &Path) -> bool {
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        let dir = dir.join("overlay").join(name);
        fs::create_dir_all(&dir).expect("a directory to try overlayfs in");
        dir
    });
    let [l, u, w] = [lower, upper, work].map(|dir| dir.display().to_string());
    let options = format!("lowerdir={l},upperdir={u},workdir={w}");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(&*options)).is_ok()
        && umount2(&merged, MntFlags::MNT_DETACH).is_ok()
}
