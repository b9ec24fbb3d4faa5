//! Objects of Kubernetes, with the fields that our manifests have. One that is
//! not here is an error: who adds it to the manifests says here what it does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_yaml::{Deserializer, Value};

type Strings = BTreeMap<String, String>;

/// The objects of an installation that make its pods.
pub struct Manifests {
    /// Where they are.
    pub namespace: String,
    pub(super) config_maps: BTreeMap<String, Strings>,
    pub(super) template: Template,
}

impl Manifests {
    /// Reads YAML of many documents, such as `kubectl kustomize` prints.
    pub fn read(yaml: &str) -> Manifests {
        let mut config_maps = BTreeMap::new();
        let mut daemon_set = None;
        for document in Deserializer::from_str(yaml) {
            let value = Value::deserialize(document).expect("the manifests are YAML");
            match value["kind"].as_str() {
                Some("ConfigMap") => {
                    let ConfigMap { metadata, data, .. } = object(value);
                    config_maps.insert(metadata.name, data);
                }
                Some("DaemonSet") => daemon_set = Some(object::<DaemonSet>(value)),
                _ => {}
            }
        }
        let DaemonSet { metadata, spec, .. } = daemon_set.expect("a DaemonSet among the manifests");
        Manifests { namespace: metadata.namespace, config_maps, template: spec.template }
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    let name = format!("{:?} {:?}", value["kind"], value["metadata"]["name"]);
    serde_yaml::from_value(value).unwrap_or_else(|err| panic!("{name}: {err}"))
}

/// What is of no account for one pod on one node.
type Ignored = Option<IgnoredAny>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigMap {
    #[serde(rename = "apiVersion")]
    _api_version: Ignored,
    #[serde(rename = "kind")]
    _kind: Ignored,
    metadata: Metadata,
    data: Strings,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DaemonSet {
    #[serde(rename = "apiVersion")]
    _api_version: Ignored,
    #[serde(rename = "kind")]
    _kind: Ignored,
    metadata: Metadata,
    spec: DaemonSetSpec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DaemonSetSpec {
    #[serde(rename = "selector")]
    _selector: Ignored,
    #[serde(rename = "updateStrategy")]
    _update_strategy: Ignored,
    template: Template,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Template {
    pub metadata: PodMetadata,
    pub spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodMetadata {
    pub labels: Strings,
    pub annotations: Strings,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodSpec {
    pub automount_service_account_token: bool,
    pub termination_grace_period_seconds: u32,
    pub security_context: PodSecurity,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    #[serde(rename = "serviceAccountName")]
    _service_account_name: Ignored,
    #[serde(rename = "nodeSelector")]
    _node_selector: Ignored,
    #[serde(rename = "tolerations")]
    _tolerations: Ignored,
    #[serde(rename = "affinity")]
    _affinity: Ignored,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodSecurity {
    pub fs_group: u32,
    pub seccomp_profile: SeccompProfile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, tag = "type")]
pub(super) enum SeccompProfile {
    RuntimeDefault,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Container {
    pub name: String,
    pub command: Vec<String>,
    #[serde(default)]
    pub env: Vec<EnvVar>,
    pub security_context: Security,
    #[serde(default)]
    pub ports: Vec<Port>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub resources: Resources,
    pub volume_mounts: Vec<VolumeMount>,
    #[serde(rename = "image")]
    _image: Ignored,
    #[serde(rename = "imagePullPolicy")]
    _image_pull_policy: Ignored,
    #[serde(rename = "terminationMessagePolicy")]
    _termination_message_policy: Ignored,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvVar {
    pub name: String,
    #[serde(rename = "valueFrom")]
    pub value_from: ValueFrom,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ValueFrom {
    pub field_ref: FieldRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FieldRef {
    pub field_path: Field,
}

#[derive(Deserialize)]
pub(super) enum Field {
    #[serde(rename = "spec.nodeName")]
    NodeName,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Security {
    pub run_as_user: u32,
    pub run_as_group: u32,
    #[serde(default)]
    pub run_as_non_root: bool,
    pub allow_privilege_escalation: bool,
    pub read_only_root_filesystem: bool,
    pub capabilities: Capabilities,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capabilities {
    pub drop: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Port {
    pub name: String,
    pub container_port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Probe {
    pub exec: Option<Exec>,
    pub http_get: Option<HttpGet>,
    #[serde(rename = "initialDelaySeconds")]
    _initial_delay_seconds: Ignored,
    #[serde(rename = "periodSeconds")]
    _period_seconds: Ignored,
    #[serde(rename = "timeoutSeconds")]
    _timeout_seconds: Ignored,
    #[serde(rename = "failureThreshold")]
    _failure_threshold: Ignored,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    pub command: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpGet {
    pub path: String,
    pub port: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    pub limits: Limits,
    #[serde(rename = "requests")]
    _requests: Ignored,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub memory: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    /// What of the volume, if not all of it.
    pub sub_path: Option<String>,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Volume {
    pub name: String,
    pub config_map: Option<ConfigMapSource>,
    pub secret: Option<SecretSource>,
    pub host_path: Option<HostPath>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigMapSource {
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SecretSource {
    pub secret_name: String,
    pub default_mode: u32,
    #[serde(default)]
    pub optional: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostPath {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: HostPathType,
}

#[derive(Deserialize)]
pub(super) enum HostPathType {
    DirectoryOrCreate,
    File,
}
