//! `run`: what it notices, what it logs, and how it ends.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{FOREIGN, Node, eventually};

/// An installer that keeps a node collecting.
pub struct Watch {
    pub child: Child,
    log: PathBuf,
}

impl Watch {
    fn start(node: &Node) -> Watch {
        Watch::start_and(node, "this node is collecting")
    }

    fn start_and(node: &Node, words: &str) -> Watch {
        Watch::spawn(node, &mut node.command(&["run"]), words)
    }

    /// Starts `command` and waits for `words` in its log.
    pub fn spawn(node: &Node, command: &mut Command, words: &str) -> Watch {
        let log = node.path("run.log");
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let watch = Watch { child, log };
        watch.logs(words);
        watch
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for `words` in the log.
    pub fn logs(&self, words: &str) {
        eventually(words, || self.log().contains(words));
    }

    /// Asks it to end, and sees that it does so at once.
    fn end(&mut self, signal: Signal) {
        assert!(self.end_in_time(signal) < Duration::from_secs(10), "it took its time to end");
    }

    /// Asks it to end, and returns how long that took.
    pub fn end_in_time(&mut self, signal: Signal) -> Duration {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        let asked = Instant::now();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        asked.elapsed()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn run_repairs_what_others_change_and_says_who_won() {
    let node = Node::new();
    node.configure("check_every: 20ms");
    let mut watch = Watch::start(&node);
    node.set("kernel/core_pattern", FOREIGN);
    watch.logs("somebody changed kernel.core_pattern");
    let log = watch.log();
    let line = log.lines().find(|line| line.contains("somebody changed")).unwrap();
    assert!(line.contains("WARN") && line.contains(&format!("found={FOREIGN:?}")), "{line}");
    fs::remove_file(node.host_dir().join("composer")).unwrap();
    watch.logs("put our composer into place");
    eventually("the node collects again", || node.run(&["status"]).status.success());
    // What it lost to is not what was there before.
    watch.end(Signal::SIGTERM);
    node.ok(&["uninstall"]);
    assert_eq!(node.sysctl("kernel/core_pattern"), "|/usr/share/apport/apport %p");
}

#[test]
fn run_reports_a_failed_repair_once_and_tries_again() {
    let node = Node::new();
    node.configure("check_every: 5ms");
    let mut watch = Watch::start(&node);
    let state = fs::read(node.host_dir().join("state.json")).unwrap();
    fs::rename(node.path("sys/kernel/core_pattern"), node.path("sys/away")).unwrap();
    watch.logs("core_pattern: No such file");
    // A second trouble, noticed, shows that it has tried again with the first.
    fs::write(node.host_dir().join("state.json"), "{").unwrap();
    watch.logs("cannot be understood");
    assert_eq!(watch.log().matches("core_pattern: No such file").count(), 1);
    fs::write(node.host_dir().join("state.json"), state).unwrap();
    fs::rename(node.path("sys/away"), node.path("sys/kernel/core_pattern")).unwrap();
    watch.logs("is collecting again");
    watch.end(Signal::SIGTERM);
}

#[test]
fn run_says_who_it_lost_to_even_if_it_cannot_set_it_back() {
    let node = Node::new();
    node.configure("check_every: 5ms");
    let mut watch = Watch::start(&node);
    fs::rename(node.path("sys/kernel/core_pipe_limit"), node.path("sys/away")).unwrap();
    for found in [FOREIGN, "|/other %p"] {
        node.set("kernel/core_pattern", found);
        watch.logs(&format!("found={found:?}"));
    }
    assert_eq!(watch.log().matches("somebody changed kernel.core_pattern").count(), 2);
    fs::rename(node.path("sys/away"), node.path("sys/kernel/core_pipe_limit")).unwrap();
    watch.logs("is collecting again");
    watch.end(Signal::SIGTERM);
}

#[test]
fn run_blames_nobody_for_what_a_killed_installer_left() {
    let node = Node::new();
    node.configure("check_every: 5ms");
    let mut watch = Watch::start(&node);
    fs::write(node.host_dir().join(".composer.new"), "half a compo").unwrap();
    watch.logs(".composer.new");
    assert!(!watch.log().contains("somebody"), "{}", watch.log());
    watch.end(Signal::SIGTERM);
}

#[test]
fn run_waits_for_no_lock_and_still_gets_it() {
    let node = Node::new();
    node.configure("check_every: 5ms");
    node.furnish();
    let other = File::open(node.host_dir()).unwrap();
    other.lock().unwrap();
    let mut watch = Watch::start_and(&node, "another installer is at work");
    watch.end(Signal::SIGTERM);
    let mut watch = Watch::start_and(&node, "another installer is at work");
    other.unlock().unwrap();
    watch.logs("this node is collecting");
    other.lock().unwrap();
    node.set("kernel/core_pattern", FOREIGN);
    watch.logs(&format!("found={FOREIGN:?}"));
    watch.end(Signal::SIGTERM);
}

#[test]
fn run_ends_at_once_and_leaves_the_node_collecting() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let node = Node::new();
        node.configure("check_every: 10s");
        let mut watch = Watch::start(&node);
        let installed = node.snapshot();
        watch.end(signal);
        assert_eq!(node.snapshot(), installed);
        node.ok(&["status"]);
    }
}

#[test]
fn a_time_zone_that_nobody_knows_is_named_once_and_is_utc() {
    for (zone, offset, named) in [("Europe/Berln", "Z ", 1), ("Europe/Berlin", ":00 ", 0)] {
        let node = Node::new();
        let mut watch =
            Watch::spawn(&node, node.command(&["run"]).env("TZ", zone), "this node is collecting");
        watch.end(Signal::SIGTERM);
        let log = watch.log();
        let warning = format!("TZ is {zone:?}, of which no time zone is known here: times are those of UTC");
        assert_eq!(log.matches(&warning).count(), named, "{log}");
        assert!(log.lines().all(|line| line[..27].contains(offset)), "{log}");
    }
}

#[test]
fn run_that_cannot_install_fails_and_tries_again_where_it_worked_before() {
    let node = Node::new();
    node.configure("check_every: 5ms");
    let (composer, away, missing) =
        (node.path("bin/composer"), node.path("bin/away"), "bin/composer: No such file");
    fs::rename(&composer, &away).unwrap();
    let said = node.fails(1, &["run"]);
    assert!(said.contains(missing), "{said}");
    fs::rename(&away, &composer).unwrap();
    node.ok(&["install"]);
    fs::rename(&composer, &away).unwrap();
    let mut watch = Watch::start_and(&node, missing);
    fs::rename(&away, &composer).unwrap();
    watch.logs("this node is collecting");
    watch.end(Signal::SIGTERM);
    node.ok(&["status"]);
}
