//! What `run` makes of its end in a cluster: the API server is a stub, all else
//! is real.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::kubernetes::{ApiServer, DAEMON_SET};
use testbed::store::Fault;

use crate::node::Node;
use crate::watch::Watch;

/// What is said when our DaemonSet was seen, and when it was not.
const SEEN: &str = "removing this DaemonSet will give this node back";
const NOT_SEEN: &str = "removing this DaemonSet would not give this node back, as things are: ";
/// Half of what Kubernetes gives a pod, for the rest of it.
const IN_TIME: Duration = Duration::from_secs(15);

/// What somebody does to a cluster.
type Change = fn(&ApiServer);

/// The settings of a pod of our DaemonSet.
fn settings(server: &ApiServer) -> String {
    format!("check_every: 1s\ndaemon_set: {DAEMON_SET}\naccount_dir: {}", server.account().display())
}

fn command(node: &Node, server: &ApiServer) -> Command {
    let mut command = node.command(&["run"]);
    command.envs(server.env());
    command
}

/// A node that collects, in whose log are these words.
fn collecting(server: &ApiServer, words: &str) -> (Node, Watch) {
    let node = Node::new();
    node.configure(&settings(server));
    let watch = Watch::spawn(&node, &mut command(&node, server), words);
    watch.logs("this node is collecting");
    (node, watch)
}

/// Does something to a cluster whose installer runs, ends that, and sees that
/// nothing has changed on the node; returns the last line of the log.
fn stays(change: impl FnOnce(&mut ApiServer)) -> String {
    let mut server = ApiServer::start();
    let (node, mut watch) = collecting(&server, SEEN);
    let installed = node.snapshot();
    change(&mut server);
    assert!(watch.end_in_time(Signal::SIGTERM) < IN_TIME);
    assert_eq!(node.snapshot(), installed, "{}", watch.log());
    last_line(&watch)
}

fn last_line(watch: &Watch) -> String {
    watch.log().lines().last().unwrap().to_owned()
}

#[test]
fn who_removes_the_collector_gets_the_node_back() {
    let cases: [(Change, &str); 5] = [
        (ApiServer::delete_daemon_set, "its DaemonSet is gone"),
        (ApiServer::begin_to_delete_daemon_set, "its DaemonSet is being deleted"),
        (ApiServer::begin_to_delete_namespace, "its namespace is being deleted"),
        (ApiServer::revoke_token, "its account is revoked (401)"),
        (|server| server.answer_all_with(403), "its account is revoked (403)"),
    ];
    thread::scope(|scope| {
        for (remove, why) in cases {
            scope.spawn(move || {
                let server = ApiServer::start();
                let before = Node::new().snapshot().into_values().collect::<Vec<_>>();
                let (node, mut watch) = collecting(&server, SEEN);
                remove(&server);
                assert!(watch.end_in_time(Signal::SIGTERM) < IN_TIME);
                let log = watch.log();
                assert!(log.contains(&format!("giving this node back: {why}\n")), "{log}");
                assert!(node.snapshot().into_values().eq(before), "{log}");
            });
        }
    });
}

#[test]
fn a_node_that_worked_is_given_back_also_by_an_installer_that_could_not_install() {
    let server = ApiServer::start();
    let before = Node::new().snapshot().into_values().collect::<Vec<_>>();
    let (node, mut watch) = collecting(&server, SEEN);
    watch.end_in_time(Signal::SIGTERM);
    fs::remove_file(node.path("bin/composer")).unwrap();
    let mut watch = Watch::spawn(&node, &mut command(&node, &server), SEEN);
    assert!(watch.log().contains("this node may not be collecting: "), "{}", watch.log());
    node.fails(1, &["status"]);
    server.delete_daemon_set();
    assert!(watch.end_in_time(Signal::SIGTERM) < IN_TIME);
    assert!(node.snapshot().into_values().eq(before), "{}", watch.log());
}

#[test]
fn a_restart_an_update_and_a_drain_leave_the_node_collecting() {
    let line = stays(|_| {});
    assert!(line.ends_with("ended; what is installed stays: its DaemonSet stays"), "{line}");
    // The token that was there at the start is worth nothing any more.
    let line = stays(|server| server.rotate_token());
    assert!(line.ends_with("its DaemonSet stays"), "{line}");
}

#[test]
fn an_api_server_that_does_not_tell_leaves_the_node_collecting() {
    type Trouble = fn(&mut ApiServer);
    let cases: [(Trouble, &str); 9] = [
        (|server| server.answer_all_with(500), "answers with 500"),
        (|server| server.answer_all_with(429), "answers with 429"),
        (|server| server.answer_all_with(409), "answers with 409"),
        (|server| server.answer_all_with(410), "answers with 410"),
        // Not the API's own, which has another reason.
        (|server| server.answer_all_with(404), "answers with 404"),
        (|server| server.set_faults(|_| Some(Fault::Hang)), "operation timed out"),
        (ApiServer::go_down, "Connection refused"),
        (|server| server.forge_authority(), "invalid peer certificate"),
        (|server| fs::remove_file(server.account().join("token")).unwrap(), "/token: No such file"),
    ];
    thread::scope(|scope| {
        for (trouble, why) in cases {
            scope.spawn(move || {
                let line = stays(trouble);
                let stays = "ended; what is installed stays: whether it is removed cannot be told: ";
                assert!(line.contains(stays) && line.contains(why), "{why}: {line}");
            });
        }
    });
}

#[test]
fn an_api_server_that_is_back_within_seconds_is_heard() {
    let mut asked = 0;
    let line = stays(|server| {
        server.set_faults(move |_| {
            asked += 1;
            (asked < 4).then_some(Fault::Disconnect)
        });
    });
    assert!(line.ends_with("its DaemonSet stays"), "{line}");
}

#[test]
fn what_was_never_seen_is_not_gone_and_it_is_said_from_the_start() {
    let missing = |server: &ApiServer| server.delete_daemon_set();
    let cases: [(Change, &str); 3] = [
        (missing, "no DaemonSet of this name was ever there"),
        (ApiServer::revoke_token, "we were never allowed to ask about it (401)"),
        (|server| server.answer_all_with(403), "we were never allowed to ask about it (403)"),
    ];
    thread::scope(|scope| {
        for (change, why) in cases {
            scope.spawn(move || {
                let server = ApiServer::start();
                change(&server);
                let (node, mut watch) = collecting(&server, &format!("{NOT_SEEN}{why}"));
                let installed = node.snapshot();
                assert!(watch.end_in_time(Signal::SIGTERM) < IN_TIME);
                assert_eq!(node.snapshot(), installed);
                let line = last_line(&watch);
                assert!(line.ends_with(&format!("what is installed stays: {why}")), "{line}");
            });
        }
    });
}

#[test]
fn an_api_server_that_is_down_keeps_no_node_from_collecting() {
    let mut server = ApiServer::start();
    server.go_down();
    let (node, mut watch) = collecting(&server, NOT_SEEN);
    let installed = node.snapshot();
    server.come_up();
    assert!(watch.end_in_time(Signal::SIGTERM) < IN_TIME);
    assert_eq!(node.snapshot(), installed);
    assert!(last_line(&watch).ends_with("its DaemonSet stays"));
}

#[test]
fn a_person_at_a_terminal_is_not_taken_for_a_removal() {
    let server = ApiServer::start();
    let (node, mut watch) = collecting(&server, SEEN);
    let (installed, asked) = (node.snapshot(), server.requests().len());
    server.delete_daemon_set();
    watch.end_in_time(Signal::SIGINT);
    assert_eq!((node.snapshot(), server.requests().len()), (installed, asked));
}

#[test]
fn a_daemon_set_outside_of_a_cluster_is_a_mistake_in_the_settings() {
    let server = ApiServer::start();
    let node = Node::new();
    let before = node.snapshot();
    node.configure(&settings(&server));
    let said = node.fails(64, &["run"]);
    assert_eq!(said, "installer: daemon_set: KUBERNETES_SERVICE_HOST is not set, as it is in every pod\n");
    fs::remove_file(server.account().join("token")).unwrap();
    let output = command(&node, &server).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("installer: daemon_set: /") && said.contains("/token: No such file"), "{said}");
    assert_eq!(node.snapshot(), before);
    // Whoever cleans a node by hand needs no cluster.
    node.ok(&["uninstall"]);
}
