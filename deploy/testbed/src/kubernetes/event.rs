//! A core/v1 Event, with the fields that ours have. Any other is an error.

use jiff::Timestamp;
use protocol::cluster::is_object_name;
use serde::Deserialize;

/// What `events.k8s.io/v1` would take of a message and of a reason
/// (`NoteLengthLimit` and others in `pkg/apis/core/validation/events.go`);
/// core/v1 takes more, and clients cut it.
const MAX_MESSAGE: usize = 1024;
const MAX_WORD: usize = 128;

/// The Event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API reference of Kubernetes says what they are")]
pub struct Event {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub involved_object: ObjectReference,
    pub reason: String,
    pub message: String,
    pub source: Source,
    pub first_timestamp: String,
    pub last_timestamp: String,
    pub count: u32,
    #[serde(rename = "type")]
    pub severity: String,
    pub reporting_component: String,
    pub reporting_instance: String,
}

/// Its name and namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
}

/// What it is about.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ObjectReference {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub field_path: String,
}

/// Who says so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub component: String,
    pub host: String,
}

impl Event {
    /// Why it cannot be taken in `namespace`.
    pub(super) fn problems(&self, namespace: &str) -> Vec<String> {
        let about = &self.involved_object;
        let container =
            about.field_path.strip_prefix("spec.containers{").and_then(|path| path.strip_suffix('}'));
        let word = |word: &str| !word.is_empty() && word.len() <= MAX_WORD;
        let times = [&self.first_timestamp, &self.last_timestamp].map(|time| time.parse::<Timestamp>());
        let [Ok(first), Ok(last)] = times else { return vec!["a time is not RFC 3339".to_owned()] };
        [
            (self.api_version == "v1" && self.kind == "Event", "it is no core/v1 Event"),
            (is_object_name(&self.metadata.name), "metadata.name is no DNS-1123 subdomain"),
            (self.metadata.namespace == namespace, "metadata.namespace is not the namespace of the request"),
            (about.namespace == self.metadata.namespace, "involvedObject.namespace is not event.namespace"),
            (about.api_version == "v1" && about.kind == "Pod", "involvedObject is no Pod"),
            (is_object_name(&about.name), "involvedObject.name is no DNS-1123 subdomain"),
            (!about.uid.is_empty(), "involvedObject.uid is empty"),
            (
                container.is_some_and(|name| is_object_name(name) && !name.contains('.')),
                "involvedObject.fieldPath",
            ),
            (word(&self.reason), "reason is empty or too long"),
            (!self.message.is_empty() && self.message.len() <= MAX_MESSAGE, "message is empty or too long"),
            (!self.message.contains(|c: char| c.is_control()), "message has control characters"),
            (matches!(&*self.severity, "Normal" | "Warning"), "type is neither Normal nor Warning"),
            (word(&self.source.component) && !self.source.host.is_empty(), "source is empty"),
            (word(&self.reporting_component), "reportingComponent is empty or too long"),
            (word(&self.reporting_instance), "reportingInstance is empty or too long"),
            (first <= last, "it ended before it began"),
            (self.count >= 1, "count is 0"),
        ]
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, problem)| problem.to_owned())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": "a.1", "namespace": "default" },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "a", "uid": "1",
                "fieldPath": "spec.containers{main}",
            },
            "reason": "Why", "message": "What.", "type": "Normal", "count": 1,
            "source": { "component": "who", "host": "where" },
            "firstTimestamp": "2026-11-22T19:31:02Z", "lastTimestamp": "2026-11-22T19:31:02Z",
            "reportingComponent": "who", "reportingInstance": "where",
        })
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused() {
        let problems = |event: Value| serde_json::from_value::<Event>(event).unwrap().problems("default");
        assert_eq!(problems(event()), Vec::<String>::new());
        for (path, wrong) in [
            ("/metadata/name", json!("A")),
            ("/metadata/name", json!("a".repeat(254))),
            ("/metadata/namespace", json!("other")),
            ("/involvedObject/namespace", json!("other")),
            ("/involvedObject/kind", json!("Node")),
            ("/involvedObject/uid", json!("")),
            ("/involvedObject/fieldPath", json!("main")),
            ("/reason", json!("R".repeat(129))),
            ("/message", json!("m".repeat(1025))),
            ("/message", json!("a\nb")),
            ("/type", json!("Error")),
            ("/source/host", json!("")),
            ("/firstTimestamp", json!("yesterday")),
            ("/firstTimestamp", json!("2026-11-22T19:31:03Z")),
            ("/reportingComponent", json!("")),
            ("/count", json!(0)),
        ] {
            let mut event = event();
            *event.pointer_mut(path).unwrap() = wrong.clone();
            assert!(!problems(event).is_empty(), "{path}: {wrong}");
        }
        let mut stranger = event();
        stranger["mesage"] = json!("x");
        assert!(serde_json::from_value::<Event>(stranger).is_err());
    }
}
