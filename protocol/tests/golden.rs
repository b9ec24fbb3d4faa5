//! Can yesterday's files still be read, and tomorrow's already?

use protocol::journal::Line;
use protocol::manifest::{Manifest, Section, Truncation};

const VERSION_1: &str = include_str!("golden/manifest-1.json");

#[test]
fn a_manifest_of_version_1_is_read_and_written_as_it_was() {
    let manifest: Manifest = serde_json::from_str(VERSION_1).unwrap();
    assert_eq!(manifest.core.truncated, Some(Truncation::KilledWhileDumping));
    assert_eq!(manifest.container.present().unwrap().pod.namespace, "default");
    assert_eq!(manifest.crash.comm.as_ref().unwrap().as_bytes(), b"crash\xff\\er");
    let before: serde_json::Value = serde_json::from_str(VERSION_1).unwrap();
    assert_eq!(serde_json::to_value(&manifest).unwrap(), before);
}

#[test]
fn a_manifest_of_the_future_is_read_by_this_version() {
    let mut future: serde_json::Value = serde_json::from_str(VERSION_1).unwrap();
    future["version"] = 2.into();
    future["more"] = "x".into();
    future["crash"]["more"] = 1.into();
    future["core"]["truncated"] = "moon_phase".into();
    future["container"] = serde_json::json!({ "missing": { "reason": "no socket", "more": [] } });
    let manifest: Manifest = serde_json::from_value(future).unwrap();
    assert_eq!(manifest.core.truncated, Some(Truncation::Other("moon_phase".into())));
    assert_eq!(manifest.container, Section::Missing { reason: "no socket".into() });
}

#[test]
fn the_journal_of_version_1_is_read_and_written_as_it_was() {
    for text in include_str!("golden/crashes-1.jsonl").lines() {
        let line: Line = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
    }
}
