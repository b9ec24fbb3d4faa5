//! `make demo` leaves the host as it was, however it ends. Needs root.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use testbed::kernel::{Kernel, Sysctl};
use testbed::{node, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> Child {
    node::dist();
    Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo.sh"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("starting the demo")
}

fn leftovers() -> Vec<PathBuf> {
    let opt = fs::read_dir("/opt").expect("/opt").map(|entry| entry.expect("an entry").path());
    opt.filter(|path| path.to_string_lossy().contains("coredump-demo.")).collect()
}

fn processes_of(group: u32) -> bool {
    killpg(Pid::from_raw(group as i32), None).is_ok()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn it_shows_a_crash_becoming_an_object_and_leaves_the_host_as_it_was() {
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "/var/crash/core.%e");
    let before = Sysctl::ALL.map(Sysctl::read);
    let demo = start();
    let group = demo.id();
    let output = demo.wait_with_output().expect("the demo");
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for shown in ["SIGSEGV", "uploaded dump=", "\"signal_name\": \"SIGSEGV\"", "the host is as it was"] {
        assert!(said.contains(shown), "no {shown:?} in {said}");
    }
    assert_eq!(Sysctl::ALL.map(Sysctl::read), before);
    assert!(leftovers().is_empty(), "{:?}", leftovers());
    assert!(!processes_of(group));
}

#[test]
fn broken_off_it_leaves_the_host_as_it_was() {
    // Ctrl-C and a lost terminal go to the whole group, a kill to the shell
    // alone; a store that dies is a failure half-way.
    type Way = fn(&mut Child);
    let ways: [(&str, Way); 5] = [
        ("Ctrl-C", |demo| killpg(group(demo), Signal::SIGINT).expect("Ctrl-C")),
        ("a lost terminal", |demo| killpg(group(demo), Signal::SIGHUP).expect("SIGHUP")),
        ("a kill", |demo| kill(group(demo), Signal::SIGTERM).expect("SIGTERM")),
        ("nobody to read it", |demo| drop(demo.stdout.take())),
        ("a store that dies", |demo| assert!(signal_store(demo, "KILL"))),
    ];
    for (way, break_off) in ways {
        let kernel = Kernel::lock();
        let before = Sysctl::ALL.map(Sysctl::read);
        let mut demo = start();
        // Without its store it cannot come to its end before it is broken off.
        let listening = |dir: &PathBuf| dir.join("endpoint").exists();
        wait_for("the store", PATIENCE, || leftovers().iter().any(listening).then_some(()));
        assert!(signal_store(&demo, "STOP"));
        wait_for("the demo to install", PATIENCE, || (Sysctl::ALL.map(Sysctl::read) != before).then_some(()));
        break_off(&mut demo);
        let _ = signal_store(&demo, "CONT");
        let ended = wait_for("its end", PATIENCE, || demo.try_wait().expect("the demo"));
        let group = demo.id();
        let said = said(&demo.wait_with_output().expect("what it said"));
        assert!(!ended.success(), "{way}: {said}");
        assert_eq!(Sysctl::ALL.map(Sysctl::read), before, "{way}: {said}");
        assert!(leftovers().is_empty(), "{way}: {said}");
        wait_for("its processes to end", PATIENCE, || (!processes_of(group)).then_some(()));
        drop(kernel);
    }
}

fn group(demo: &Child) -> Pid {
    Pid::from_raw(demo.id() as i32)
}

fn signal_store(demo: &Child, signal: &str) -> bool {
    let mut pkill = Command::new("pkill");
    pkill.arg(format!("-{signal}")).args(["-g", &demo.id().to_string(), "dev-store"]);
    pkill.status().expect("pkill").success()
}
