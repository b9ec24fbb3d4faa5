//! Kills the installer, for real, at every system call that changes anything,
//! and looks at what it leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::node::{Node, is_root, text};

/// System calls on files that change none. Whatever is not listed here is
/// taken for a change, so that a new way of writing is not overlooked.
const HARMLESS: &str = "access close execve fcntl fstat getcwd getdents64 ioctl lseek mmap newfstatat \
                        poll pread64 read readlink statfs statx";

#[test]
fn killed_while_installing() {
    kill_everywhere("install", |_| {}, |_| {});
}

#[test]
fn killed_while_uninstalling() {
    kill_everywhere("uninstall", |_| {}, |node| drop(node.ok(&["install"])));
}

#[test]
fn killed_while_upgrading() {
    let prepare = |node: &Node| {
        node.ok(&["install"]);
        node.ship("two");
        node.configure("core_pipe_limit: 32\nsuid_dumpable: 2\ncomposer: {redact_environ: false}");
    };
    kill_everywhere("install", |_| {}, prepare);
}

#[test]
fn killed_while_taking_over_directories() {
    kill_everywhere("install", furnish, |_| {});
}

#[test]
fn killed_while_giving_directories_back() {
    kill_everywhere("uninstall", furnish, |node| drop(node.ok(&["install"])));
}

/// Directories of somebody else, who has something in them.
fn furnish(node: &Node) {
    node.furnish();
    fs::write(node.host_dir().join("README"), "not ours").unwrap();
    if is_root() {
        chown(node.spool(), None, Some(4711)).unwrap();
    }
}

/// Runs `command` on a node made by `before` and `prepare` and kills it at each
/// change in turn. The next installer, whatever it is asked for, must be able
/// to go on, and to give back what `before` had made.
fn kill_everywhere(command: &str, before: fn(&Node), prepare: fn(&Node)) {
    let make = || {
        let node = Node::new();
        before(&node);
        let snapshot = node.snapshot();
        prepare(&node);
        (node, snapshot)
    };
    let changes = changes(command, &make().0);
    assert!(changes.len() > 10, "strace saw only {changes:?}");
    for (syscall, nth) in &changes {
        for recovery in [&["install", "uninstall"][..], &["uninstall"]] {
            let (node, before) = make();
            kill(&node, command, syscall, *nth);
            let at = format!("{command} killed at {syscall} number {nth}, then {recovery:?}");
            assert_no_dump_is_lost(&node, &at);
            for command in recovery {
                node.ok(&[command]);
                assert_no_dump_is_lost(&node, &at);
                assert_eq!(node.ok(&[command, "--dry-run"]), "", "{at}");
            }
            assert_eq!(node.snapshot(), before, "{at}");
        }
    }
}

/// The kernel is told to run a composer only while there is a whole one.
fn assert_no_dump_is_lost(node: &Node, at: &str) {
    let pattern = node.sysctl("kernel/core_pattern");
    let composer = fs::read_to_string(node.host_dir().join("composer"));
    if pattern.starts_with("|/opt/coredump-handler/composer P%P ") {
        let composer = composer.unwrap_or_else(|err| panic!("{at}: {pattern} but {err}"));
        let whole = ["one", "two"].map(|version| format!("composer {version}\n").repeat(2000));
        assert!(whole.contains(&composer), "{at}: the composer is not whole");
    } else {
        assert_eq!(pattern, "|/usr/share/apport/apport %p", "{at}");
    }
}

/// Each system call by which an unharmed run changes anything: its name, and
/// how many of that name there were before it, plus one.
fn changes(command: &str, node: &Node) -> Vec<(String, usize)> {
    let log = node.path("strace.log");
    let trace = ["-e", "trace=%file,%desc", "-o", log.to_str().unwrap()];
    let output = strace(node, &trace, command).output();
    let output = output.expect("this test needs strace (the Debian package of that name)");
    assert!(output.status.success(), "{}", text(&output));

    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut changes = Vec::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let Some((name, arguments)) = line.split_once('(') else { continue };
        let nth = seen.entry(name.to_owned()).or_default();
        *nth += 1;
        let reads_only = name == "openat" && !arguments.contains("O_WRONLY") && !arguments.contains("O_RDWR");
        if !reads_only && !HARMLESS.split(' ').any(|harmless| harmless == name) {
            changes.push((name.to_owned(), *nth));
        }
    }
    changes
}

/// The signal is delivered as the system call is entered, which then does not
/// take place: the state after one call is seen at the next.
fn kill(node: &Node, command: &str, syscall: &str, nth: usize) {
    let inject = format!("inject={syscall}:signal=SIGKILL:when={nth}");
    let options = ["-e", &format!("trace={syscall}"), "-e", &inject, "-o", "/dev/null"];
    let output = strace(node, &options, command).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{syscall} {nth}: {}", text(&output));
}

fn strace(node: &Node, options: &[&str], command: &str) -> Command {
    let traced = node.command(&[command]);
    let mut strace = Command::new("strace");
    strace.arg("-qq").args(options).arg(traced.get_program()).args(traced.get_args());
    strace
}
