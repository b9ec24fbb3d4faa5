//! What is known about a crash, as it goes into the manifest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use protocol::argv::Argv;
use protocol::manifest::{Attribution, Container, Core, Crash, Pod, Truncation};
use protocol::text::Text;

use crate::cri::message::{self, ContainerStatus, PodSandbox};
use crate::dump::Copied;
use crate::pipeline::{Stop, is_disk_full};
use crate::process::Process;
use crate::story::Story;

/// What the kubelet adds to a pod's labels in its sandbox and its containers
/// (`labels.go` in its `kuberuntime`): its uid, and two more.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
const ADDED_LABELS: [&str; 3] = [POD_UID, "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"];

/// Bytes of labels in the manifest, which has to stay below a megabyte, also if
/// each of them takes six (`\u0001`). Kubernetes bounds annotations by 256 KiB,
/// and labels not at all.
const MAX_LABELS: usize = 128 << 10;
/// What JSON adds to a label that is on a line of its own.
const LABEL_FRAME: usize = 24;
/// Bytes of any other text of the runtime in the manifest, and in the journal,
/// whose readers pass over lines of 64 KiB. Kubernetes has none of 300.
const MAX_NAME: usize = 1 << 10;

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

/// What the core is, and whether it is all there; `most` is what it may have.
pub fn core(copied: &Copied, most: Option<u64>, story: &mut Story) -> Core {
    let expected_bytes = copied.extent.expected_bytes();
    let truncated = match (&copied.stopped, expected_bytes) {
        (Some(stopped), _) => Some(truncation(stopped, story)),
        (None, Some(expected)) if copied.bytes >= expected => None,
        (None, _) if most.is_some_and(|most| copied.bytes >= most) => Some(Truncation::SizeLimit),
        (None, Some(_)) => Some(Truncation::KilledWhileDumping),
        (None, None) if copied.extent.is_foreign() => {
            story.problem("the core does not begin like an ELF core; how long it should be is not known");
            None
        }
        (None, None) => {
            story.problem("the core ended before its headers did");
            Some(Truncation::KilledWhileDumping)
        }
    };
    Core { bytes: copied.bytes, expected_bytes, crc32: format!("{:08x}", copied.crc32), truncated }
}

fn truncation(stopped: &Stop<Truncation>, story: &mut Story) -> Truncation {
    match stopped {
        Stop::Enough(reason) => reason.clone(),
        Stop::Input(err) => {
            story.problem(format_args!("the core could not be read to its end: {err}"));
            Truncation::ReadError
        }
        Stop::Output(err) => {
            story.problem(format_args!("the core could not be written to its end: {err}"));
            match is_disk_full(err) {
                true => Truncation::DiskFull,
                false => Truncation::WriteError,
            }
        }
    }
}

/// Where a process ran, as the journal has it.
#[derive(Debug)]
pub struct Origin {
    /// See [`Attribution::place`].
    pub container: Option<String>,
    /// The uid of its pod.
    pub pod_uid: Option<String>,
}

impl Origin {
    /// What was found out since.
    pub fn learn(&mut self, found: &Attribution) {
        self.container = found.place().or(self.container.take());
        self.pod_uid = found.pod_uid().cloned().or(self.pod_uid.take());
    }
}

/// What its runtime says of a container, as it goes into the manifest, and what
/// of it does not.
pub fn attributed(container: &message::Container, sandbox: &PodSandbox) -> (Container, Option<String>) {
    let metadata = container.metadata.clone().unwrap_or_default();
    let pod = sandbox.metadata.clone().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    let image = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    let (labels, cut) = pod_labels(&sandbox.labels);
    let pod = Pod { name: pod.name, namespace: pod.namespace, uid: pod.uid, labels };
    let image_ref = container.image_ref.clone();
    let name = metadata.name;
    let attempt = metadata.attempt;
    let mut container = Container { id: container.id.clone(), name, attempt, image, image_ref, pod };
    bound(&mut container);
    (container, cut)
}

fn bound(container: &mut Container) {
    let Container { id, name, image, image_ref, pod, .. } = container;
    for text in [id, name, image, image_ref, &mut pod.name, &mut pod.namespace, &mut pod.uid] {
        text.truncate(text.floor_char_boundary(MAX_NAME));
    }
}

fn pod_labels(labels: &BTreeMap<String, String>) -> (BTreeMap<String, String>, Option<String>) {
    let its = labels.iter().filter(|(key, _)| !ADDED_LABELS.contains(&key.as_str()));
    let mut bytes = 0;
    let kept: BTreeMap<_, _> = its
        .clone()
        .take_while(|(key, value)| {
            bytes += key.len() + value.len() + LABEL_FRAME;
            bytes <= MAX_LABELS
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let all = its.count();
    let cut = format!("the manifest has {} of {all} labels", kept.len());
    let cut = (kept.len() < all).then_some(cut);
    (kept, cut)
}

/// The list may have nothing but the image's id where the status has what the
/// pod calls it, and the digest in its registry.
pub fn name_image(container: &mut Container, status: &ContainerStatus) {
    let image = status.image.as_ref().filter(|image| !image.image.is_empty());
    if let Some(image) = image.filter(|_| container.image.starts_with("sha256:")) {
        container.image.clone_from(&image.image);
    }
    if !status.image_ref.is_empty() {
        container.image_ref.clone_from(&status.image_ref);
    }
    bound(container);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::message::ImageSpec;

    #[test]
    fn labels_are_the_pods_own_and_fit_into_a_manifest() {
        let mut labels: BTreeMap<_, _> = ADDED_LABELS.map(|key| (key.to_owned(), "x".to_owned())).into();
        labels.insert("app".to_owned(), "web".to_owned());
        let (kept, cut) = pod_labels(&labels);
        assert_eq!((kept, cut), (BTreeMap::from([("app".to_owned(), "web".to_owned())]), None));
        labels.extend((0..100_000).map(|n| (format!("label-{n:06}"), String::new())));
        let (kept, cut) = pod_labels(&labels);
        assert!(serde_json::to_vec_pretty(&kept).unwrap().len() <= MAX_LABELS);
        assert_eq!(cut, Some(format!("the manifest has {} of 100001 labels", kept.len())));
    }

    #[test]
    fn an_image_has_the_name_the_pod_uses_and_the_digest_of_its_registry() {
        let image = |image: &str| Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
        let listed = message::Container {
            image: image("sha256:1234"),
            image_ref: "sha256:1234".to_owned(),
            ..message::Container::default()
        };
        let (mut container, _) = attributed(&listed, &PodSandbox::default());
        name_image(&mut container, &ContainerStatus::default());
        assert_eq!((&*container.image, &*container.image_ref), ("sha256:1234", "sha256:1234"));
        let image_ref = "reg.io/x@sha256:5678".to_owned();
        let status = ContainerStatus { image: image("reg.io/x:1"), image_ref, ..ContainerStatus::default() };
        name_image(&mut container, &status);
        assert_eq!((&*container.image, &*container.image_ref), ("reg.io/x:1", "reg.io/x@sha256:5678"));
        container.image = "what the pod says".to_owned();
        name_image(&mut container, &status);
        assert_eq!(container.image, "what the pod says");
    }

    mod hostile {
        use std::fs;

        use proptest::prelude::*;
        use prost::Message;

        use super::*;
        use crate::cri::message::{ContainerStatusResponse, ListContainersResponse, ListPodSandboxResponse};
        use crate::strange;

        /// What runtimes answered, changed, as far as it can be decoded.
        fn answers<M: Message + Default + std::fmt::Debug>(name: &'static str) -> impl Strategy<Value = M> {
            let sample = fs::read(format!("{}/tests/cri/{name}.bin", env!("CARGO_MANIFEST_DIR"))).unwrap();
            strange::changed(vec![sample]).prop_map(|bytes| M::decode(&*bytes).unwrap_or_default())
        }

        fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
            let text = || prop_oneof![strange::text(), "\u{1}{0,2000}"];
            let few = prop::collection::btree_map(text(), text(), 0..8);
            // Many that are small, or each of which takes six times as much.
            let many = (1usize..40_000, 0usize..200).prop_map(|(count, len)| {
                let count = count.min((1 << 20) / (len + 5));
                (0..count).map(|n| (format!("{n:x}"), "\u{1}".repeat(len))).collect()
            });
            prop_oneof![60 => few, 1 => many]
        }

        proptest! {
            #[test]
            fn whatever_a_runtime_says_the_manifest_and_the_journal_have_room_for_it(
                containers in answers::<ListContainersResponse>("ps_a_variants"),
                pods in answers::<ListPodSandboxResponse>("pods_variants"),
                status in answers::<ContainerStatusResponse>("inspect_crash"),
                labels in labels(),
            ) {
                let container = containers.containers.first().cloned().unwrap_or_default();
                let sandbox = PodSandbox { labels, ..pods.items.first().cloned().unwrap_or_default() };
                let (mut container, _) = attributed(&container, &sandbox);
                name_image(&mut container, &status.status.unwrap_or_default());
                let json = serde_json::to_vec_pretty(&container).unwrap();
                prop_assert!(json.len() < 900 << 10, "{}", json.len());
                prop_assert_eq!(&serde_json::from_slice::<Container>(&json).unwrap(), &container);
                let name = Attribution::Present(container).place().unwrap();
                prop_assert!(serde_json::to_vec(&name).unwrap().len() < 32 << 10);
            }
        }
    }
}
