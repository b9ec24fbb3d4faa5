//! `manifest.json`: what is known about a dump, the last entry of its zip.
//!
//! Fields are only ever added; a reader of version 1 reads every later one.
//! `tests/golden/` holds one manifest per version for ever.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spool::{DumpId, Hint};
use crate::text::Text;

/// The version this code writes. It grows when the meaning of a field changes,
/// which none has yet.
pub const VERSION: u32 = 1;
/// The manifest's name within the folder of its dump.
pub const FILE_NAME: &str = "manifest.json";
/// The core's name within the folder of its dump.
pub const CORE: &str = "core";

/// The whole manifest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Manifest {
    /// See [`VERSION`].
    pub version: u32,
    /// The dump's id, which is also the folder in the zip and the file's name.
    pub id: DumpId,
    /// The host name of the node.
    pub node: Text,
    /// When the last byte of the core had been read.
    pub captured_at: Timestamp,
    /// What the kernel and `/proc` say about the process.
    pub crash: Crash,
    /// What the dump holds of its memory.
    pub core: Core,
    /// Whether what is said of the process is proven to be said of the one
    /// that crashed, and of no other that got its pid. If not, `problems` has
    /// the reason, `container` is missing, and so is what `/proc` says.
    #[serde(default = "proven")]
    pub trusted: bool,
    /// The container it ran in.
    pub container: Attribution,
    /// How long the kernel had to wait for us, and the crashed process with
    /// it: from the composer's start to the closing of its pipe.
    pub held_ms: u64,
    /// What went wrong on the way, each a sentence for people.
    pub problems: Vec<String>,
}

impl Manifest {
    /// For people who read `ls`: the pod and container, or the command of a
    /// process that is in none we know, and the signal.
    pub fn hint(&self) -> Hint {
        let signal = self.crash.signal_name.as_deref().unwrap_or_default().as_bytes();
        let comm = self.crash.comm.as_ref().map_or(&b""[..], Text::as_bytes);
        match self.container.present() {
            Some(c) => {
                Hint::new([c.pod.namespace.as_bytes(), c.pod.name.as_bytes(), c.name.as_bytes(), signal])
            }
            None => Hint::new([comm, signal]),
        }
    }
}

/// The process and how it died. A field is null if nobody could say;
/// `problems` has the reason.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Crash {
    /// The process, in the initial pid namespace.
    pub pid: Option<u32>,
    /// The thread that crashed, in the initial pid namespace.
    pub tid: Option<u32>,
    /// Its real user id, in the initial user namespace.
    pub uid: Option<u32>,
    /// Its real group id, in the initial user namespace.
    pub gid: Option<u32>,
    /// The signal's number.
    pub signal: Option<i32>,
    /// The signal's name, `SIGSEGV`.
    pub signal_name: Option<String>,
    /// When it died, to the second.
    pub time: Option<Timestamp>,
    /// The command name of the thread that crashed, at most 15 bytes.
    pub comm: Option<Text>,
    /// Its executable, as a path in its own mount namespace.
    pub exe: Option<Text>,
    /// Its arguments; the first of them if there are very many, and `problems`
    /// says so.
    pub cmdline: Option<Vec<Text>>,
    /// The host name it saw, with a `!` for each `/`. Names no pod:
    /// `spec.hostname` may be anything.
    pub hostname: Option<Text>,
    /// As in PR_GET_DUMPABLE.
    pub dumpable: Option<u32>,
    /// Its soft limit on core files, in bytes.
    pub core_limit: Option<u64>,
}

/// The core, and how much of it there is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Core {
    /// Bytes in the dump.
    pub bytes: u64,
    /// Bytes the ELF program headers promise; null if it is no ELF core, or
    /// ended before its headers did.
    pub expected_bytes: Option<u64>,
    /// CRC-32 of those bytes, as in the zip: eight hexadecimal digits.
    pub crc32: String,
    /// Null if the core is whole, else why it is not.
    pub truncated: Option<Truncation>,
}

/// Why a core ends before its end.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// `max_core_bytes`.
    SizeLimit,
    /// No space left on the disk of the spool, or none but `keep_free`.
    DiskFull,
    /// `spool_max_bytes`.
    SpoolFull,
    /// The pipe ended early. Mostly a SIGKILL came while the process was dumped,
    /// or it was frozen (`dump_interrupted` in `fs/coredump.c`).
    KilledWhileDumping,
    /// The composer ended before the core did.
    ComposerDied,
    /// The pipe could not be read.
    ReadError,
    /// The disk of the spool could not be written.
    WriteError,
    /// A reason of a later version.
    #[serde(untagged)]
    Other(String),
}

impl Truncation {
    /// All that this version knows.
    pub const KNOWN: &[Truncation] = &[
        Truncation::SizeLimit,
        Truncation::DiskFull,
        Truncation::SpoolFull,
        Truncation::KilledWhileDumping,
        Truncation::ReadError,
        Truncation::WriteError,
        Truncation::ComposerDied,
    ];

    /// The word in the manifest.
    pub fn as_str(&self) -> &str {
        match self {
            Truncation::SizeLimit => "size_limit",
            Truncation::DiskFull => "disk_full",
            Truncation::SpoolFull => "spool_full",
            Truncation::KilledWhileDumping => "killed_while_dumping",
            Truncation::ComposerDied => "composer_died",
            Truncation::ReadError => "read_error",
            Truncation::WriteError => "write_error",
            Truncation::Other(reason) => reason,
        }
    }
}

/// What a manifest means that does not say whether it is trusted: before there
/// was the field, what could not be proven was left out.
fn proven() -> bool {
    true
}

/// The container a process ran in, or why it is not known. There is no third
/// way, in later versions either.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// What its runtime says.
    Present(Container),
    /// It says nothing.
    Missing {
        /// Why not, a sentence for people.
        reason: String,
        /// The container's id, if the process's cgroup has it.
        #[serde(default)]
        id: Option<String>,
        /// The pod's uid, if the process's cgroup has it.
        #[serde(default)]
        pod_uid: Option<String>,
    },
}

impl Attribution {
    /// The container, if it is known.
    pub fn present(&self) -> Option<&Container> {
        match self {
            Attribution::Present(container) => Some(container),
            Attribution::Missing { .. } => None,
        }
    }

    /// The container as the journal has it: `namespace/pod/container`, or its id.
    pub fn place(&self) -> Option<String> {
        match self {
            Attribution::Present(c) => Some(format!("{}/{}/{}", c.pod.namespace, c.pod.name, c.name)),
            Attribution::Missing { id, .. } => id.clone(),
        }
    }

    /// The uid of its pod.
    pub fn pod_uid(&self) -> Option<&String> {
        match self {
            Attribution::Present(container) => Some(&container.pod.uid),
            Attribution::Missing { pod_uid, .. } => pod_uid.as_ref(),
        }
    }
}

/// The container as its runtime knows it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Container {
    /// The runtime's id, 64 hexadecimal digits.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// How often it had been restarted.
    pub attempt: u32,
    /// The image, as the pod names it.
    pub image: String,
    /// The image, as the runtime resolved it.
    pub image_ref: String,
    /// The pod it is part of.
    pub pod: Pod,
}

/// The pod as its runtime knows it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod hostile {
    use proptest::prelude::*;

    use super::*;
    use crate::spool::Entry;
    use crate::strange;

    const SAMPLES: [&str; 2] = [
        include_str!("../tests/golden/manifest-1.json"),
        include_str!("../tests/golden/manifest-1-trusted.json"),
    ];

    proptest! {
        #[test]
        fn whatever_can_be_read_is_written_as_it_was_and_names_a_file(
            json in strange::changed(SAMPLES.map(|sample| sample.as_bytes().to_vec()).into())
        ) {
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&json) {
                let again = serde_json::to_vec(&manifest).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<Manifest>(&again).unwrap(), &manifest);
                let ready = ready(&manifest);
                prop_assert!(ready.len() < 255 && Entry::parse(&ready).is_some(), "{ready}");
            }
        }

        #[test]
        fn whatever_its_container_is_called_the_dump_has_a_name(
            names in prop::array::uniform4(strange::text()), comm in strange::bytes()
        ) {
            let mut manifest: Manifest = serde_json::from_str(SAMPLES[0]).unwrap();
            let Attribution::Present(container) = &mut manifest.container else { unreachable!("it has one") };
            let [namespace, pod, name, signal] = names;
            (container.pod.namespace, container.pod.name, container.name) = (namespace, pod, name);
            (manifest.crash.signal_name, manifest.crash.comm) = (Some(signal), Some(comm[..].into()));
            let ready = ready(&manifest);
            prop_assert!(ready.len() < 255 && Entry::parse(&ready).is_some(), "{ready}");
            prop_assert!(!serde_json::to_string(&manifest).unwrap().contains('\n'));
        }
    }

    /// The name that its dump gets.
    fn ready(manifest: &Manifest) -> String {
        Entry::part(manifest.id.clone()).ready(manifest.hint()).to_string()
    }
}
