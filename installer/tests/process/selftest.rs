//! `self-test`, up to the kernel and the composer, whose parts are played here.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::node::{Node, text};

const ID: &str = "20261122T193101Z-28763-9f3a61c2";
const CAPTURED: &str = r#"{"captured":{"core_bytes":4096,"dump_bytes":1000,"truncated":null,"held_ms":3}}"#;

/// The self-test on a machine whose kernel dumps nothing, whatever its
/// `core_pattern`: a limit of 1 is the kernel's own mark against recursion.
fn command(node: &Node) -> Command {
    let test = node.command(&["self-test"]);
    let mut command = Command::new("prlimit");
    command.arg("--core=1").arg(test.get_program()).args(test.get_args());
    command
}

/// Runs the self-test, and plays the composer's part once the child crashes.
fn self_test(node: &Node, outcome: &str, dump: Option<&str>) -> (bool, String) {
    let mut child = command(node).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("crashing a child named ") {
        assert_ne!(stdout.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let comm = said.trim_end().rsplit(' ').next().unwrap();
    assert!(comm.len() <= 15, "{comm}");
    if let Some(suffix) = dump {
        fs::write(node.spool().join(format!("{ID}{suffix}")), "").unwrap();
    }
    let line = format!(
        r#"{{"at":"2026-11-22T19:31:02Z","id":"{ID}","outcome":{outcome},"pid":28763,"signal":6,"comm":"{comm}"}}"#
    );
    let mut journal = File::create(node.spool().join("crashes.jsonl")).unwrap();
    writeln!(journal, "not JSON\n{line}").unwrap();
    stdout.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), said + str::from_utf8(&output.stderr).unwrap())
}

#[test]
fn a_self_test_ends_with_a_dump() {
    let node = Node::new();
    node.ok(&["install"]);
    let (passed, said) = self_test(&node, CAPTURED, None);
    assert!(passed && said.contains("the uploader has taken it"), "{said}");
    let (passed, said) = self_test(&node, CAPTURED, Some("_payments_api_SIGABRT.zip"));
    assert!(passed && said.contains("_payments_api_SIGABRT.zip"), "{said}");
}

#[test]
fn a_self_test_says_which_step_failed() {
    let node = Node::new();
    let said = node.fails(1, &["self-test"]);
    assert!(said.contains("before any crash: this node is not collecting"), "{said}");
    node.ok(&["install"]);
    for (outcome, dump, why) in [
        (r#"{"refused":{"reason":"no space"}}"#, None, "refused the core of the child: no space"),
        (&CAPTURED.replace("null", r#""disk_full""#), None, "not whole: disk_full"),
        (CAPTURED, Some(".zip.rejected"), "its dump is rejected"),
    ] {
        let (passed, said) = self_test(&node, outcome, dump);
        assert!(!passed && said.contains(why), "{said}");
    }
}

#[test]
fn a_self_test_without_a_core_says_so_soon() {
    let node = Node::new();
    node.ok(&["install"]);
    let output = command(&node).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("the kernel dumped no core"), "{said}");
}
