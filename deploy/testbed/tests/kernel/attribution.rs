//! Whose crash it was, as far as it can be told without a runtime that answers.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use protocol::argv::CorePattern;
use protocol::host::HostPath;
use protocol::journal::{Line, Outcome, Skip};
use protocol::manifest::{Attribution, Truncation};
use testbed::kernel::Sysctl;
use testbed::node;
use testbed::wait_for;

use crate::cgroup::{CONTAINER_ID, ContainerCgroup, POD_UID};
use crate::{Collecting, PATIENCE};
use testbed::crash::Crasher;

#[test]
fn a_container_whose_runtime_does_not_answer_has_its_id_and_its_pods_uid() {
    let collecting = Collecting::new("composer: {cri_socket: /nowhere/cri.sock, namespaces: {include: [a]}}");
    let cgroup = ContainerCgroup::new();
    let crasher = Crasher::start(["--heap-mb", "1"]);
    cgroup.take(crasher.pid);
    crasher.crash();
    let manifest = collecting.dump().manifest();
    let Attribution::Missing { reason, id, pod_uid } = &manifest.container else { panic!("it is there") };
    assert!(
        reason.starts_with("/nowhere/cri.sock: ") && reason.contains("No such file or directory"),
        "{reason}"
    );
    assert_eq!((id.as_deref(), pod_uid.as_deref()), (Some(CONTAINER_ID), Some(POD_UID)));
    assert!(manifest.trusted);
    assert_eq!(manifest.core.truncated, None);
    let problems = manifest.problems.join("\n");
    assert!(problems.contains(reason) && problems.contains("could not be decided"), "{problems}");
    let line = journal(&collecting);
    assert_eq!((line.container.as_deref(), line.pod_uid.as_deref()), (Some(CONTAINER_ID), Some(POD_UID)));
}

#[test]
fn the_hosts_crashes_are_left_out_if_only_pods_are_wanted() {
    let collecting = Collecting::new("composer: {capture: pods, cri_socket: /nowhere/cri.sock}");
    Crasher::start(["--heap-mb", "256"]).end();
    let line = journal(&collecting);
    assert_eq!(line.outcome, Outcome::Skipped { reason: Skip::NotAPod });
    let left: Vec<_> = fs::read_dir(collecting.node.spool_dir()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the journal and nothing else: {left:?}");

    node::run(&mut collecting.node.installer(["self-test"]));

    let cgroup = ContainerCgroup::new();
    let crasher = Crasher::start(["--heap-mb", "1"]);
    cgroup.take(crasher.pid);
    crasher.crash();
    assert!(collecting.dump().manifest().container.present().is_none());
}

/// Its main thread ends, and another one crashes.
const LEADERLESS: &str = r#"
    #include <pthread.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    static pthread_t leader;
    static void *crash(void *unused) {
        pthread_join(leader, NULL);
        getchar();
        abort();
    }
    int main(void) {
        pthread_t other;
        leader = pthread_self();
        pthread_create(&other, NULL, crash, NULL);
        pthread_exit(NULL);
    }
"#;

#[test]
fn a_process_whose_main_thread_has_ended_is_known_as_well() {
    // In /proc/<pid> it has no memory and, with cgroup v1, no cgroup any more.
    let collecting = Collecting::new("composer: {cri_socket: /nowhere/cri.sock}");
    let [source, program] = ["leaderless.c", "leaderless"].map(|name| collecting.node.path().join(name));
    fs::write(&source, LEADERLESS).unwrap();
    node::run(Command::new("cc").arg("-o").arg(&program).arg(&source).arg("-pthread"));
    let cgroup = ContainerCgroup::new();
    let mut child = Command::new(&program).env("SECRET", "hidden").stdin(Stdio::piped()).spawn().unwrap();
    cgroup.take(child.id());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().core_dumped());
    let mut dump = collecting.dump();
    let manifest = dump.manifest();
    assert!(manifest.trusted, "{:?}", manifest.problems);
    assert_ne!(manifest.crash.pid, manifest.crash.tid);
    assert!(matches!(&manifest.container, Attribution::Missing { id: Some(id), .. } if id == CONTAINER_ID));
    assert_eq!(manifest.crash.exe.unwrap().to_string(), program.to_str().unwrap());
    assert_eq!(manifest.crash.cmdline.unwrap().len(), 1);
    let environ = String::from_utf8(dump.entry("proc/environ")).unwrap();
    assert!(environ.contains("SECRET=<redacted>"), "{environ}");
}

/// The last line of the journal.
fn journal(collecting: &Collecting) -> Line {
    wait_for("the journal", PATIENCE, || collecting.node.journal().pop())
}

#[test]
fn a_pid_that_is_anothers_by_now_is_believed_nothing() {
    for with_pidfd in [true, false] {
        let collecting = Collecting::new("composer: {cri_socket: /nowhere/cri.sock}");
        let (called, go) = (collecting.node.path().join("called"), collecting.node.path().join("go"));
        let late = collecting.node.path().join("late");
        let wait = format!(": > {}\nwhile [ ! -e {} ]; do sleep 0.02; done", called.display(), go.display());
        let script =
            format!("#!/bin/sh\n{wait}\nexec {}/composer \"$@\"\n", collecting.node.host_dir().display());
        fs::write(&late, script).unwrap();
        fs::set_permissions(&late, PermissionsExt::from_mode(0o755)).unwrap();
        let helper = HostPath::try_from(late.to_str().unwrap()).unwrap();
        let mut pattern = CorePattern::piping_to(&helper).unwrap().to_string();
        if !with_pidfd {
            pattern = pattern.replace(" F%F", "");
        }
        collecting.kernel.set(Sysctl::CorePattern, &pattern);

        // It dies before the composer has begun, and somebody gets its pid.
        let cgroup = ContainerCgroup::new();
        let mut crasher = Crasher::start(["--heap-mb", "8"]);
        let pid = crasher.pid;
        crasher.let_go();
        wait_for("the kernel to call", PATIENCE, || called.exists().then_some(()));
        crasher.kill();
        assert_eq!(crasher.end().signal(), Some(9));
        let newcomer = Newcomer::with_pid(pid);
        cgroup.take(pid);
        fs::write(go, "").unwrap();

        let mut dump = collecting.dump();
        let manifest = dump.manifest();
        assert!(!manifest.trusted, "{manifest:?}");
        let Attribution::Missing { reason, id: None, pod_uid: None } = &manifest.container else {
            panic!("{:?}", manifest.container)
        };
        let said = if with_pidfd { "was gone before" } else { "is not dumping core" };
        assert!(reason.contains(said), "{reason}");
        assert!(manifest.problems.iter().any(|problem| problem.contains(said)), "{:?}", manifest.problems);
        assert_eq!((&manifest.crash.exe, &manifest.crash.cmdline), (&None, &None));
        assert_eq!(manifest.core.truncated, Some(Truncation::KilledWhileDumping));
        let names = dump.names();
        assert!(
            !names.iter().any(|name| name.starts_with("proc/") || name.starts_with("crictl/")),
            "{names:?}"
        );
        drop(newcomer);
    }
}

/// A process with a pid that was another's.
struct Newcomer(Child);

impl Newcomer {
    fn with_pid(pid: u32) -> Newcomer {
        // Others start processes, too.
        wait_for("a pid to be used again", PATIENCE, || {
            let mut last = OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid").unwrap();
            write!(last, "{}", pid - 1).unwrap();
            let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
            let newcomer = Newcomer(child);
            (newcomer.0.id() == pid).then_some(newcomer)
        })
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_runtime_that_hangs_holds_the_crashed_process_no_longer_than_none_at_all() {
    let collecting = Collecting::new("");
    let cgroup = ContainerCgroup::new();
    let socket = collecting.node.path().join("mute.sock");
    let _mute = UnixListener::bind(&socket).unwrap();
    let yaml = collecting.node.host_dir().join("composer.yaml");
    let spool = collecting.node.spool_dir();
    let mut held = [vec![], vec![]];
    for round in 0..2 * 9 {
        let socket = [socket.to_str().unwrap(), "/nowhere/cri.sock"][round % 2];
        let spool_dir = spool.display();
        let settings =
            format!("spool_dir: {spool_dir}\nkeep_free: 64MiB\ncri_socket: {socket}\ncri_timeout: 2s\n");
        fs::write(&yaml, settings).unwrap();
        let crasher = Crasher::start(["--heap-mb", "64"]);
        cgroup.take(crasher.pid);
        let began = Instant::now();
        crasher.crash();
        held[round % 2].push(began.elapsed());
        // The next one has the machine for itself.
        let mut dump =
            node::Dump::open(&spool.join(collecting.node.wait_for_ready(1, PATIENCE)[0].to_string()));
        let reason = format!("{:?}", dump.manifest().container);
        let said = ["no answer within 2s", "No such file or directory"][round % 2];
        assert!(reason.contains(said), "{reason}");
        collecting.node.wait_for_ready(1, PATIENCE).iter().for_each(|entry| {
            fs::remove_file(spool.join(entry.to_string())).unwrap();
        });
    }
    let [hung, none] = held.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    });
    println!(
        "held: {:.0} ms with a runtime that hangs, {:.0} ms without one, {:.2} times as long",
        hung * 1e3,
        none * 1e3,
        hung / none
    );
    // Waiting for it would take two seconds; a busy machine takes its time.
    assert!(hung < none * 1.5 + 0.5, "{hung} s, {none} s");
}
