//! What a runtime may answer that is not one.

use std::fs;

use proptest::prelude::*;
use prost::Message;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::super::message::*;
use super::super::*;
use super::{fixture, parse};
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
    names.filter(|name| name.starts_with(kind) && name.ends_with(".bin")).map(|name| fixture(&name)).collect()
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
