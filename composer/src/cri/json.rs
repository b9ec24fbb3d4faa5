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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use prost::Message;
    use serde_json::{Value, json};

    use super::super::message::*;
    use super::*;

    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(format!("{}/tests/cri/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn read<M: Message + Default>(name: &str) -> M {
        M::decode(&*fixture(&format!("{name}.bin"))).unwrap()
    }

    fn parse(json: &[u8]) -> Value {
        assert!(json.ends_with(b"}\n"));
        serde_json::from_slice(json).unwrap()
    }

    /// The first line that differs says more than two pages that do.
    fn same(left: &Value, right: &Value, name: &str) {
        let [left, right] = [left, right].map(|value| serde_json::to_string_pretty(value).unwrap());
        for (left, right) in left.lines().zip(right.lines()) {
            assert_eq!(left, right, "{name}");
        }
        assert_eq!(left.len(), right.len(), "{name}");
    }

    fn is_what_crictl_printed(name: &str, ours: &[u8]) {
        same(&parse(ours), &parse(&fixture(&format!("{name}.json"))), name);
    }

    #[test]
    fn what_crictl_printed_is_what_we_print() {
        for name in ["pods", "pods_variants"] {
            is_what_crictl_printed(name, &pods(&read(name), false));
        }
        for name in ["ps_a", "ps_a_pod_multi", "ps_a_variants"] {
            is_what_crictl_printed(name, &ps(&read(name), false));
        }
        for name in [
            "inspect_crash",
            "inspect_crash-spec_limits_env",
            "inspect_multi_init",
            "inspect_multi_steady_running",
        ] {
            is_what_crictl_printed(name, &inspect(&read(name), false));
        }
        for name in ["inspectp_crash-spec", "inspectp_crash-hostnet"] {
            is_what_crictl_printed(name, &inspectp(&read(name), false));
        }
        is_what_crictl_printed("inspecti_crasher", &inspecti(&read("inspecti_crasher")));
    }

    #[test]
    fn what_containerd_answered_is_printed_as_crictl_would() {
        // One that has all the fields, and one that is too old for some.
        for version in ["1.6.20", "2.1.9"] {
            let name = |what: &str| format!("{what}_containerd-{version}");
            is_what_crictl_printed(&name("pods"), &pods(&read(&name("pods")), false));
            is_what_crictl_printed(&name("ps"), &ps(&read(&name("ps")), false));
            is_what_crictl_printed(&name("inspect"), &inspect(&read(&name("inspect")), false));
            is_what_crictl_printed(&name("inspectp"), &inspectp(&read(&name("inspectp")), false));
            is_what_crictl_printed(&name("inspecti"), &inspecti(&read(&name("inspecti"))));
        }
    }

    #[test]
    fn it_is_laid_out_as_crictl_does() {
        let theirs = String::from_utf8(fixture("pods.json")).unwrap();
        // Go's protobuf has two blanks there, on purpose and at times; see its internal/detrand.
        let theirs = theirs.replace("\":  ", "\": ");
        let ours = String::from_utf8(pods(&read("pods"), false)).unwrap();
        assert_eq!(ours.lines().collect::<Vec<_>>(), theirs.lines().collect::<Vec<_>>());
    }

    #[test]
    fn every_field_is_where_protobuf_says() {
        let sinks: Value = serde_json::from_slice(&fixture("sinks.json")).unwrap();
        for sink in sinks["messages"].as_array().unwrap() {
            let hex = sink["bytes"].as_str().unwrap();
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let bytes = &*bytes;
            let printed = match sink["type"].as_str().unwrap() {
                "ListPodSandboxRequest" => print(&ListPodSandboxRequest::decode(bytes).unwrap(), false),
                "ListContainersRequest" => print(&ListContainersRequest::decode(bytes).unwrap(), false),
                "PodSandboxStatusRequest" => print(&PodSandboxStatusRequest::decode(bytes).unwrap(), false),
                "ContainerStatusRequest" => print(&ContainerStatusRequest::decode(bytes).unwrap(), false),
                "ImageStatusRequest" => print(&ImageStatusRequest::decode(bytes).unwrap(), false),
                "ListPodSandboxResponse" => pods(&Message::decode(bytes).unwrap(), false),
                "ListContainersResponse" => ps(&Message::decode(bytes).unwrap(), false),
                "PodSandboxStatusResponse" => inspectp(&Message::decode(bytes).unwrap(), false),
                "ContainerStatusResponse" => inspect(&Message::decode(bytes).unwrap(), false),
                "ImageStatusResponse" => inspecti(&Message::decode(bytes).unwrap()),
                name => panic!("{name} is not ours"),
            };
            same(&parse(&printed), &sink["json"], sink["type"].as_str().unwrap());
        }
    }

    #[test]
    fn a_container_has_the_times_that_its_state_has() {
        use ContainerState::*;
        let (never, at) = ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00.5Z");
        for (state, finished_at, started, finished) in [
            (CONTAINER_CREATED as i32, 500_000_000, never, never),
            (CONTAINER_RUNNING as i32, 500_000_000, at, never),
            (CONTAINER_EXITED as i32, 500_000_000, at, at),
            (CONTAINER_EXITED as i32, 0, at, "1970-01-01T00:00:00Z"),
            (CONTAINER_UNKNOWN as i32, 500_000_000, at, at),
            (CONTAINER_UNKNOWN as i32, 0, at, never),
            (CONTAINER_UNKNOWN as i32, -1, at, never),
            (77, 500_000_000, at, never),
        ] {
            let status = ContainerStatus {
                state,
                created_at: 1_795_375_861_982_000_000,
                started_at: 500_000_000,
                finished_at,
                ..Default::default()
            };
            let answer = ContainerStatusResponse { status: Some(status), ..Default::default() };
            let printed = inspect(&answer, false);
            assert_eq!(str::from_utf8(&printed).unwrap().matches("createdAt").count(), 1);
            let printed = parse(&printed);
            assert_eq!(printed["status"]["createdAt"], "2026-11-22T19:31:01.982Z");
            assert_eq!(printed["status"]["startedAt"], started, "{state} {finished_at}");
            assert_eq!(printed["status"]["finishedAt"], finished, "{state} {finished_at}");
        }
        assert_eq!(time(i64::MIN).to_string(), "1677-09-21T00:12:43.145224192Z");
        assert_eq!(time(i64::MAX).to_string(), "2262-04-11T23:47:16.854775807Z");
    }

    fn info<const N: usize>(info: [(&str, &str); N]) -> ContainerStatusResponse {
        let info = info.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        ContainerStatusResponse { info, ..Default::default() }
    }

    #[test]
    fn info_is_passed_through_as_what_it_is() {
        let answer = info([
            ("object", r#" {"a": [1e400, 12345678901234567890123, -0.10], "b": null} "#),
            ("array", "[1, 2]"),
            ("number", "42"),
            ("text", "sandbox"),
            ("almost", "{\"a\": 1"),
            ("empty", ""),
            ("quoted \"\n\0\u{2028}", "\"\n\0\u{2028}"),
        ]);
        let printed = String::from_utf8(inspect(&answer, false)).unwrap();
        for number in ["1e400", "12345678901234567890123", "-0.10"] {
            assert!(printed.contains(number), "{printed}");
        }
        let printed = parse(printed.replace("1e400", "1e40").as_bytes());
        let expected = json!({
            "object": {"a": [1e40, 12345678901234567890123_f64, -0.1], "b": null},
            "array": [1, 2],
            "number": 42,
            "text": "sandbox",
            "almost": "{\"a\": 1",
            "empty": "",
            "quoted \"\n\0\u{2028}": "\"\n\0\u{2028}",
        });
        assert_eq!(printed, expected);
    }

    #[test]
    fn info_does_not_take_the_place_of_the_status() {
        let mut answer = info([("status", "{\"id\": \"theirs\"}"), ("info", "{}")]);
        assert_eq!(parse(&inspect(&answer, false)), json!({"info": {}}));
        answer.status = Some(ContainerStatus { id: "ours".into(), ..Default::default() });
        assert_eq!(parse(&inspect(&answer, false))["status"]["id"], "ours");
    }

    #[test]
    fn an_answer_without_a_status_is_an_object_without_one() {
        assert_eq!(inspect(&ContainerStatusResponse::default(), true), b"{}\n");
        assert_eq!(inspectp(&PodSandboxStatusResponse::default(), true), b"{}\n");
        assert_eq!(inspecti(&ImageStatusResponse::default()), b"{}\n");
        assert_eq!(parse(&pods(&ListPodSandboxResponse::default(), true)), json!({"items": []}));
        assert_eq!(parse(&ps(&ListContainersResponse::default(), true)), json!({"containers": []}));
    }

    #[test]
    fn broken_json_of_which_nobody_knows_what_is_secret_is_not_shown() {
        let cut = "{\"config\": {\"envs\": [{\"value\": \"hunter2\"}";
        let answer = info([("info", cut), ("bom", &format!("\u{feff}{cut}")), ("id", "a=b")]);
        let expected = json!({"info": "<redacted>", "bom": "<redacted>", "id": "a=b"});
        assert_eq!(parse(&inspect(&answer, true)), expected);
    }

    /// A pod as `kubectl apply` leaves it, with secrets wherever there can be one.
    fn applied() -> String {
        let env = |n| {
            json!([
                {"name": "TOKEN", "value": format!("hunter2 \"{n}\"\n")},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "EMPTY", "value": ""},
            ])
        };
        let containers = |n| json!([{"name": "main", "env": env(n), "args": ["env"], "image": "localhost/a"}, {"name": "b"}]);
        let pod = json!({
            "kind": "Pod",
            "spec": {
                "containers": containers(1),
                "initContainers": containers(2),
                "ephemeralContainers": containers(3),
                "tolerations": [{"key": "a", "value": "kept"}],
            },
        });
        format!("{pod}\n")
    }

    /// The same, as it should leave us.
    fn applied_redacted() -> String {
        let mut redacted = applied();
        for n in 1..=3 {
            redacted = redacted.replace(&format!(r#""hunter2 \"{n}\"\n""#), "\"<redacted>\"");
        }
        redacted.replace(r#""value":"""#, r#""value":"<redacted>""#)
    }

    /// What containerd says of a container and its pod, with secrets wherever
    /// there can be one; and what should be left of it, told by their places.
    fn infos() -> [(Value, Value); 2] {
        let mut crash = parse(&fixture("inspect_crash-spec_limits_env.json"))["info"].take();
        let mut pod = parse(&fixture("inspectp_crash-spec.json"))["info"].take();
        let (mut left_of_crash, mut left_of_pod) = (crash.clone(), pod.clone());
        for (info, left) in [(&mut crash, &mut left_of_crash), (&mut pod, &mut left_of_pod)] {
            for (info, value) in [(&mut *info, "hunter2=\"\n"), (&mut *left, "<redacted>")] {
                let envs = info.pointer_mut("/config/envs").and_then(Value::as_array_mut);
                envs.into_iter().flatten().for_each(|env| env["value"] = value.into());
            }
            let env = info["runtimeSpec"]["process"]["env"].as_array_mut().unwrap();
            env.push("EMPTY=".into());
            let mut left_of_env = Vec::new();
            for (n, env) in env.iter_mut().enumerate() {
                let (name, _) = env.as_str().unwrap().split_once('=').unwrap();
                left_of_env.push(format!("{name}=<redacted>"));
                *env = format!("{name}=hunter2\"=\n{n}").into();
            }
            env.push("no variable, but hunter2".into());
            left_of_env.push("<redacted>".into());
            left["runtimeSpec"]["process"]["env"] = left_of_env.into();
            let annotations = json!({LAST_APPLIED: applied(), "other": "a=b"}).to_string();
            let left_of_annotations = json!({LAST_APPLIED: applied_redacted(), "other": "a=b"}).to_string();
            for (info, applied, annotations) in
                [(&mut *info, applied(), annotations), (left, applied_redacted(), left_of_annotations)]
            {
                for config in ["/config", "/sandboxMetadata/Metadata/Config", "/runtimeSpec"] {
                    if let Some(config) = info.pointer_mut(config) {
                        config["annotations"][LAST_APPLIED] = applied.clone().into();
                    }
                }
                info["runtimeSpec"]["annotations"]["io.kubernetes.cri-o.Annotations"] = annotations.into();
            }
        }
        [(crash, left_of_crash), (pod, left_of_pod)]
    }

    #[test]
    fn no_value_of_the_environment_survives_and_all_else_does() {
        let annotations = BTreeMap::from([(LAST_APPLIED.to_owned(), applied()), ("a".into(), "b".into())]);
        let [(crash, left_of_crash), (pod, left_of_pod)] = infos();

        let mut answer: ContainerStatusResponse = read("inspect_crash-spec_limits_env");
        answer.info = [("info".to_owned(), crash.to_string())].into();
        answer.status.as_mut().unwrap().annotations = annotations.clone();
        let printed = inspect(&answer, true);
        let mut expected = parse(&fixture("inspect_crash-spec_limits_env.json"));
        expected["info"] = left_of_crash;
        expected["status"]["annotations"] = json!({LAST_APPLIED: applied_redacted(), "a": "b"});
        same(&parse(&printed), &expected, "redacted");
        let text = String::from_utf8(printed).unwrap();
        assert!(!text.contains("hunter2"));
        assert!(text.contains("KUBERNETES_SERVICE_HOST=<redacted>") && text.contains("TOKEN"));
        assert!(String::from_utf8(inspect(&answer, false)).unwrap().contains("hunter2"));

        let mut answer: PodSandboxStatusResponse = read("inspectp_crash-spec");
        answer.info = [("info".to_owned(), pod.to_string())].into();
        answer.status.as_mut().unwrap().annotations = annotations.clone();
        let printed = inspectp(&answer, true);
        let mut expected = parse(&fixture("inspectp_crash-spec.json"));
        expected["info"] = left_of_pod;
        expected["status"]["annotations"] = json!({LAST_APPLIED: applied_redacted(), "a": "b"});
        same(&parse(&printed), &expected, "redacted");
        assert!(!String::from_utf8(printed).unwrap().contains("hunter2"));

        let mut answer: ListPodSandboxResponse = read("pods");
        let mut expected = parse(&fixture("pods.json"));
        for n in 0..answer.items.len() {
            answer.items[n].annotations = annotations.clone();
            expected["items"][n]["annotations"] = json!({LAST_APPLIED: applied_redacted(), "a": "b"});
        }
        same(&parse(&pods(&answer, true)), &expected, "pods");

        let mut answer: ListContainersResponse = read("ps_a");
        let mut expected = parse(&fixture("ps_a.json"));
        for n in 0..answer.containers.len() {
            answer.containers[n].annotations = annotations.clone();
            expected["containers"][n]["annotations"] = json!({LAST_APPLIED: applied_redacted(), "a": "b"});
        }
        same(&parse(&ps(&answer, true)), &expected, "ps");
    }

    #[test]
    fn where_there_is_no_environment_redaction_changes_nothing() {
        for name in ["pods", "pods_variants"] {
            assert_eq!(pods(&read(name), true), pods(&read(name), false));
        }
        for name in ["ps_a", "ps_a_pod_multi", "ps_a_variants"] {
            assert_eq!(ps(&read(name), true), ps(&read(name), false));
        }
    }

    #[test]
    fn what_the_sample_had_in_its_environment_is_gone() {
        let name = "inspect_crash-spec_limits_env";
        let sample = parse(&fixture(&format!("{name}.json")));
        let printed = parse(&inspect(&read(name), true));
        let strings = strings(&printed);
        let mut seen = 0;
        for env in sample["info"]["config"]["envs"].as_array().unwrap() {
            let [key, value] = ["key", "value"].map(|key| env[key].as_str().unwrap());
            assert!(!strings.contains(&value) && strings.contains(&key), "{key}={value}");
            seen += 1;
        }
        for env in sample["info"]["runtimeSpec"]["process"]["env"].as_array().unwrap() {
            let (key, value) = env.as_str().unwrap().split_once('=').unwrap();
            assert!(!strings.iter().any(|text| text.ends_with(&format!("={value}"))), "{key}={value}");
            assert!(strings.contains(&&*format!("{key}=<redacted>")), "{key}");
            seen += 1;
        }
        assert!(seen > 15);
    }

    #[test]
    fn what_is_in_a_registry_is_no_secret() {
        let info = "{\"config\": {\"env\": [\"PATH=/bin\"]}}";
        let answer =
            ImageStatusResponse { info: [("info".into(), info.into())].into(), ..Default::default() };
        assert!(String::from_utf8(inspecti(&answer)).unwrap().contains("PATH=/bin"));
    }

    fn strings(value: &Value) -> Vec<&str> {
        match value {
            Value::String(text) => vec![text],
            Value::Array(values) => values.iter().flat_map(strings).collect(),
            Value::Object(values) => values.values().flat_map(strings).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => vec![],
        }
    }

    #[test]
    fn the_largest_answers_stay_json_and_do_not_grow_much() {
        let long = "\"\\\n\0\u{2028}é".repeat(24 << 10);
        assert!(long.len() > 200 << 10);
        let labels = BTreeMap::from([(long.clone(), long.clone())]);
        let status = ContainerStatus {
            labels,
            annotations: [(LAST_APPLIED.into(), long)].into(),
            ..Default::default()
        };
        let mut answer = ContainerStatusResponse { status: Some(status), info: BTreeMap::new() };
        let printed = parse(&inspect(&answer, true));
        let labels = json!(answer.status.as_ref().unwrap().labels);
        assert_eq!(printed["status"]["labels"], labels);
        assert_eq!(printed["status"]["annotations"][LAST_APPLIED], "<redacted>");

        for hostile in [
            "[".repeat(2 << 20) + &"]".repeat(2 << 20),
            "{\"\":".repeat(1 << 19) + "0" + &"}".repeat(1 << 19),
            "[".to_owned() + &"0,".repeat(2 << 20) + "0]",
            "{\"env\":[".repeat(1 << 18) + "\"A=b\"" + &"]}".repeat(1 << 18),
        ] {
            answer.info = [("info".to_owned(), hostile)].into();
            let printed = String::from_utf8(inspect(&answer, true)).unwrap();
            // As a value it would be too deep for its reader.
            serde_json::from_str::<&RawValue>(&printed).unwrap();
            assert!(printed.len() < 8 << 20, "{}", printed.len());
        }
    }

    mod hostile {
        use super::*;
        use crate::strange;

        type Print = fn(&[u8], bool) -> Option<Vec<u8>>;

        /// How the names of samples begin, and how such an answer is printed, if it is one.
        const KINDS: [(&str, Print); 5] = [
            ("pods", |bytes, redact| Some(pods(&Message::decode(bytes).ok()?, redact))),
            ("ps_", |bytes, redact| Some(ps(&Message::decode(bytes).ok()?, redact))),
            ("inspect_", |bytes, redact| Some(inspect(&Message::decode(bytes).ok()?, redact))),
            ("inspectp_", |bytes, redact| Some(inspectp(&Message::decode(bytes).ok()?, redact))),
            ("inspecti_", |bytes, _| Some(inspecti(&Message::decode(bytes).ok()?))),
        ];

        fn samples(kind: &str) -> Vec<Vec<u8>> {
            let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cri")).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            names
                .filter(|name| name.starts_with(kind) && name.ends_with(".bin"))
                .map(|name| fixture(&name))
                .collect()
        }

        proptest! {
            #[test]
            fn whatever_strings_say_they_are_printed_as_they_are(
                key in ".*", value in ".*", info in "(status|\\PC*)", told in "(\\PC*|[\\[\\]{}\",:0-9]*)", redact: bool
            ) {
                let labels = BTreeMap::from([(key, value.clone())]);
                let status = ContainerStatus { message: value, labels, ..Default::default() };
                let info = BTreeMap::from([(info, told)]);
                let answer = ContainerStatusResponse { status: Some(status.clone()), info };
                let printed = parse(&inspect(&answer, redact));
                prop_assert_eq!(&printed["status"]["message"], &json!(status.message));
                prop_assert_eq!(&printed["status"]["labels"], &json!(status.labels));
            }

            #[test]
            fn whatever_a_runtime_answers_is_printed_as_json(
                (kind, bytes) in (0..KINDS.len()).prop_flat_map(|kind| (Just(kind), strange::changed(samples(KINDS[kind].0)))),
                redact: bool,
            ) {
                if let Some(printed) = KINDS[kind].1(&bytes, redact) {
                    serde_json::from_slice::<&RawValue>(&printed).unwrap();
                    prop_assert!(printed.len() <= 40 * bytes.len() + 4096, "{} of {}", printed.len(), bytes.len());
                }
            }
        }
    }
}
