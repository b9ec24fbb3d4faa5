//! No value of an environment leaves us.

use serde_json::{Value, json};

use super::super::super::message::*;
use super::super::*;
use super::{LAST_APPLIED, fixture, info, parse, read, same};

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
    let containers =
        |n| json!([{"name": "main", "env": env(n), "args": ["env"], "image": "localhost/a"}, {"name": "b"}]);
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
    let answer = ImageStatusResponse { info: [("info".into(), info.into())].into(), ..Default::default() };
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
