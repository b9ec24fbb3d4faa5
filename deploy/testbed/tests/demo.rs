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
    // Ctrl-C goes to the whole group, a kill to the shell alone, and a store
    // that dies is a failure half-way.
    let ctrl_c = |group: Pid| killpg(group, Signal::SIGINT).expect("Ctrl-C");
    let terminate = |shell: Pid| kill(shell, Signal::SIGTERM).expect("SIGTERM");
    let kill_store = |group: Pid| {
        let group = group.to_string();
        let pkill = Command::new("pkill").args(["-KILL", "-g", &group, "dev-store"]).status();
        assert!(pkill.expect("pkill").success());
    };
    let ways: [&dyn Fn(Pid); 3] = [&ctrl_c, &terminate, &kill_store];
    for break_off in ways {
        let kernel = Kernel::lock();
        let before = Sysctl::ALL.map(Sysctl::read);
        let mut demo = start();
        let group = demo.id();
        wait_for("the demo to install", PATIENCE, || (Sysctl::ALL.map(Sysctl::read) != before).then_some(()));
        break_off(Pid::from_raw(group as i32));
        let ended = wait_for("its end", PATIENCE, || demo.try_wait().expect("the demo"));
        let output = demo.wait_with_output().expect("what it said");
        assert!(!ended.success(), "{}", said(&output));
        assert_eq!(Sysctl::ALL.map(Sysctl::read), before, "{}", said(&output));
        assert!(leftovers().is_empty(), "{:?}", leftovers());
        wait_for("its processes to end", PATIENCE, || (!processes_of(group)).then_some(()));
        drop(kernel);
    }
}
