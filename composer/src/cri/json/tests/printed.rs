//! Answers of real runtimes, and of runtimes at their limits.

use prost::Message;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::super::message::*;
use super::super::*;
use super::{LAST_APPLIED, fixture, info, parse, read, same};

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
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
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
fn the_largest_answers_stay_json_and_do_not_grow_much() {
    let long = "\"\\\n\0\u{2028}é".repeat(24 << 10);
    assert!(long.len() > 200 << 10);
    let labels = BTreeMap::from([(long.clone(), long.clone())]);
    let status =
        ContainerStatus { labels, annotations: [(LAST_APPLIED.into(), long)].into(), ..Default::default() };
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
