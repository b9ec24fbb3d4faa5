//! Can yesterday's files still be read, and tomorrow's already?

use protocol::journal::{Line, Skip};
use protocol::manifest::{Attribution, Manifest, Truncation};

const VERSION_1: &str = include_str!("golden/manifest-1.json");
const WITH_TRUST: &str = include_str!("golden/manifest-1-trusted.json");

#[test]
fn a_manifest_of_version_1_is_read_and_written_as_it_was() {
    let manifest: Manifest = serde_json::from_str(VERSION_1).unwrap();
    assert_eq!(manifest.core.truncated, Some(Truncation::KilledWhileDumping));
    assert_eq!(manifest.container.present().unwrap().pod.namespace, "default");
    assert_eq!(manifest.crash.comm.as_ref().unwrap().as_bytes(), b"crash\xff\\er");
    let mut before: serde_json::Value = serde_json::from_str(VERSION_1).unwrap();
    before["trusted"] = true.into(); // added since
    assert_eq!(serde_json::to_value(&manifest).unwrap(), before);
}

#[test]
fn a_manifest_keeps_what_is_known_of_a_container_that_is_missing() {
    let manifest: Manifest = serde_json::from_str(WITH_TRUST).unwrap();
    let Attribution::Missing { id: Some(id), pod_uid: Some(uid), .. } = &manifest.container else {
        panic!("{:?}", manifest.container)
    };
    assert!(id.starts_with("2931aa39") && uid.starts_with("ebd4ed5f"));
    let before: serde_json::Value = serde_json::from_str(WITH_TRUST).unwrap();
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
    assert_eq!(
        manifest.container,
        Attribution::Missing { reason: "no socket".into(), id: None, pod_uid: None }
    );
}

#[test]
fn the_journal_of_version_1_is_read_and_written_as_it_was() {
    for text in include_str!("golden/crashes-1.jsonl").lines() {
        let line: Line = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
    }
}

#[test]
fn a_reason_is_written_as_the_word_it_is() {
    for reason in Skip::KNOWN {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        assert_eq!(serde_json::from_value::<Skip>(reason.as_str().into()).unwrap(), *reason);
    }
    for reason in Truncation::KNOWN {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        assert_eq!(serde_json::from_value::<Truncation>(reason.as_str().into()).unwrap(), *reason);
    }
}
