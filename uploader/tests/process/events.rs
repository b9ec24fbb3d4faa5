//! Events on pods, at a stub of the API server that is strict about them.

use std::time::Duration;

use jiff::Timestamp;
use protocol::journal::{Line, Outcome, Skip};
use protocol::manifest::Truncation;
use testbed::kubernetes::{ApiServer, Event, failure};
use testbed::store::{Fault, Store};
use testbed::wait_for;

use crate::monitor::{Watched, append, captured, line, watched};
use crate::spool::{BUCKET, Node, PATIENCE, key, s3};

const SENT: &str = "coredump_events_total{result=\"sent\"}";
const DROPPED: &str = "coredump_events_total{result=\"dropped\"}";
const FAILED: &str = "coredump_events_total{result=\"failed\"}";

/// A node in a cluster; its uploader listens.
fn in_cluster(store: &Store, server: &ApiServer) -> Node {
    let account = server.account().display();
    let mut node = watched(store, &format!("events: true\naccount_dir: {account}\n"));
    server.env().into_iter().for_each(|(name, value)| node.set_env(name, value));
    node.set_env("NODE_NAME", "worker-3".to_owned());
    node
}

/// What just became of a crash in this pod.
fn of(pod: &str, pid: u32, outcome: Outcome) -> Line {
    let container = Some(format!("default/{pod}/main"));
    Line { at: Timestamp::now(), container, pod_uid: Some(format!("uid-{pod}")), ..line(pid, outcome) }
}

fn wait_for_event(server: &ApiServer, pod: &str) -> Event {
    wait_for(&format!("an event on {pod}"), PATIENCE, || {
        server.events().into_iter().find(|event| event.involved_object.name == pod)
    })
}

#[test]
fn each_outcome_is_an_event_on_its_pod() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    let _watched = Watched::start(&node);
    let refused = Outcome::Refused { reason: "copying the core: No space left on device".into() };
    let limited = Outcome::Skipped { reason: Skip::RateLimit };
    for (pid, (pod, outcome, reason, words)) in [
        ("whole", captured(None), "CoreDumped", "5 B of core"),
        ("cut", captured(Some(Truncation::DiskFull)), "CoreDumped", "truncated: disk_full"),
        ("refused", refused, "CoreDumpRefused", "copying the core: No space left on device"),
        ("limited", limited, "CoreDumpRefused", "rate_limit"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = of(pod, pid as u32, outcome);
        append(&node, &line);
        let event = wait_for_event(&server, pod);
        assert_eq!((&*event.reason, &*event.severity, event.count), (reason, "Warning", 1));
        let begin = "\"crasher\" was killed by SIGSEGV; ";
        assert!(event.message.starts_with(begin) && event.message.ends_with(words), "{event:?}");
        assert!(event.message.contains(line.id.as_str()), "{event:?}");
        let about = &event.involved_object;
        assert_eq!((&*about.namespace, &*about.uid), ("default", &*format!("uid-{pod}")));
        assert_eq!(about.field_path, "spec.containers{main}");
        assert_eq!((&*event.source.component, &*event.source.host), ("coredump-handler", "worker-3"));
        assert_eq!(event.last_timestamp.parse::<Timestamp>().unwrap().as_second(), line.at.as_second());
    }
}

#[test]
fn an_upload_is_told_with_bucket_and_key() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    let entry = node.dump(1000);
    let _watched = Watched::start(&node);
    let event = wait_for_event(&server, "crash");
    assert_eq!((&*event.reason, &*event.severity), ("CoreDumpUploaded", "Normal"));
    let place = format!("{} in bucket {BUCKET} at ", key(&entry));
    assert!(event.message.contains(&place), "{event:?}");
    assert!(event.involved_object.uid.starts_with("ebd4"), "{event:?}");
    assert_eq!(store.objects(BUCKET), [key(&entry)]);
}

#[test]
fn a_storm_is_one_event_and_hides_no_other_pod() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    (0..50).for_each(|pid| append(&node, &of("loop", pid, captured(None))));
    append(&node, &of("other", 50, captured(None)));
    let watched = Watched::start(&node);
    wait_for_event(&server, "other");
    assert_eq!(server.events().len(), 2);
    watched.wait_for_metric(SENT, 2.0);
    assert_eq!((watched.metric(DROPPED), watched.metric(FAILED)), (Some(0.0), Some(0.0)));
}

#[test]
fn what_is_counted_old_or_of_no_pod_makes_no_event() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    append(&node, &of("counted", 1, captured(None)));
    let watched = Watched::start(&node);
    watched.wait_for_metric(SENT, 1.0);
    wait_for("the memory", PATIENCE, || node.spool_dir().join("uploader.json").exists().then_some(()));
    watched.daemon.terminate();
    assert!(watched.daemon.wait());

    let hours_ago = Timestamp::now() - jiff::SignedDuration::from_hours(2);
    append(&node, &Line { at: hours_ago, ..of("old", 2, captured(None)) });
    append(&node, &Line { container: None, pod_uid: None, ..of("host", 3, captured(None)) });
    append(&node, &of("unwanted", 4, Outcome::Skipped { reason: Skip::Namespace }));
    append(&node, &of("last", 5, captured(None)));
    let watched = Watched::start(&node);
    wait_for_event(&server, "last");
    watched.wait_for_metric(SENT, 1.0);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_api_server_that_hangs_or_is_down_delays_no_upload() {
    let (store, mut server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    server.set_faults(|_| Some(Fault::Hang));
    let watched = Watched::start(&node);
    append(&node, &of("a", 1, captured(None)));
    wait_for("a request", PATIENCE, || (!server.requests().is_empty()).then_some(()));
    let entry = node.dump(1000);
    node.wait_until_empty();
    assert_eq!((store.objects(BUCKET), watched.metric(SENT)), (vec![key(&entry)], Some(0.0)));
    drop(watched);

    server.clear_faults();
    server.go_down();
    let watched = Watched::start(&node);
    append(&node, &of("b", 2, captured(None)));
    node.dump(1000);
    node.wait_until_empty();
    assert_eq!(watched.metric(SENT), Some(0.0));
    server.come_up();
    wait_for_event(&server, "b");
    wait_for_event(&server, "crash");
}

#[test]
fn a_token_that_was_replaced_is_read_again() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    let _watched = Watched::start(&node);
    append(&node, &of("a", 1, captured(None)));
    wait_for_event(&server, "a");
    server.rotate_token();
    append(&node, &of("b", 2, captured(None)));
    wait_for_event(&server, "b");
    assert_eq!(server.requests().len(), 2);
    // Too late by a moment.
    server.revoke_token();
    append(&node, &of("c", 3, captured(None)));
    wait_for("a request", PATIENCE, || (server.requests().len() > 2).then_some(()));
    server.rotate_token();
    wait_for_event(&server, "c");
}

#[test]
fn what_may_not_be_told_is_tried_once_and_said_once() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    server.answer_all_with(403);
    let watched = Watched::start(&node);
    append(&node, &of("a", 1, captured(None)));
    append(&node, &of("b", 2, captured(None)));
    watched.wait_for_metric(FAILED, 2.0);
    assert_eq!(server.requests().len(), 2);
    let log = watched.daemon.log();
    assert_eq!(log.matches("no event on its pod: the API server answers with 403").count(), 1, "{log}");
    server.clear_faults();
    append(&node, &of("c", 3, captured(None)));
    watched.daemon.wait_for_log("the API server takes events again");
}

#[test]
fn an_api_server_that_is_busy_or_loses_its_answer_has_each_event_once() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    let mut faults =
        [failure(429, "TooManyRequests"), failure(500, "InternalError"), Fault::LoseAnswer].into_iter();
    server.set_faults(move |_| faults.next());
    let watched = Watched::start(&node);
    append(&node, &of("a", 1, captured(None)));
    watched.wait_for_metric(SENT, 1.0);
    assert_eq!((server.events().len(), server.requests().len()), (1, 4));
    assert_eq!(watched.metric(FAILED), Some(0.0));
}

#[test]
fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
    let (store, server) = (Store::temporary(BUCKET), ApiServer::start());
    let node = in_cluster(&store, &server);
    server.set_faults(|_| Some(Fault::Hang));
    (0..300).for_each(|n| append(&node, &of(&format!("pod-{n}"), n, captured(None))));
    let watched = Watched::start(&node);
    // 128 wait, and perhaps one is on its way already.
    let dropped =
        wait_for("what is dropped", PATIENCE, || watched.metric(DROPPED).filter(|dropped| *dropped >= 171.0));
    assert!(dropped <= 172.0, "{dropped}");
    let entry = node.dump(1000);
    node.wait_until_empty();
    assert_eq!(store.objects(BUCKET), [key(&entry)]);
    // Nor does it keep the uploader from ending.
    let asked = std::time::Instant::now();
    watched.daemon.terminate();
    assert!(watched.daemon.wait() && asked.elapsed() < Duration::from_secs(15));
}

#[test]
fn events_outside_of_a_cluster_are_a_mistake_in_the_settings() {
    let node = Node::new(&s3(&Store::temporary(BUCKET), "events: true\n"));
    let output = node.run(&["run"]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    let why = "uploader.yaml: events: KUBERNETES_SERVICE_HOST is not set, as it is in every pod\n";
    assert!(said.ends_with(why), "{said}");
    assert_eq!(said.lines().count(), 1);
}
