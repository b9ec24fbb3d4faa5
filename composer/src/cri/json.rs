//! What `crictl pods|ps|inspect|inspectp|inspecti -o json` prints, so that
//! whoever knows crictl knows this.
//!
//! A message is printed by the rules of protobuf's JSON with defaults (crictl
//! 1.31 and later): names in camel case, what is empty or zero too, a message
//! that is unset mostly not at all, 64 bits as a string. What a runtime adds in
//! `info` is JSON of its own and passed through as it is.
//!
//! With `redact` the values of environment variables are blotted out, wherever
//! a runtime is known to show them; see [`Page`].

mod page;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use self::page::Page;
use super::message::{
    Container, ContainerState, ContainerStatus, ContainerStatusResponse, ImageStatusResponse,
    ListContainersResponse, ListPodSandboxResponse, PodSandbox, PodSandboxStatus, PodSandboxStatusResponse,
};
use crate::process::REDACTED;

/// The zero of Go's `time.Time`: crictl's word for "not yet".
const NOT_YET: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// What `crictl pods` prints: the newest first, in whichever order they came.
pub fn pods(answer: &ListPodSandboxResponse, redact: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Pods<'a> {
        items: Vec<&'a PodSandbox>,
    }
    let mut items: Vec<_> = answer.items.iter().collect();
    items.sort_by_key(|pod| Reverse(pod.created_at));
    print(&Pods { items }, redact)
}

/// What `crictl ps` prints: the newest first, in whichever order they came.
pub fn ps(answer: &ListContainersResponse, redact: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Containers<'a> {
        containers: Vec<&'a Container>,
    }
    let mut containers: Vec<_> = answer.containers.iter().collect();
    containers.sort_by_key(|container| Reverse(container.created_at));
    print(&Containers { containers }, redact)
}

/// What `crictl inspectp` prints.
pub fn inspectp(answer: &PodSandboxStatusResponse, redact: bool) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Inspected<'a> {
        #[serde(flatten)]
        status: &'a PodSandboxStatus,
        #[serde(flatten)]
        unset: Unset,
        created_at: Timestamp,
    }
    let status = answer.status.as_ref().map(|status| {
        let set = [status.metadata.is_some(), status.network.is_some(), status.linux.is_some()];
        let unset = unset(["metadata", "network", "linux"], set);
        Inspected { status, unset, created_at: time(status.created_at) }
    });
    print(&Told { status, info: &answer.info, redact }, redact)
}

/// What `crictl inspect` prints.
pub fn inspect(answer: &ContainerStatusResponse, redact: bool) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Inspected<'a> {
        #[serde(flatten)]
        status: &'a ContainerStatus,
        #[serde(flatten)]
        unset: Unset,
        created_at: Timestamp,
        started_at: Timestamp,
        finished_at: Timestamp,
    }
    let status = answer.status.as_ref().map(|status| {
        // A time that is yet to come is 0 in the message, which would be 1970.
        let (started, finished) = match ContainerState::try_from(status.state) {
            Ok(ContainerState::CONTAINER_CREATED) => (false, false),
            Ok(ContainerState::CONTAINER_EXITED) => (true, true),
            Ok(ContainerState::CONTAINER_UNKNOWN) => (true, status.finished_at > 0),
            Ok(ContainerState::CONTAINER_RUNNING) | Err(_) => (true, false),
        };
        let set = [
            status.metadata.is_some(),
            status.image.is_some(),
            status.resources.is_some(),
            status.user.is_some(),
        ];
        Inspected {
            status,
            unset: unset(["metadata", "image", "resources", "user"], set),
            created_at: time(status.created_at),
            started_at: if started { time(status.started_at) } else { NOT_YET },
            finished_at: if finished { time(status.finished_at) } else { NOT_YET },
        }
    });
    print(&Told { status, info: &answer.info, redact }, redact)
}

/// What `crictl inspecti` prints. Never redacted: an image's environment is in
/// the registry, for all who may pull it.
pub fn inspecti(answer: &ImageStatusResponse) -> Vec<u8> {
    print(&Told { status: answer.image.as_ref(), info: &answer.info, redact: false }, false)
}

/// Fields of a status that are null.
type Unset = BTreeMap<&'static str, ()>;

/// crictl goes through the fields of a status to print them, and finds nothing
/// for a message that is unset (`marshalMapInOrder` in its `util.go`). This is
/// so of the status itself, and of no message in it or in a list.
fn unset<const N: usize>(names: [&'static str; N], set: [bool; N]) -> Unset {
    names.into_iter().zip(set).filter(|(_, set)| !set).map(|(name, _)| (name, ())).collect()
}

/// A status, and beside it what the runtime adds.
struct Told<'a, S> {
    status: Option<S>,
    info: &'a BTreeMap<String, String>,
    redact: bool,
}

impl<S: Serialize> Serialize for Told<'_, S> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(status) = &self.status {
            map.serialize_entry("status", status)?;
        }
        // crictl would let an info of that name take the place of the status.
        for (key, value) in self.info.iter().filter(|(key, _)| *key != "status") {
            match serde_json::from_str::<&RawValue>(value) {
                Ok(json) => map.serialize_entry(key, json)?,
                // It may be JSON all the same, say with its end cut off; and where
                // the secrets are in that, nobody can tell.
                Err(_) if self.redact && value.contains('{') => map.serialize_entry(key, REDACTED)?,
                Err(_) => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

/// A time of the CRI, which are nanoseconds since 1970.
fn time(nanoseconds: i64) -> Timestamp {
    // jiff goes to the year 9999, and 64 bits to 2262.
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(NOT_YET)
}

fn print(value: &impl Serialize, redact: bool) -> Vec<u8> {
    let mut page = Page::new(redact);
    let mut serializer = serde_json::Serializer::with_formatter(&mut page, Protojson);
    value.serialize(&mut serializer).expect("a page takes everything, and every key is a string");
    page.finish()
}

/// 64 bits do not survive JavaScript, so protobuf has them as strings.
struct Protojson;

impl Formatter for Protojson {
    fn write_i64<W: Write + ?Sized>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        write!(writer, "\"{value}\"")
    }

    fn write_u64<W: Write + ?Sized>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        write!(writer, "\"{value}\"")
    }
}
