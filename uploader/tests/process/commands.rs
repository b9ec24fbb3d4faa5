//! `push`, `ls`, `show`, and how they fail.

use std::process::Output;

use protocol::spool::State;
use testbed::store::{Fault, Operation, Store};

use crate::spool::{BUCKET, Node, key};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn push_ships_what_is_there_once_and_says_whether_all_of_it() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let (first, second) = (node.dump(1000), node.dump(2000));
    assert!(node.run(&["push", second.id().as_str()]).status.success());
    assert_eq!(store.objects(BUCKET), [key(&second)]);

    store.set_faults(|request| {
        (request.operation() == Operation::PutObject).then(|| Fault::error(503, "SlowDown"))
    });
    let failed = node.run(&["push"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("503 SlowDown"), "{failed:?}");
    assert_eq!(node.states(), [State::Ready]);
    store.clear_faults();
    assert!(node.run(&["push"]).status.success());
    assert_eq!(store.objects(BUCKET), [key(&first), key(&second)]);
    assert!(node.run(&["push"]).status.success(), "nothing to do is no failure");
    assert_eq!(node.run(&["push", first.id().as_str()]).status.code(), Some(1), "it is not there");
    assert_eq!(node.run(&["push", "nonsense"]).status.code(), Some(64));
}

#[test]
fn ls_shows_the_spool_as_a_table_and_as_json() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(1 << 20);
    let table = stdout(&node.run(&["ls"]));
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].ends_with("SIZE"), "{table}");
    let words: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(
        [words[0], words[2], words[3], words[4]],
        [entry.id().as_str(), "ready", "default/crash/main", "SIGSEGV"]
    );
    let json: serde_json::Value = serde_json::from_str(&stdout(&node.run(&["ls", "--json"]))).unwrap();
    assert_eq!(json[0]["id"], entry.id().as_str());
    assert_eq!((json[0]["state"].as_str(), json[0]["pod"].as_str()), (Some("ready"), Some("crash")));
    // Looking at a spool takes no credentials, and no store.
    let poor = node.command(&["ls", "--json"]).env_clear().output().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout(&poor)).unwrap(), json);
    let spool = node.spool_dir();
    let named = node.command(&["ls", "--json", "--spool", spool.to_str().unwrap()]).output().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout(&named)).unwrap(), json);
}

#[test]
fn show_tells_about_one_dump() {
    let store = Store::temporary(BUCKET);
    let node = Node::shipping_to(&store);
    let entry = node.dump(10);
    let text = stdout(&node.run(&["show", entry.id().as_str()]));
    assert!(text.contains("SIGSEGV at 2026-11-22T19:31:01Z"), "{text}");
    assert!(text.contains("truncated (killed_while_dumping) of 5.0 MiB"), "{text}");
    let json = stdout(&node.run(&["show", &entry.id().as_str()[..20], "--json"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["id"], entry.id().as_str());
    let missing = node.run(&["show", "20991231"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).starts_with("uploader: there is no dump 20991231 in "), "{missing:?}");
    node.dump(10);
    assert!(stderr(&node.run(&["show", "2026"])).contains("more than one dump begins with 2026"));
}

#[test]
fn show_tells_what_is_not_known_and_what_is_not_sure() {
    let node = Node::shipping_to(&Store::temporary(BUCKET));
    let manifest = include_str!("../../../protocol/tests/golden/manifest-1-trusted.json");
    let entry = node.dump_with(manifest, 10);
    let text = stdout(&node.run(&["show", entry.id().as_str()]));
    assert!(text.contains("container  missing: connecting to /run/containerd/containerd.sock"), "{text}");
    assert!(text.contains("id         2931aa398062"), "{text}");
    assert!(text.contains("pod uid    ebd4ed5f-7157"), "{text}");
    assert!(!text.contains("trusted"), "{text}");
    let entry = node.dump_with(&manifest.replace("\"trusted\": true", "\"trusted\": false"), 10);
    let text = stdout(&node.run(&["show", entry.id().as_str()]));
    assert!(text.contains("trusted    no: "), "{text}");
}

#[test]
fn three_mistakes_in_the_settings_are_three_lines_and_exit_64() {
    let node = Node::new("store: {s3: {bucket: A}}\nparallel: 0\nretries: 3\n");
    node.dump(10);
    for command in ["run", "push"] {
        let output = node.run(&[command]);
        assert_eq!(output.status.code(), Some(64));
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 3, "{said}");
        for word in ["store.s3.bucket: ", "parallel: ", "retries: is no setting"] {
            assert!(said.contains(word), "{said}");
        }
    }
    assert_eq!(node.states(), [State::Ready]);
    let output = node.command(&["run", "--config", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(node.run(&["fly"]).status.code(), Some(64));
    assert_eq!(node.run(&["--version"]).status.code(), Some(0));
}
