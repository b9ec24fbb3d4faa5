//! A pod, described to the runtime as a kubelet does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::Runtime;
use super::container::{Container, running_pid};
use super::cri::{
    self, Capability, ContainerConfig, ContainerMetadata, CreateContainerRequest, Id, ImageSpec, Int64Value,
    KeyValue, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxStatusResponse, RunPodSandboxRequest, SecurityProfile, StatusRequest,
};
use super::image::CRASHER;
use super::spec::{ContainerSpec, Mount, PodSpec, Qos};

/// What a kubelet hides of `/proc` and `/sys`.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What it does not let be written to.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A pod that runs, or has run.
pub struct Pod {
    runtime: Arc<Runtime>,
    id: String,
    config: PodSandboxConfig,
    qos: Qos,
}

impl Pod {
    pub(super) fn run(runtime: Arc<Runtime>, spec: &PodSpec<'_>) -> Pod {
        let uid = spec.uid.map_or_else(new_uid, str::to_owned);
        let log_directory = runtime.dir.join("pods").join(format!("{}_{}_{uid}", spec.namespace, spec.name));
        fs::create_dir_all(&log_directory).expect("the directory of the pod's logs");
        let labels = [
            ("io.kubernetes.pod.name", spec.name),
            ("io.kubernetes.pod.namespace", spec.namespace),
            ("io.kubernetes.pod.uid", &uid),
        ];
        let annotations = [
            ("kubernetes.io/config.seen", "2026-11-22T19:31:01.423384316Z"),
            ("kubernetes.io/config.source", "api"),
        ];
        let cgroup_parent = spec.qos.cgroup(&uid);
        runtime.remember_cgroup(&cgroup_parent);
        let linux = LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                seccomp: Some(SecurityProfile::UNCONFINED),
            }),
        };
        let config = PodSandboxConfig {
            hostname: if spec.host_network { "" } else { spec.hostname.unwrap_or(spec.name) }.to_owned(),
            log_directory: log_directory.display().to_string(),
            labels: map(&labels, spec.labels),
            annotations: map(&annotations, spec.annotations),
            linux: Some(linux),
            metadata: Some(PodSandboxMetadata {
                name: spec.name.to_owned(),
                uid,
                namespace: spec.namespace.to_owned(),
                attempt: spec.attempt,
            }),
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        let Id { id } = runtime.client.call("RuntimeService/RunPodSandbox", &request);
        Pod { runtime, id, config, qos: spec.qos }
    }

    /// Creates a container in it and starts it.
    pub fn run_container(&self, spec: &ContainerSpec<'_>) -> Container {
        let log_dir = Path::new(&self.config.log_directory).join(spec.name);
        fs::create_dir_all(&log_dir).expect("the directory of the container's logs");
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(self.container_config(spec)),
            sandbox_config: Some(self.config.clone()),
        };
        let client = &self.runtime.client;
        let id: Id = client.call("RuntimeService/CreateContainer", &request);
        client.call::<()>("RuntimeService/StartContainer", &id);
        let log_path = log_dir.join(format!("{}.log", spec.attempt));
        Container::new(Arc::clone(&self.runtime), id.id, log_path)
    }

    fn container_config(&self, spec: &ContainerSpec<'_>) -> ContainerConfig {
        let (attempt, metadata) = (spec.attempt.to_string(), self.metadata());
        let labels = [
            ("io.kubernetes.container.name", spec.name),
            ("io.kubernetes.pod.name", &metadata.name),
            ("io.kubernetes.pod.namespace", &metadata.namespace),
            ("io.kubernetes.pod.uid", &metadata.uid),
        ];
        let annotations = [
            ("io.kubernetes.container.hash", "5e752b6"),
            ("io.kubernetes.container.restartCount", &attempt),
            ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
            ("io.kubernetes.container.terminationMessagePolicy", "File"),
            ("io.kubernetes.pod.terminationGracePeriod", "30"),
        ];
        let sandbox = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let security_context = LinuxContainerSecurityContext {
            namespace_options: sandbox.and_then(|sandbox| sandbox.namespace_options.clone()),
            run_as_user: Some(Int64Value { value: spec.user.unwrap_or(0).into() }),
            run_as_group: spec.security.group.map(|group| Int64Value { value: group.into() }),
            supplemental_groups: spec.security.groups.iter().map(|&group| group.into()).collect(),
            capabilities: Some(Capability { drop_capabilities: owned(spec.security.drops) }),
            readonly_rootfs: spec.security.read_only_root,
            no_new_privs: spec.security.no_new_privileges,
            masked_paths: MASKED.map(str::to_owned).into(),
            readonly_paths: READ_ONLY.map(str::to_owned).into(),
            seccomp: Some(match spec.security.seccomp {
                true => SecurityProfile::RUNTIME_DEFAULT,
                false => SecurityProfile::UNCONFINED,
            }),
        };
        let mount = |mount: &Mount| cri::Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.display().to_string(),
            readonly: mount.read_only,
        };
        let resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_shares: 2,
            memory_limit_in_bytes: spec
                .memory
                .map_or(0, |bytes| bytes.try_into().expect("a limit of memory")),
            oom_score_adj: self.qos.oom_score_adj(),
        };
        let env = spec.env.iter();
        let image = spec.image.unwrap_or(CRASHER);
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: spec.name.to_owned(), attempt: spec.attempt }),
            image: Some(ImageSpec {
                image: self.runtime.image_id(image).expect("the image was imported"),
                user_specified_image: image.to_owned(),
            }),
            command: owned(spec.command),
            args: owned(spec.args),
            mounts: spec.mounts.iter().map(mount).collect(),
            envs: env.map(|&(key, value)| KeyValue { key: key.into(), value: value.into() }).collect(),
            labels: map(&labels, spec.labels),
            annotations: map(&annotations, spec.annotations),
            log_path: format!("{}/{}.log", spec.name, spec.attempt),
            tty: spec.tty,
            linux: Some(LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(security_context),
            }),
        }
    }

    /// The id of its sandbox.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        &self.metadata().uid
    }

    /// Its cgroup, from the root of each hierarchy.
    pub fn cgroup(&self) -> &str {
        self.config.linux.as_ref().map_or("", |linux| &linux.cgroup_parent)
    }

    /// The pid on the host of the process that keeps the pod's namespaces.
    pub fn pid(&self) -> u32 {
        let request = StatusRequest { id: self.id.clone(), verbose: true };
        let status: PodSandboxStatusResponse =
            self.runtime.client.call("RuntimeService/PodSandboxStatus", &request);
        running_pid(&status.info).expect("the pod runs")
    }

    /// Ends all that runs in it.
    pub fn stop(&self) {
        self.runtime.client.call::<()>("RuntimeService/StopPodSandbox", &self.to_id());
    }

    /// Ends it and makes the runtime forget it.
    pub fn remove(self) {
        self.stop();
        self.runtime.client.call::<()>("RuntimeService/RemovePodSandbox", &self.to_id());
    }

    fn to_id(&self) -> Id {
        Id { id: self.id.clone() }
    }

    fn metadata(&self) -> &PodSandboxMetadata {
        self.config.metadata.as_ref().expect("a pod has metadata")
    }
}

fn namespaces(spec: &PodSpec<'_>) -> NamespaceOption {
    let network = if spec.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (true, _) => NamespaceMode::Node,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Container,
    };
    NamespaceOption { network: network.into(), pid: pid.into(), ipc: NamespaceMode::Pod.into() }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn map(ours: &[(&str, &str)], more: &[(&str, &str)]) -> BTreeMap<String, String> {
    ours.iter().chain(more).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn new_uid() -> String {
    let uid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel makes uuids");
    uid.trim_end().to_owned()
}
