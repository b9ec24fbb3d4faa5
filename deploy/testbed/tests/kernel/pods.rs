//! Whose crash it was, asked of a real containerd.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use protocol::journal::{Outcome, Skip};
use protocol::manifest::{Attribution, Manifest};
use serde_json::Value;
use testbed::containerd::{ContainerSpec, Containerd, Pod, PodSpec, Qos};
use testbed::node::Dump;
use testbed::wait_for;

use crate::cgroup::{CONTAINER_ID, ContainerCgroup};
use crate::{Collecting, Mounted, PATIENCE, peak_memory, unzip_approves};
use testbed::crash::Crasher;

const CRICTL: [&str; 6] =
    ["pods.json", "ps.json", "inspect.json", "inspectp.json", "inspecti.json", "logs.txt"];

/// A node that collects, and asks this runtime.
fn collecting(containerd: &Containerd, settings: &str) -> Collecting {
    let socket = containerd.socket();
    Collecting::new(&format!("composer: {{cri_timeout: 60s, cri_socket: {}{settings}}}", socket.display()))
}

/// All dumps, by the ids of their containers.
fn dumps_of(collecting: &Collecting, count: usize) -> BTreeMap<String, (String, Dump, Manifest)> {
    let ready = collecting.node.wait_for_ready(count, PATIENCE);
    let open = |name: String| {
        let path = collecting.node.spool_dir().join(&name);
        unzip_approves(&path);
        let mut dump = Dump::open(&path);
        let manifest = dump.manifest();
        let Attribution::Present(container) = &manifest.container else { panic!("{name}: {manifest:?}") };
        (container.id.clone(), (name, dump, manifest))
    };
    ready.iter().map(|entry| open(entry.to_string())).collect()
}

fn json(dump: &mut Dump, name: &str) -> Value {
    let text = dump.entry(&format!("crictl/{name}"));
    serde_json::from_slice(&text).unwrap_or_else(|err| panic!("{name}: {err}"))
}

/// What is in the spool.
fn files(collecting: &Collecting) -> Vec<String> {
    let files = fs::read_dir(collecting.node.spool_dir()).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// One crash, and whose it is.
struct Crash {
    what: &'static str,
    pod: Pod,
    id: String,
    names: [String; 3],
    attempt: u32,
    /// How many containers the pod has, or had.
    containers: usize,
}

#[test]
fn a_container_that_keeps_crashing_is_dumped_no_more_than_it_may() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, ", keep_free: 64MiB, rate_limit: {burst: 2, every: 1h}");
    let pod = containerd.run_pod(&PodSpec::default());
    for attempt in 0..5 {
        let container = pod.run_container(&ContainerSpec { attempt, ..ContainerSpec::default() });
        assert_eq!(container.wait_exited(), 128 + 11);
        wait_for("its line", PATIENCE, || {
            (collecting.node.journal().len() == attempt as usize + 1).then_some(())
        });
    }
    let other = pod.run_container(&ContainerSpec { name: "other", ..ContainerSpec::default() });
    assert_eq!(other.wait_exited(), 128 + 11);
    wait_for("its line", PATIENCE, || (collecting.node.journal().len() == 6).then_some(()));
    let lines = collecting.node.journal();
    let names: Vec<_> = lines.iter().map(|line| line.container.clone().unwrap()).collect();
    assert!(names[..5].iter().all(|name| *name == names[0]) && names[5] != names[0], "{names:?}");
    for (n, line) in lines.iter().enumerate() {
        match n {
            0 | 1 | 5 => assert!(matches!(line.outcome, Outcome::Captured { .. }), "{n}: {line:?}"),
            _ => assert_eq!(line.outcome, Outcome::Skipped { reason: Skip::RateLimit }, "{n}"),
        }
    }
    assert_eq!(dumps_of(&collecting, 3).len(), 3);
}

#[test]
fn it_is_the_right_container_whatever_the_pod_is_like() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, "");
    let long = "a-pod-whose-name-is-longer-than-a-hostname-may-be-".to_owned() + "0123456789abcdefghij";
    assert_eq!(long.len(), 70);
    let static_uid = "5f4bdea6e4a5f9d2e8c10b7a6d3c2f19";
    let plain = PodSpec::default();
    let crasher = ContainerSpec::default();
    let pause = ContainerSpec { name: "steady", args: &["--pause"], ..crasher };
    let mut crashes = Vec::new();
    let mut crash =
        |what: &'static str, spec: PodSpec<'_>, before: &[ContainerSpec<'_>], of: ContainerSpec<'_>| {
            let pod = containerd.run_pod(&spec);
            before.iter().for_each(|other| drop(pod.run_container(other)));
            let words = format!("last words of {what}\n");
            let args = [of.args, &["--stderr", &words]].concat();
            let container = pod.run_container(&ContainerSpec { args: &args, ..of });
            if !of.args.contains(&"--child") {
                assert_eq!(container.wait_exited(), 128 + 11, "{what}");
            }
            crashes.push(Crash {
                what,
                id: container.id().to_owned(),
                names: [spec.namespace, spec.name, of.name].map(str::to_owned),
                attempt: of.attempt,
                containers: before.len() + 1,
                pod,
            });
        };
    crash("a plain pod", plain, &[], crasher);
    crash("the same name elsewhere", PodSpec { namespace: "other", ..plain }, &[], crasher);
    crash("hostNetwork", PodSpec { name: "hostnet", host_network: true, ..plain }, &[], crasher);
    crash("hostPID", PodSpec { name: "hostpid", host_pid: true, ..plain }, &[], crasher);
    crash("spec.hostname", PodSpec { name: "named", hostname: Some("web-0"), ..plain }, &[], crasher);
    crash("a long name", PodSpec { name: &long, hostname: Some(&long[..63]), ..plain }, &[], crasher);
    let sidecar = ContainerSpec { name: "sidecar", ..crasher };
    crash("a sidecar", PodSpec { name: "sidecars", qos: Qos::Burstable, ..plain }, &[pause], sidecar);
    let again = ContainerSpec { name: "init", attempt: 2, ..crasher };
    crash("an init container", PodSpec { name: "init", ..plain }, &[], again);
    let child = ContainerSpec { args: &["--child"], ..crasher };
    crash("a child of process 1", PodSpec { name: "parent", qos: Qos::Guaranteed, ..plain }, &[], child);
    crash(
        "another user",
        PodSpec { name: "user", ..plain },
        &[],
        ContainerSpec { user: Some(1000), ..crasher },
    );
    crash("a static pod", PodSpec { name: "static-node", uid: Some(static_uid), ..plain }, &[], crasher);
    let shared = PodSpec { name: "shared", share_process_namespace: true, ..plain };
    crash("one process namespace", shared, &[pause], sidecar);

    let mut dumps = dumps_of(&collecting, crashes.len());
    assert_eq!(dumps.len(), crashes.len());
    for Crash { what, pod, id, names, attempt, containers } in &crashes {
        let (file, dump, manifest) = dumps.get_mut(id).unwrap_or_else(|| panic!("no dump of {what}"));
        let found = manifest.container.present().unwrap();
        assert_eq!([&found.pod.namespace, &found.pod.name, &found.name], names.each_ref(), "{what}");
        assert_eq!((found.pod.uid.as_str(), found.attempt), (pod.uid(), *attempt), "{what}");
        assert_eq!(found.image, "localhost/crasher:latest", "{what}");
        assert!(found.image_ref.starts_with("sha256:"), "{what}: {}", found.image_ref);
        assert!(manifest.trusted && manifest.core.truncated.is_none(), "{what}");
        assert_eq!(manifest.problems, [""; 0], "{what}");
        let hint = names.iter().map(|name| name.chars().take(20).collect()).collect::<Vec<String>>();
        assert!(
            hint.iter().all(|part| file.contains(part)) && file.ends_with("_SIGSEGV.zip"),
            "{what}: {file}"
        );

        let pods = json(dump, "pods.json");
        assert_eq!(pods["items"].as_array().unwrap().len(), 1, "{what}");
        assert_eq!(pods["items"][0]["id"], pod.id(), "{what}");
        let ps = json(dump, "ps.json");
        assert_eq!(ps["containers"].as_array().unwrap().len(), *containers, "{what}");
        assert!(ps["containers"].as_array().unwrap().iter().any(|other| other["id"] == **id), "{what}");
        let inspect = json(dump, "inspect.json");
        assert_eq!(inspect["status"]["id"], **id, "{what}");
        // Not exited: it is held. One that crashes at once may do so before
        // containerd has noted that it runs.
        let state = &inspect["status"]["state"];
        assert!(state == "CONTAINER_RUNNING" || state == "CONTAINER_CREATED", "{what}: {state}");
        assert_eq!(inspect["info"]["sandboxID"], pod.id(), "{what}");
        assert_eq!(json(dump, "inspectp.json")["status"]["metadata"]["uid"], pod.uid(), "{what}");
        assert_eq!(
            json(dump, "inspecti.json")["status"]["repoTags"][0],
            "localhost/crasher:latest",
            "{what}"
        );
        let logs = String::from_utf8(dump.entry("crictl/logs.txt")).unwrap();
        assert!(logs.contains(&format!(" stderr F last words of {what}\n")), "{what}: {logs}");
    }
    assert!(
        collecting.node.journal().iter().any(|line| line.container.as_deref() == Some("other/web-0/app"))
    );
}

#[test]
fn what_nobody_wants_leaves_a_line_and_nothing_else() {
    let containerd = Containerd::start();
    let settings = ", namespaces: {exclude: [kube-*]}, labels: {include: [team], exclude: [tier=batch]}";
    let collecting = collecting(&containerd, settings);
    let big = ContainerSpec { args: &["--heap-mb", "400"], ..ContainerSpec::default() };
    let team = ("team", "a");
    let opted_out = [("coredump-handler/capture", "false")];
    for (namespace, labels, annotations, reason) in [
        ("kube-system", &[team][..], &[][..], Skip::Namespace),
        ("default", &[], &[], Skip::Label),
        ("default", &[team, ("tier", "batch")], &[], Skip::Label),
        ("default", &[team], &opted_out, Skip::Annotation),
    ] {
        let lines = collecting.node.journal().len();
        let pod = containerd.run_pod(&PodSpec { namespace, labels, annotations, ..PodSpec::default() });
        let container = pod.run_container(&big);
        assert_eq!(container.wait_exited(), 128 + 11);
        let line = wait_for("a line in the journal", PATIENCE, || {
            let journal = collecting.node.journal();
            (journal.len() > lines).then(|| journal.last().unwrap().clone())
        });
        assert_eq!(line.outcome, Outcome::Skipped { reason });
        assert_eq!(line.container, Some(format!("{namespace}/web-0/app")));
        assert_eq!(line.pod_uid.as_deref(), Some(pod.uid()));
        pod.remove();
        assert_eq!(files(&collecting), ["crashes.jsonl"]);
    }
    let wanted = containerd.run_pod(&PodSpec { labels: &[team, ("tier", "web")], ..PodSpec::default() });
    wanted.run_container(&ContainerSpec::default()).wait_exited();
    let dumps = dumps_of(&collecting, 1);
    let (_, _, manifest) = dumps.values().next().unwrap();
    let labels = &manifest.container.present().unwrap().pod.labels;
    assert_eq!(
        labels.iter().map(|(key, value)| (&**key, &**value)).collect::<Vec<_>>(),
        [team, ("tier", "web")]
    );
}

#[test]
fn what_the_container_chose_stays_json_and_its_secrets_stay_out() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, "");
    let huge = "x".repeat(256 << 10);
    let nasty = "quote\" newline\n backslash\\ \u{2028} \u{7f} <script>";
    let applied = r#"{"spec":{"containers":[{"env":[{"name":"SECRET","value":"hidden"}],"name":"app"}]}}"#;
    let annotations =
        [("huge", &*huge), ("nasty", nasty), ("kubectl.kubernetes.io/last-applied-configuration", applied)];
    // containerd takes 4 KiB for one label, and any number of them.
    let many: Vec<_> = (0..30).map(|n| format!("label-{n}")).collect();
    let label = |key| (key, &huge[..4000]);
    let labels: Vec<_> = many.iter().map(|key| label(&**key)).chain([("nasty", nasty)]).collect();
    let pod =
        containerd.run_pod(&PodSpec { labels: &labels, annotations: &annotations, ..PodSpec::default() });
    let env = [("SECRET", "hidden"), ("NASTY", nasty)];
    let spec =
        ContainerSpec { env: &env, labels: &labels, annotations: &annotations, ..ContainerSpec::default() };
    let container = pod.run_container(&spec);
    container.wait_exited();
    let mut dumps = dumps_of(&collecting, 1);
    let (_, dump, manifest) = dumps.get_mut(container.id()).unwrap();
    assert_eq!(manifest.container.present().unwrap().pod.labels["nasty"], nasty);
    assert_eq!(manifest.problems, [""; 0]);
    for name in &CRICTL[..5] {
        let text = json(dump, name).to_string();
        assert!(!text.contains("hidden"), "{name}");
        assert_eq!(text.contains("SECRET"), !matches!(*name, "inspecti.json"), "{name}");
    }
    assert_eq!(json(dump, "pods.json")["items"][0]["annotations"]["huge"], *huge);
    let inspect = json(dump, "inspect.json");
    let envs = inspect["info"]["config"]["envs"].as_array().unwrap();
    assert!(envs.iter().any(|env| env["key"] == "SECRET" && env["value"] == "<redacted>"), "{envs:?}");
    let peak = peak_memory(dump);
    println!("{peak} KiB with annotations of 256 KiB");
    assert!(peak < 32 << 10, "{peak} KiB");

    // The same in small pieces, which take more memory than room.
    let tiny: Vec<_> = (0..35_000).map(|n| format!("{n}")).collect();
    let labels: Vec<_> = tiny.iter().map(|key| (&**key, "")).collect();
    let pod = containerd.run_pod(&PodSpec { name: "tiny", labels: &labels, ..PodSpec::default() });
    let container = pod.run_container(&ContainerSpec::default());
    container.wait_exited();
    let mut dumps = dumps_of(&collecting, 2);
    let (_, dump, manifest) = dumps.get_mut(container.id()).unwrap();
    let kept = manifest.container.present().unwrap().pod.labels.len();
    assert!((1000..35_000).contains(&kept));
    assert_eq!(manifest.problems, [format!("the manifest has {kept} of 35000 labels")]);
    let peak = peak_memory(dump);
    println!("{peak} KiB with 35,000 labels");
    assert!(peak < 32 << 10, "{peak} KiB");
}

#[test]
fn whose_crash_there_is_no_room_for_is_asked_all_the_same() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, ", spool_max_bytes: 20MiB, namespaces: {exclude: [other]}");
    let full = collecting.node.spool_dir().join("20261122T193101Z-1-00000000.zip");
    fs::write(full, vec![1; 20 << 20]).unwrap();
    for (lines, namespace, reason) in [(1, "default", Skip::SpoolFull), (2, "other", Skip::Namespace)] {
        let pod = containerd.run_pod(&PodSpec { namespace, ..PodSpec::default() });
        pod.run_container(&ContainerSpec::default()).wait_exited();
        wait_for("a line in the journal", PATIENCE, || {
            (collecting.node.journal().len() == lines).then_some(())
        });
        let line = collecting.node.journal().pop().unwrap();
        assert_eq!(line.outcome, Outcome::Skipped { reason });
        assert_eq!(line.container, Some(format!("{namespace}/web-0/app")));
        assert_eq!(line.pod_uid.as_deref(), Some(pod.uid()));
        pod.remove();
    }
}

#[test]
fn a_full_disk_does_not_keep_what_nobody_wants() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, ", namespaces: {exclude: [default]}");
    let spool = collecting.node.spool_dir();
    let _small = Mounted::tmpfs(&spool, "size=80m,mode=2770");
    let spec = ContainerSpec { args: &["--heap-mb", "64", "--fill", "random"], ..ContainerSpec::default() };
    containerd.run_pod(&PodSpec::default()).run_container(&spec).wait_exited();
    let line = wait_for("a line in the journal", PATIENCE, || collecting.node.journal().pop());
    assert_eq!(line.outcome, Outcome::Skipped { reason: Skip::Namespace });
    assert_eq!(files(&collecting), ["crashes.jsonl"]);
}

#[test]
fn the_log_has_what_was_said_last_even_if_the_line_never_ended() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, ", log_lines: 4");
    let pod = containerd.run_pod(&PodSpec::default());
    let long = format!("{}\n", "long ".repeat(10_000));
    let args = ["--stdout", &long, "--stdout", "out\n", "--stderr", "panic: without a newline"];
    let container = pod.run_container(&ContainerSpec { args: &args, ..ContainerSpec::default() });
    container.wait_exited();
    let mut dumps = dumps_of(&collecting, 1);
    let (_, dump, _) = dumps.get_mut(container.id()).unwrap();
    let logs = String::from_utf8(dump.entry("crictl/logs.txt")).unwrap();
    let said: Vec<_> = logs.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let mut expected = vec![format!("stdout F {}", long.trim_end_matches('\n')), "stdout F out".to_owned()];
    // containerd had it from the pipe that broke, and marks it as a part of a line.
    expected.push("stderr P panic: without a newline".to_owned());
    // Two streams are two pipes: their order is the runtime's.
    for line in &expected {
        assert!(said.contains(&line.as_str()), "{logs}");
    }
    assert_eq!(said.len(), 4, "{logs}");
}

/// A directory of a runtime that this machine does not have, or had when a test
/// was killed.
struct Runtime(PathBuf);

impl Runtime {
    fn at(dir: &str) -> Runtime {
        let ours = Path::new(dir).join("coredump-handler-test");
        if ours.exists() {
            fs::remove_dir_all(dir).unwrap();
        }
        fs::create_dir(dir).unwrap_or_else(|err| panic!("{dir}, of a runtime nobody tests on: {err}"));
        fs::write(ours, "").unwrap();
        Runtime(dir.into())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_runtime_is_found_where_one_may_be_also_beside_one_that_hangs() {
    let collecting = Collecting::new("");
    let containerd = Containerd::start();
    let [k0s, crio] = ["/run/k0s", "/run/crio"].map(Runtime::at);
    symlink(containerd.socket(), k0s.0.join("containerd.sock")).unwrap();
    let _mute = UnixListener::bind(crio.0.join("crio.sock")).unwrap();
    let container = containerd.run_pod(&PodSpec::default()).run_container(&ContainerSpec::default());
    container.wait_exited();
    let dumps = dumps_of(&collecting, 1);
    let (_, _, manifest) = &dumps[container.id()];
    assert_eq!(manifest.problems, [""; 0]);
}

#[test]
fn of_a_container_the_runtime_has_forgotten_its_pod_is_told() {
    let containerd = Containerd::start();
    let collecting = collecting(&containerd, "");
    let pod = containerd.run_pod(&PodSpec { uid: Some(crate::cgroup::POD_UID), ..PodSpec::default() });
    let cgroup = ContainerCgroup::new();
    let crasher = Crasher::start(["--heap-mb", "1"]);
    cgroup.take(crasher.pid);
    crasher.crash();
    let mut dump = collecting.dump();
    let manifest = dump.manifest();
    let Attribution::Missing { reason, id, pod_uid } = &manifest.container else { panic!("{manifest:?}") };
    assert!(reason.contains(&format!("does not know container {CONTAINER_ID}")), "{reason}");
    assert_eq!((id.as_deref(), pod_uid.as_deref()), (Some(CONTAINER_ID), Some(pod.uid())));
    assert_eq!(json(&mut dump, "pods.json")["items"][0]["id"], pod.id());
    assert_eq!(json(&mut dump, "inspectp.json")["status"]["id"], pod.id());
    assert_eq!(json(&mut dump, "ps.json")["containers"], Value::Array(vec![]));
}
