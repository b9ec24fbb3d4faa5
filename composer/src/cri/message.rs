//! The messages of the CRI: what we ask, and in `answer` what we are told.
//!
//! A subset of `runtime.v1` as of cri-api 0.36.4, whose `api.proto` says what
//! each field means and when a runtime sets it. Field numbers are what runtime
//! and client agree on, names are what crictl prints, and there are only ever
//! more of both. What is not here is skipped when it is read: all of Windows,
//! and of the status of a pod what crictl does not print.
//!
//! They are written down rather than generated: generating them takes `protoc`
//! wherever this is built, and the crates that have them ready made are years
//! behind the runtimes. `tests/cri/` holds them against the original.

#![expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "the names are the interface")]

mod answer;

use std::collections::BTreeMap;

use serde::Serializer;

pub use answer::*;

/// Turns messages, as `api.proto` writes them, into structs. The attributes
/// would take three times the lines and hide the numbers, on which all hangs.
///
/// What differs from `api.proto`: a `map` is one of strings, sorted, so that no
/// dump depends on chance; a field of an enum says so, and quotes it; a `time`
/// is an `int64` that is not printed as it is, see [`json`](super::json); and
/// names are in snake case throughout, which `uidMappings` is not and JSON does
/// not show.
macro_rules! messages {
    ($($(#[$doc:meta])* message $name:ident { $($fields:tt)* })*) => {
        $(messages! { @ [$(#[$doc])*] $name [] $($fields)* })*
    };
    (@ [$($doc:tt)*] $name:ident [$($struct:tt)*]) => {
        $($doc)*
        #[derive(Clone, PartialEq, prost::Message, serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name { $($struct)* }
    };
    (@ $doc:tt $name:ident [$($struct:tt)*] [$($field:tt)*] $($rest:tt)*) => {
        messages! { @ $doc $name [$($struct)* $($field)*,] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt string $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct [#[prost(string, tag = $tag)] pub $field: String] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt bool $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct [#[prost(bool, tag = $tag)] pub $field: bool] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt int32 $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct [#[prost(int32, tag = $tag)] pub $field: i32] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt uint32 $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct [#[prost(uint32, tag = $tag)] pub $field: u32] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt int64 $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct [#[prost(int64, tag = $tag)] pub $field: i64] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt uint64 $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct [#[prost(uint64, tag = $tag)] pub $field: u64] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt time $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(int64, tag = $tag)] #[serde(skip)] pub $field: i64] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt map $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(btree_map = "string, string", tag = $tag)] pub $field: BTreeMap<String, String>] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt enum $type:tt $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(enumeration = $type, tag = $tag)] #[serde(with = $type)] pub $field: i32] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt repeated string $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(string, repeated, tag = $tag)] pub $field: Vec<String>] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt repeated int64 $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(int64, repeated, tag = $tag)] pub $field: Vec<i64>] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt repeated $type:ident $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(message, repeated, tag = $tag)] pub $field: Vec<$type>] $($rest)* }
    };
    (@ $doc:tt $name:ident $struct:tt $type:ident $field:ident = $tag:tt; $($rest:tt)*) => {
        messages! { @ $doc $name $struct
            [#[prost(message, optional, tag = $tag)]
             #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>] $($rest)* }
    };
}
pub(super) use messages;

/// Turns enums, as `api.proto` writes them, into enums.
macro_rules! enums {
    ($($(#[$doc:meta])* enum $name:ident { $($variant:ident = $number:literal;)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
        #[repr(i32)]
        pub enum $name { $($variant = $number,)* }

        impl $name {
            /// A field goes by the name of its number, and one that is newer
            /// than we are by the number.
            fn serialize<S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
                match $name::try_from(*number) {
                    $(Ok($name::$variant) => serializer.serialize_str(stringify!($variant)),)*
                    Err(_) => serializer.serialize_i32(*number),
                }
            }
        }
    )*};
}

messages! {
    /// Asks for a [`ListPodSandboxResponse`].
    message ListPodSandboxRequest {
        PodSandboxFilter filter = 1;
    }
    /// Which pods: those of which all is true that is set.
    message PodSandboxFilter {
        string id = 1;
        PodSandboxStateValue state = 2;
        map label_selector = 3;
    }
    /// A state that may be unset.
    message PodSandboxStateValue {
        enum "PodSandboxState" state = 1;
    }
    /// Asks for a [`ListContainersResponse`].
    message ListContainersRequest {
        ContainerFilter filter = 1;
    }
    /// Which containers: those of which all is true that is set.
    message ContainerFilter {
        string id = 1;
        ContainerStateValue state = 2;
        string pod_sandbox_id = 3;
        map label_selector = 4;
    }
    /// A state that may be unset.
    message ContainerStateValue {
        enum "ContainerState" state = 1;
    }
    /// Asks for a [`PodSandboxStatusResponse`].
    message PodSandboxStatusRequest {
        string pod_sandbox_id = 1;
        bool verbose = 2;
    }
    /// Asks for a [`ContainerStatusResponse`].
    message ContainerStatusRequest {
        string container_id = 1;
        bool verbose = 2;
    }
    /// Asks for an [`ImageStatusResponse`].
    message ImageStatusRequest {
        ImageSpec image = 1;
        bool verbose = 2;
    }
    /// An image, as a question or an answer names it.
    message ImageSpec {
        string image = 1;
        map annotations = 2;
        string user_specified_image = 18;
        string runtime_handler = 19;
        string image_ref = 20;
    }
}

enums! {
    /// What a pod is doing.
    enum PodSandboxState {
        SANDBOX_READY = 0;
        SANDBOX_NOTREADY = 1;
    }
    /// What a container is doing.
    enum ContainerState {
        CONTAINER_CREATED = 0;
        CONTAINER_RUNNING = 1;
        CONTAINER_EXITED = 2;
        CONTAINER_UNKNOWN = 3;
    }
    /// Which mounts the container and the host see of each other.
    enum MountPropagation {
        PROPAGATION_PRIVATE = 0;
        PROPAGATION_HOST_TO_CONTAINER = 1;
        PROPAGATION_BIDIRECTIONAL = 2;
    }
    /// With whom a namespace is shared.
    enum NamespaceMode {
        POD = 0;
        CONTAINER = 1;
        NODE = 2;
        TARGET = 3;
    }
    /// What stops a container. Not the kernel's numbers, nor in its order.
    enum Signal {
        RUNTIME_DEFAULT = 0;
        SIGABRT = 1; SIGALRM = 2; SIGBUS = 3; SIGCHLD = 4; SIGCLD = 5; SIGCONT = 6; SIGFPE = 7; SIGHUP = 8;
        SIGILL = 9; SIGINT = 10; SIGIO = 11; SIGIOT = 12; SIGKILL = 13; SIGPIPE = 14; SIGPOLL = 15;
        SIGPROF = 16; SIGPWR = 17; SIGQUIT = 18; SIGSEGV = 19; SIGSTKFLT = 20; SIGSTOP = 21; SIGSYS = 22;
        SIGTERM = 23; SIGTRAP = 24; SIGTSTP = 25; SIGTTIN = 26; SIGTTOU = 27; SIGURG = 28; SIGUSR1 = 29;
        SIGUSR2 = 30; SIGVTALRM = 31; SIGWINCH = 32; SIGXCPU = 33; SIGXFSZ = 34; SIGRTMIN = 35;
        SIGRTMINPLUS1 = 36; SIGRTMINPLUS2 = 37; SIGRTMINPLUS3 = 38; SIGRTMINPLUS4 = 39; SIGRTMINPLUS5 = 40;
        SIGRTMINPLUS6 = 41; SIGRTMINPLUS7 = 42; SIGRTMINPLUS8 = 43; SIGRTMINPLUS9 = 44; SIGRTMINPLUS10 = 45;
        SIGRTMINPLUS11 = 46; SIGRTMINPLUS12 = 47; SIGRTMINPLUS13 = 48; SIGRTMINPLUS14 = 49;
        SIGRTMINPLUS15 = 50; SIGRTMAXMINUS14 = 51; SIGRTMAXMINUS13 = 52; SIGRTMAXMINUS12 = 53;
        SIGRTMAXMINUS11 = 54; SIGRTMAXMINUS10 = 55; SIGRTMAXMINUS9 = 56; SIGRTMAXMINUS8 = 57;
        SIGRTMAXMINUS7 = 58; SIGRTMAXMINUS6 = 59; SIGRTMAXMINUS5 = 60; SIGRTMAXMINUS4 = 61;
        SIGRTMAXMINUS3 = 62; SIGRTMAXMINUS2 = 63; SIGRTMAXMINUS1 = 64; SIGRTMAX = 65;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::value::Serializer as ToValue;

    use super::*;

    #[test]
    fn enums_go_by_their_names_and_strangers_by_their_number() {
        let sinks = include_str!("../../tests/cri/sinks.json");
        let mut sinks: serde_json::Value = serde_json::from_str(sinks).unwrap();
        let enums: BTreeMap<String, BTreeMap<String, i32>> =
            serde_json::from_value(sinks["enums"].take()).unwrap();
        let mut seen = 0;
        for (name, variants) in enums {
            let serialize = match name.as_str() {
                "PodSandboxState" => PodSandboxState::serialize,
                "ContainerState" => ContainerState::serialize,
                "MountPropagation" => MountPropagation::serialize,
                "NamespaceMode" => NamespaceMode::serialize,
                "Signal" => Signal::serialize,
                name => panic!("{name} is not ours"),
            };
            for (variant, number) in &variants {
                assert_eq!(serialize(number, ToValue).unwrap(), **variant);
                seen += 1;
            }
            for number in [variants.len() as i32, -1, i32::MAX] {
                assert_eq!(serialize(&number, ToValue).unwrap(), number);
            }
        }
        assert_eq!(seen, 2 + 4 + 3 + 4 + 66);
    }
}
