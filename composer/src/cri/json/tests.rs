//! What is printed, held against what crictl prints.

mod hostile;
mod printed;
mod redaction;

use std::fs;

use prost::Message;
use serde_json::Value;

use super::super::message::ContainerStatusResponse;

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

fn info<const N: usize>(info: [(&str, &str); N]) -> ContainerStatusResponse {
    let info = info.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    ContainerStatusResponse { info, ..Default::default() }
}
