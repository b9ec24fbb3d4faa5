//! The installer as its pod runs it: root without any capability, in the
//! spool's group, with a file system that is read-only but for its mounts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use testbed::kubernetes::{ApiServer, DAEMON_SET};

use crate::node::{FOREIGN, Node, eventually, is_root, text};
use crate::watch::Watch;

/// The uploader's group, and the pod's.
const GID: u32 = 65532;
/// Each pod has a mount namespace of its own: `$0` is its root, then come the
/// two directories that the kubelet made on the host, and the command.
const POD: &str = r#"set -e
opt=$1 spool=$2; shift 2
mount --bind "$0" "$0"
mount --bind "$opt" "$0/opt/coredump-handler"
mount --bind "$spool" "$0/var/lib/coredump-handler/spool"
mount -o remount,bind,ro "$0"
exec setpriv --regid 65532 --clear-groups --bounding-set=-all --inh-caps=-all "$@""#;

/// A host with the directories its kubelet made, or the reason why there is none.
fn host() -> Option<Node> {
    if !is_root() {
        return None;
    }
    let mounts = Command::new("unshare").args(["--mount", "true"]).output().unwrap();
    if !mounts.status.success() {
        eprintln!("this test needs to mount, and has tested nothing: {}", text(&mounts));
        return None;
    }
    let node = Node::new();
    node.furnish();
    for dir in ["pod/opt/coredump-handler", "pod/var/lib/coredump-handler/spool"] {
        fs::create_dir_all(node.path(dir)).unwrap();
    }
    node.configure_for(GID, "check_every: 5ms");
    Some(node)
}

/// A new pod.
fn pod(node: &Node, args: &[&str]) -> Command {
    let root = node.path("pod");
    let installer = node.command(&[&["--host-root", root.to_str().unwrap()], args].concat());
    let mut pod = Command::new("unshare");
    pod.args(["--mount", "--propagation", "private", "/bin/sh", "-c", POD]);
    pod.arg(&root).args([node.host_dir(), node.spool()]);
    pod.arg(installer.get_program()).args(installer.get_args());
    pod
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_pod_installs_and_uninstalls_as_often_as_it_is_asked() {
    let Some(node) = host() else { return };
    let ok = |command: &str| {
        let output = pod(&node, &[command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", text(&output));
        text(&output)
    };
    for _ in 0..2 {
        ok("install");
        assert!(ok("status").contains("core_pattern"));
        assert_eq!(ok("install"), "");
        assert_eq!((mode(&node.host_dir()), mode(&node.spool())), (0o711, 0o2770));
        assert!(ok("uninstall").contains("coredump-handler: it is mounted"));
        ok("uninstall");
        assert_eq!(node.sysctl("kernel/core_pattern"), "|/usr/share/apport/apport %p");
        assert_eq!(fs::read_dir(node.host_dir()).unwrap().count(), 0);
        assert_eq!((mode(&node.host_dir()), mode(&node.spool())), (0o755, 0o755));
    }
}

#[test]
fn a_pod_whose_daemon_set_is_removed_gives_the_node_back() {
    let Some(node) = host() else { return };
    let server = ApiServer::start();
    let account = server.account().display();
    node.configure_for(GID, &format!("daemon_set: {DAEMON_SET}\naccount_dir: {account}"));
    let mut command = pod(&node, &["run"]);
    let mut watch = Watch::spawn(&node, command.envs(server.env()), "will give this node back");
    server.delete_daemon_set();
    watch.end_in_time(Signal::SIGTERM);
    assert_eq!(node.sysctl("kernel/core_pattern"), "|/usr/share/apport/apport %p");
    assert_eq!(fs::read_dir(node.host_dir()).unwrap().count(), 0);
    assert_eq!((mode(&node.host_dir()), mode(&node.spool())), (0o755, 0o755));
}

#[test]
fn a_pod_that_cannot_open_the_spool_still_keeps_the_pattern() {
    let Some(node) = host() else { return };
    let output = pod(&node, &["install"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    node.set("kernel/core_pattern", FOREIGN);
    chown(node.spool(), Some(4711), None).unwrap();
    fs::set_permissions(node.spool(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = pod(&node, &["install"]).output().unwrap();
    assert!(
        output.status.code() == Some(1) && text(&output).contains("spool mode 2770: Operation not permitted")
    );
    assert!(node.sysctl("kernel/core_pattern").starts_with("|/opt/coredump-handler/composer "));
}

#[test]
fn a_pod_whose_directory_is_deleted_on_the_host_asks_for_a_restart() {
    for dir in [Node::host_dir, Node::spool] {
        let Some(node) = host() else { return };
        let mut watch = Watch::spawn(&node, &mut pod(&node, &["run"]), "this node is collecting");
        // Until then `run` puts back what is missing.
        eventually("it is deleted", || fs::remove_dir_all(dir(&node)).is_ok());
        assert_eq!(watch.child.wait().unwrap().code(), Some(1));
        assert!(watch.log().contains("is deleted on the host; restart to mount it anew"), "{}", watch.log());
    }
}
