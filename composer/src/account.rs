//! What is known about a crash, as it goes into the manifest.

use jiff::Timestamp;
use nix::sys::signal::Signal;
use protocol::argv::Argv;
use protocol::manifest::{Attribution, Container, Core, Crash, Manifest, Pod, Truncation};
use protocol::spool::Hint;
use protocol::text::Text;

use crate::cri::message::{self, ContainerStatusResponse, PodSandbox};
use crate::dump::Copied;
use crate::process::Process;
use crate::story::Story;

/// What the kubelet adds to a pod's labels in its sandbox and its containers
/// (`labels.go` in its `kuberuntime`): its uid, and two more.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
const ADDED_LABELS: [&str; 3] = [POD_UID, "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"];

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

/// What its runtime says of a container, as it goes into the manifest.
pub fn attributed(container: &message::Container, sandbox: &PodSandbox) -> Container {
    let metadata = container.metadata.clone().unwrap_or_default();
    let pod = sandbox.metadata.clone().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    let image = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    let mut labels = sandbox.labels.clone();
    labels.retain(|key, _| !ADDED_LABELS.contains(&key.as_str()));
    Container {
        id: container.id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        image,
        image_ref: container.image_ref.clone(),
        pod: Pod { name: pod.name, namespace: pod.namespace, uid: pod.uid, labels },
    }
}

/// The list may have nothing but the image's id where the status has its name.
pub fn name_image(container: &mut Container, status: &ContainerStatusResponse) {
    let image = status.status.as_ref().and_then(|status| status.image.as_ref());
    if let Some(image) = image.filter(|image| !image.image.is_empty())
        && container.image.starts_with("sha256:")
    {
        container.image.clone_from(&image.image);
    }
}
