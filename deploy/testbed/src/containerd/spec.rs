//! What a test says of the pods and containers it wants.

use std::path::PathBuf;

/// How much of its node a pod was promised, which decides where its cgroup is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Qos {
    /// All it asked for: `/kubepods/pod<uid>`.
    Guaranteed,
    /// Some of it: `/kubepods/burstable/pod<uid>`.
    Burstable,
    /// Nothing: `/kubepods/besteffort/pod<uid>`.
    BestEffort,
}

impl Qos {
    pub(super) fn cgroup(self, uid: &str) -> String {
        match self {
            Qos::Guaranteed => format!("/kubepods/pod{uid}"),
            Qos::Burstable => format!("/kubepods/burstable/pod{uid}"),
            Qos::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
        }
    }

    pub(super) fn oom_score_adj(self) -> i64 {
        match self {
            Qos::Guaranteed => -997,
            Qos::Burstable => 999,
            Qos::BestEffort => 1000,
        }
    }
}

/// A pod as a test wants it. By default it is `default/web-0` with nothing
/// special about it.
#[derive(Clone, Copy, Debug)]
pub struct PodSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid; a new one if there is none.
    pub uid: Option<&'a str>,
    /// How often its sandbox was made anew.
    pub attempt: u32,
    /// Its hostname, if that is not its name. A pod with the host's network has the host's.
    pub hostname: Option<&'a str>,
    /// Labels besides those that a kubelet adds.
    pub labels: &'a [(&'a str, &'a str)],
    /// Annotations besides those that a kubelet adds.
    pub annotations: &'a [(&'a str, &'a str)],
    /// Where its cgroup is.
    pub qos: Qos,
    /// `hostNetwork`.
    pub host_network: bool,
    /// `hostPID`.
    pub host_pid: bool,
    /// `shareProcessNamespace`: process 1 is the pod's, not the container's.
    pub share_process_namespace: bool,
}

impl Default for PodSpec<'_> {
    fn default() -> Self {
        PodSpec {
            name: "web-0",
            namespace: "default",
            uid: None,
            attempt: 0,
            hostname: None,
            labels: &[],
            annotations: &[],
            qos: Qos::BestEffort,
            host_network: false,
            host_pid: false,
            share_process_namespace: false,
        }
    }
}

/// A file or directory of the host in a container.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where the host has it.
    pub host_path: PathBuf,
    /// Where the container has it.
    pub container_path: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// What a container may do. By default what a pod gets that says nothing of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Security<'a> {
    /// Its group; root's if there is none.
    pub group: Option<u32>,
    /// Further groups of it.
    pub groups: &'a [u32],
    /// The capabilities it does not have; `ALL` is all of them.
    pub drops: &'a [&'a str],
    /// `readOnlyRootFilesystem`.
    pub read_only_root: bool,
    /// The opposite of `allowPrivilegeEscalation`.
    pub no_new_privileges: bool,
    /// Whether it has the runtime's seccomp profile.
    pub seccomp: bool,
}

/// A container as a test wants it: a `crasher`, and by default one that just crashes.
#[derive(Clone, Copy, Debug)]
pub struct ContainerSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// How often it was restarted.
    pub attempt: u32,
    /// The image; the crasher's if there is none.
    pub image: Option<&'a str>,
    /// What it runs instead of what the image says.
    pub command: &'a [&'a str],
    /// The arguments of that.
    pub args: &'a [&'a str],
    /// Its environment.
    pub env: &'a [(&'a str, &'a str)],
    /// Whom it runs as; root if nobody.
    pub user: Option<u32>,
    /// What else it may do, and may not.
    pub security: Security<'a>,
    /// How many bytes of memory it may have.
    pub memory: Option<u64>,
    /// What of the host it has.
    pub mounts: &'a [Mount],
    /// Labels besides those that a kubelet adds.
    pub labels: &'a [(&'a str, &'a str)],
    /// Annotations besides those that a kubelet adds.
    pub annotations: &'a [(&'a str, &'a str)],
    /// A terminal for it, in which case all it says goes to stdout.
    pub tty: bool,
}

impl Default for ContainerSpec<'_> {
    fn default() -> Self {
        ContainerSpec {
            name: "app",
            attempt: 0,
            image: None,
            command: &[],
            args: &[],
            env: &[],
            user: None,
            security: Security::default(),
            memory: None,
            mounts: &[],
            labels: &[],
            annotations: &[],
            tty: false,
        }
    }
}
