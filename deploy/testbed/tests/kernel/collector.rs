//! The image and the manifests, as a node gets them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use testbed::containerd::{ContainerSpec, Containerd, PodSpec};
use testbed::kernel::{Kernel, Sysctl};
use testbed::kubelet::{self, Cluster, Manifests};
use testbed::kubernetes::ApiServer;
use testbed::node::{Dump, short_dir};
use testbed::store::{ACCESS_KEY, REGION, SECRET_KEY, Store};
use testbed::wait_for;

use crate::{PATIENCE, unzip_approves};

const BUCKET: &str = "dumps";
/// As `make image` and the manifests name it if nobody says otherwise.
const IMAGE: &str = "coredump-handler:0.1.0";
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The manifests as they are, but for paths on the host and the store.
fn manifests(dir: &Path, store: &Store, containerd: &Containerd) -> Manifests {
    let kustomize = Command::new("kubectl").args(["kustomize", "deploy/base"]).current_dir(ROOT).output();
    let kustomize = kustomize.expect("starting kubectl, which `make tools` installs");
    assert!(kustomize.status.success(), "{kustomize:?}");
    let yaml = String::from_utf8(kustomize.stdout).unwrap();
    let mut lines = Vec::new();
    for line in yaml.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        lines.push(match line.trim_start().split_once(": ") {
            Some(("bucket", _)) => format!("{indent}bucket: {BUCKET}\n{indent}path_style: true"),
            Some(("endpoint", _)) => format!("{indent}endpoint: {}", store.endpoint()),
            Some(("region", _)) => format!("{indent}region: {REGION}"),
            // This runtime is at no well-known place, and this disk may be rather full.
            Some(("composer", _)) => {
                let socket = containerd.socket().display();
                format!("{indent}composer: {{cri_socket: {socket}, keep_free: 64MiB}}")
            }
            _ => line
                .replace("/opt/coredump-handler", &format!("{}/host", dir.display()))
                .replace("/var/lib/coredump-handler/spool", &format!("{}/spool", dir.display())),
        });
    }
    Manifests::read(&lines.join("\n"))
}

/// What the kernel says of a process that has no privilege at all.
fn assert_is_harmless(pid: u32, ids: [u32; 2]) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((&*field("NoNewPrivs"), &*field("Seccomp")), ("1", "2"));
    for (name, id) in ["Uid", "Gid"].into_iter().zip(ids) {
        assert_eq!(field(name), [id.to_string().as_str(); 4].join("\t"));
    }
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root_is_read_only = mounts.lines().any(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        fields[4] == "/" && fields[5].split(',').any(|option| option == "ro")
    });
    assert!(root_is_read_only, "{mounts}");
    assert!(!root.join("bin/sh").exists(), "there is no shell");
}

#[test]
fn a_node_collects_as_long_as_the_daemon_set_is_there_and_is_given_back_afterwards() {
    let containerd = Containerd::start();
    containerd.import(&Path::new(ROOT).join("dist/image.tar"), &[IMAGE]);
    let (kernel, dir, api, store) =
        (Kernel::lock(), short_dir(), ApiServer::start(), Store::temporary(BUCKET));
    let before = kernel.before(Sysctl::CorePattern).to_owned();
    let pair = [("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)];
    let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let cluster =
        Cluster { api: &api, secrets: BTreeMap::from([("coredump-handler-store".to_owned(), pair)]) };
    let start =
        || kubelet::run(&containerd, manifests(dir.path(), &store, &containerd), IMAGE, &cluster, dir.path());
    let ready = |pod: &kubelet::Pod| {
        let mut obstacle = Ok(());
        wait_for("the pod to be ready", PATIENCE, || {
            obstacle = pod.probe();
            obstacle.is_ok().then_some(())
        });
    };
    let pod = start();
    ready(&pod);
    assert_is_harmless(pod.container("installer").pid(), [0, 65532]);
    assert_is_harmless(pod.container("uploader").pid(), [65532, 65532]);

    // A crash in another pod becomes an object, and its pod hears of it.
    let crashed = containerd.run_pod(&PodSpec::default());
    assert_eq!(crashed.run_container(&ContainerSpec::default()).wait_exited(), 128 + 11);
    let key = wait_for("its object", PATIENCE, || store.objects(BUCKET).pop());
    assert!(key.starts_with("default/web-0/"), "{key}");
    let object = dir.path().join("object.zip");
    fs::write(&object, store.read(BUCKET, &key)).unwrap();
    unzip_approves(&object);
    let manifest = Dump::open(&object).manifest();
    assert_eq!(manifest.container.present().unwrap().pod.uid, crashed.uid());
    assert!(manifest.trusted && manifest.core.truncated.is_none());
    let reasons = wait_for("its Events", PATIENCE, || {
        let events = api.events();
        let ours = events.iter().filter(|event| event.involved_object.uid == crashed.uid());
        let reasons: Vec<_> = ours.map(|event| event.reason.clone()).collect();
        (reasons.len() == 2).then_some(reasons)
    });
    assert!(reasons.contains(&"CoreDumped".to_owned()) && reasons.contains(&"CoreDumpUploaded".to_owned()));

    // A rolling update opens no gap.
    let ends = pod.terminate();
    assert!(ends.values().all(|code| *code == 0), "{ends:?}");
    assert!(Sysctl::CorePattern.read().starts_with('|'), "the node collects without its pod");
    let between = containerd.run_pod(&PodSpec { name: "web-1", ..PodSpec::default() });
    assert_eq!(between.run_container(&ContainerSpec::default()).wait_exited(), 128 + 11);
    let pod = start();
    ready(&pod);
    wait_for("the second object", PATIENCE, || (store.objects(BUCKET).len() == 2).then_some(()));

    // Removed.
    api.delete_daemon_set();
    let ends = pod.terminate();
    assert!(ends.values().all(|code| *code == 0), "{ends:?}");
    assert_eq!(Sysctl::CorePattern.read(), before);
    assert_eq!(fs::read_dir(dir.path().join("host")).unwrap().count(), 0);
}
