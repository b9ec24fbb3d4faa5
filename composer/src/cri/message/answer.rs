//! What a runtime answers.

use std::collections::BTreeMap;

use super::{ContainerState, ImageSpec, MountPropagation, NamespaceMode, PodSandboxState, Signal, messages};

messages! {
    /// Pods.
    message ListPodSandboxResponse {
        repeated PodSandbox items = 1;
    }
    /// A pod, as the list has it.
    message PodSandbox {
        string id = 1;
        PodSandboxMetadata metadata = 2;
        enum "PodSandboxState" state = 3;
        int64 created_at = 4;
        map labels = 5;
        map annotations = 6;
        string runtime_handler = 7;
    }
    /// Which pod it is, and at which attempt.
    message PodSandboxMetadata {
        string name = 1;
        string uid = 2;
        string namespace = 3;
        uint32 attempt = 4;
    }

    /// A pod. `info` has whatever the runtime wants to tell.
    message PodSandboxStatusResponse {
        PodSandboxStatus status = 1;
        map info = 2;
    }
    /// A pod in full.
    message PodSandboxStatus {
        string id = 1;
        PodSandboxMetadata metadata = 2;
        enum "PodSandboxState" state = 3;
        time created_at = 4;
        PodSandboxNetworkStatus network = 5;
        LinuxPodSandboxStatus linux = 6;
        map labels = 7;
        map annotations = 8;
        string runtime_handler = 9;
    }
    /// Its addresses.
    message PodSandboxNetworkStatus {
        string ip = 1;
        repeated PodIP additional_ips = 2;
    }
    /// One address.
    message PodIP {
        string ip = 1;
    }
    /// What of it there is on Linux only.
    message LinuxPodSandboxStatus {
        Namespace namespaces = 1;
    }
    /// Its namespaces.
    message Namespace {
        NamespaceOption options = 2;
    }
    /// With whom it shares them.
    message NamespaceOption {
        enum "NamespaceMode" network = 1;
        enum "NamespaceMode" pid = 2;
        enum "NamespaceMode" ipc = 3;
        string target_id = 4;
        UserNamespace userns_options = 5;
    }
    /// Its users.
    message UserNamespace {
        enum "NamespaceMode" mode = 1;
        repeated IDMapping uids = 2;
        repeated IDMapping gids = 3;
    }
    /// A range of ids, here and there.
    message IDMapping {
        uint32 host_id = 1;
        uint32 container_id = 2;
        uint32 length = 3;
    }

    /// Containers.
    message ListContainersResponse {
        repeated Container containers = 1;
    }
    /// A container, as the list has it.
    message Container {
        string id = 1;
        string pod_sandbox_id = 2;
        ContainerMetadata metadata = 3;
        ImageSpec image = 4;
        string image_ref = 5;
        enum "ContainerState" state = 6;
        int64 created_at = 7;
        map labels = 8;
        map annotations = 9;
        string image_id = 10;
    }
    /// Which container of the pod it is, and at which attempt.
    message ContainerMetadata {
        string name = 1;
        uint32 attempt = 2;
    }

    /// A container. `info` has whatever the runtime wants to tell.
    message ContainerStatusResponse {
        ContainerStatus status = 1;
        map info = 2;
    }
    /// A container in full.
    message ContainerStatus {
        string id = 1;
        ContainerMetadata metadata = 2;
        enum "ContainerState" state = 3;
        time created_at = 4;
        time started_at = 5;
        time finished_at = 6;
        int32 exit_code = 7;
        ImageSpec image = 8;
        string image_ref = 9;
        string reason = 10;
        string message = 11;
        map labels = 12;
        map annotations = 13;
        repeated Mount mounts = 14;
        string log_path = 15;
        ContainerResources resources = 16;
        string image_id = 17;
        ContainerUser user = 18;
        enum "Signal" stop_signal = 19;
    }
    /// What of the host it sees, and where.
    message Mount {
        string container_path = 1;
        string host_path = 2;
        bool readonly = 3;
        bool selinux_relabel = 4;
        enum "MountPropagation" propagation = 5;
        repeated IDMapping uid_mappings = 6;
        repeated IDMapping gid_mappings = 7;
        bool recursive_read_only = 8;
        ImageSpec image = 9;
        string image_sub_path = 10;
    }
    /// What it may use.
    message ContainerResources {
        LinuxContainerResources linux = 1;
    }
    /// Its cgroup.
    message LinuxContainerResources {
        int64 cpu_period = 1;
        int64 cpu_quota = 2;
        int64 cpu_shares = 3;
        int64 memory_limit_in_bytes = 4;
        int64 oom_score_adj = 5;
        string cpuset_cpus = 6;
        string cpuset_mems = 7;
        repeated HugepageLimit hugepage_limits = 8;
        map unified = 9;
        int64 memory_swap_limit_in_bytes = 10;
    }
    /// What it may use of huge pages of one size.
    message HugepageLimit {
        string page_size = 1;
        uint64 limit = 2;
    }
    /// Whom it began as.
    message ContainerUser {
        LinuxContainerUser linux = 1;
    }
    /// Whom it began as, in numbers.
    message LinuxContainerUser {
        int64 uid = 1;
        int64 gid = 2;
        repeated int64 supplemental_groups = 3;
    }

    /// An image. `info` has whatever the runtime wants to tell.
    message ImageStatusResponse {
        Image image = 1;
        map info = 2;
    }
    /// An image in full.
    message Image {
        string id = 1;
        repeated string repo_tags = 2;
        repeated string repo_digests = 3;
        uint64 size = 4;
        Int64Value uid = 5;
        string username = 6;
        ImageSpec spec = 7;
        bool pinned = 8;
    }
    /// A number that may be unset. Not `google.protobuf.Int64Value`, which would
    /// be printed as the number itself.
    message Int64Value {
        int64 value = 1;
    }
}
