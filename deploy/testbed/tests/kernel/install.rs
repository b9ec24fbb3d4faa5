//! The installer, the kernel's own settings and a composer that runs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::journal::{Outcome, Skip};
use protocol::spool::State;
use testbed::kernel::{Kernel, Sysctl};
use testbed::node::{self, Node};
use testbed::wait_for;

use crate::{Collecting, Mounted, PATIENCE, Running};
use testbed::crash::Crasher;

fn output(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn uninstalling_gives_the_kernel_back_what_it_had() {
    let node = Node::new("suid_dumpable: 2\n");
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "/var/crash/core.%e.%p");
    kernel.set(Sysctl::CorePipeLimit, "7");
    let before = Sysctl::ALL.map(Sysctl::read);
    node::run(&mut node.installer(["install"]));
    assert!(output(&mut node.installer(["install"])).1.is_empty(), "the second time changes nothing");
    assert!(Sysctl::CorePattern.read().starts_with(&format!("|{}/composer ", node.host_dir().display())));
    assert_eq!((Sysctl::CorePipeLimit.read(), Sysctl::SuidDumpable.read()), ("256".into(), "2".into()));
    node::run(&mut node.installer(["status"]));
    let [trial] = &node.journal()[..] else { panic!("{:?}", node.journal()) };
    assert_eq!(trial.outcome, Outcome::Skipped { reason: Skip::Trial });
    assert!(node.spool().list().unwrap().is_empty(), "and no dump");
    node::run(&mut node.installer(["uninstall"]));
    assert_eq!(Sysctl::ALL.map(Sysctl::read), before);
    assert!(!node.host_dir().join("composer").exists());
    assert!(!output(&mut node.installer(["status"])).0);
}

#[test]
fn run_takes_the_kernel_back_and_leaves_it_collecting() {
    let node = Node::new("");
    let kernel = Kernel::lock();
    let run = Running::start(node.installer(["run"]));
    let ours = format!("|{}/composer ", node.host_dir().display());
    let collecting = || Sysctl::CorePattern.read().starts_with(&ours).then_some(());
    wait_for("the installer", PATIENCE, || output(&mut node.installer(["status"])).0.then_some(()));
    kernel.set(Sysctl::CorePattern, "|/usr/lib/systemd/systemd-coredump %P");
    fs::remove_file(node.host_dir().join("composer")).unwrap();
    let repaired = || collecting().filter(|()| node.host_dir().join("composer").exists());
    wait_for("the repair", PATIENCE, repaired);
    let said = run.terminate();
    assert!(said.contains("|/usr/lib/systemd/systemd-coredump %P"), "{said}");
    Crasher::start(["--heap-mb", "1"]).crash();
    node.wait_for_ready(1, PATIENCE);
}

/// The composer of a node that is at work.
fn composer_at_work(node: &Node) -> Option<Pid> {
    let composer = node.host_dir().join("composer");
    let mut pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let exe = fs::read_link(entry.path().join("exe")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        exe.starts_with(&composer).then_some(Pid::from_raw(pid))
    });
    pids.next()
}

#[test]
fn a_composer_is_replaced_while_it_runs_and_both_do_their_work() {
    let node = Node::new("");
    let _kernel = Kernel::lock();
    // An earlier release: the same installer, beside a composer of other bytes.
    let earlier = tempfile::tempdir_in("/tmp").unwrap();
    let dist = node::dist().canonicalize().unwrap();
    fs::copy(dist.join("composer"), earlier.path().join("composer")).unwrap();
    let mut composer = OpenOptions::new().append(true).open(earlier.path().join("composer")).unwrap();
    composer.write_all(b"an earlier release").unwrap();
    drop(composer);
    fs::copy(dist.join("installer"), earlier.path().join("installer")).unwrap();
    let mut install = Command::new(earlier.path().join("installer"));
    node::run(install.arg("install").arg("--config").arg(node.installer_yaml()));

    let mut crasher = Crasher::start(["--heap-mb", "256", "--fill", "random"]);
    crasher.let_go();
    let at_work = wait_for("a composer at work", PATIENCE, || {
        node.dumps(State::Part).pop().and_then(|_| composer_at_work(&node))
    });
    // So that it cannot be done before it has been replaced.
    kill(at_work, Signal::SIGSTOP).unwrap();
    let (done, said) = output(&mut node.installer(["install"]));
    assert!(done && said.contains("put our composer into place"), "{said}");
    assert_eq!(node.dumps(State::Part).len(), 1, "it was still running");
    assert_eq!(fs::read(node.host_dir().join("composer")).unwrap(), fs::read(dist.join("composer")).unwrap());
    Crasher::start(["--heap-mb", "1"]).crash();
    kill(at_work, Signal::SIGCONT).unwrap();
    crasher.crash();
    for entry in node.wait_for_ready(2, PATIENCE) {
        assert_eq!(node.open(&entry).manifest().core.truncated, None);
    }
}

/// A release whose composer the kernel does not execute.
struct Broken(tempfile::TempDir);

impl Broken {
    fn new() -> Broken {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        fs::copy(node::dist().join("installer"), dir.path().join("installer")).unwrap();
        fs::write(dir.path().join("composer"), b"\x7fELF\x02\x01\x01 of another machine").unwrap();
        Broken(dir)
    }

    fn installer(&self, node: &Node, command: &str) -> Command {
        let mut installer = Command::new(self.0.path().join("installer"));
        installer.args([command, "--config"]).arg(node.installer_yaml());
        installer
    }
}

#[test]
fn a_node_whose_kernel_does_not_run_the_composer_is_what_it_was_and_says_why() {
    let node = Node::new("suid_dumpable: 2\n");
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "/var/crash/core.%e.%p");
    let before = Sysctl::ALL.map(Sysctl::read);
    // A node that is a container has directories that the kernel would look for in vain.
    let root = tempfile::tempdir_in("/tmp").unwrap();
    for dir in [node.host_dir(), node.spool_dir()] {
        fs::create_dir_all(root.path().join(dir.strip_prefix("/").unwrap())).unwrap();
    }
    let mut elsewhere = Command::new(node::dist().join("installer"));
    elsewhere.args(["install", "--config"]).arg(node.installer_yaml()).arg("--host-root").arg(root.path());
    // Another processor's.
    let broken = Broken::new();
    let mut run = broken.installer(&node, "run");
    for (root, command) in [(root.path(), &mut elsewhere), (Path::new("/"), &mut run)] {
        let (done, said) = output(command);
        assert!(!done && said.contains("the kernel does not run"), "{said}");
        assert!(said.contains("this node is what it was before"), "{said}");
        let (done, said) = output(command);
        assert!(!done && said.contains("and is left alone for an hour"), "{said}");
        assert_eq!(Sysctl::ALL.map(Sysctl::read), before);
        let host_dir = root.join(node.host_dir().strip_prefix("/").unwrap());
        let left: Vec<_> = fs::read_dir(host_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["trial.json"]);
    }
    // Another composer may be run.
    node::run(&mut node.installer(["install"]));
    node::run(&mut node.installer(["uninstall"]));
    let host_dir = node.host_dir();
    fs::create_dir_all(&host_dir).unwrap();
    let _noexec = Mounted::bind(&host_dir, "noexec");
    let (done, said) = output(&mut node.installer(["install"]));
    assert!(!done && said.contains("mounted noexec"), "{said}");
    assert!(fs::read_dir(&host_dir).unwrap().next().is_none(), "nothing was begun");
}

#[test]
fn a_node_that_was_never_seen_to_work_is_given_back_also_by_the_installer_after_one_that_was_killed() {
    let node = Node::new("");
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "/var/crash/core.%e.%p");
    let before = Sysctl::ALL.map(Sysctl::read);
    let broken = Broken::new();
    let settings = fs::read_to_string(node.installer_yaml()).unwrap();
    let shared = settings.replace(node.spool_dir().to_str().unwrap(), "/var/tmp");
    for (settings_then, why) in [(&settings, "the kernel does not run"), (&shared, "others share it")] {
        fs::write(node.installer_yaml(), &settings).unwrap();
        let mut killed = broken.installer(&node, "install").spawn().unwrap();
        wait_for("its trial", PATIENCE, || node.host_dir().join("trial.name").exists().then_some(()));
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(Sysctl::CorePattern.read().starts_with('|'), "it was killed in time");
        fs::write(node.installer_yaml(), settings_then).unwrap();
        let (done, said) = output(&mut broken.installer(&node, "install"));
        assert!(!done && said.contains(why) && said.contains("this node is what it was before"), "{said}");
        assert_eq!(Sysctl::ALL.map(Sysctl::read), before);
        assert!(!node.host_dir().join("state.json").exists() && !node.host_dir().join("trial.name").exists());
        node::run(&mut broken.installer(&node, "uninstall"));
    }
}

#[test]
fn a_first_installation_that_is_not_whole_is_given_back_before_it_takes_anything() {
    let node = Node::new("");
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "/var/crash/core.%e.%p");
    let before = Sysctl::ALL.map(Sysctl::read);
    let host_dir = node.host_dir();
    let _small = Mounted::tmpfs(&host_dir, "size=1m,mode=711"); // the composer has seven
    let (done, said) = output(&mut node.installer(["install"]));
    assert!(!done && said.contains("No space left") && said.contains("what it was before"), "{said}");
    assert!(!said.contains("set kernel."), "{said}");
    assert_eq!(Sysctl::ALL.map(Sysctl::read), before);
    assert!(!host_dir.join("state.json").exists());
}

#[test]
fn what_a_trial_that_was_killed_leaves_is_in_nobodys_way() {
    let node = Node::new("");
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "core");
    node.install();
    for name in [".trial.name.new", ".trial.json.new", "trial.name", "trial.json"] {
        fs::write(node.host_dir().join(name), "half").unwrap();
    }
    node::run(&mut node.installer(["install"]));
    node::run(&mut node.installer(["status"]));
    let mut left: Vec<_> =
        fs::read_dir(node.host_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["composer", "composer.yaml", "state.json", "trial.json"]);
}

#[test]
fn who_calls_itself_a_trial_is_dumped_like_anybody() {
    let collecting = Collecting::new("");
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let program = dir.path().join("trial-0123456ab");
    fs::copy(node::program("crasher"), &program).unwrap();
    Crasher::start_with(Command::new(program)).crash();
    assert_eq!(collecting.dump().manifest().crash.comm, Some("trial-0123456ab".into()));
}

#[test]
fn an_update_that_the_kernel_does_not_run_stays_until_one_comes_that_it_does() {
    let node = Node::new("");
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CorePattern, "core");
    node.install();
    let broken = Broken::new();
    let run = Running::start(broken.installer(&node, "run"));
    let mut status = broken.installer(&node, "status");
    let said = wait_for("the reason", PATIENCE, || {
        Some(output(&mut status)).filter(|(ok, said)| !ok && said.contains("the kernel does not run"))
    });
    assert!(said.1.contains("this node is not collecting: kernel: the kernel does not run"), "{said:?}");
    let said = run.terminate();
    assert!(said.contains("this node may not be collecting: the kernel does not run"), "{said}");
    node::run(&mut node.installer(["install"]));
    node::run(&mut node.installer(["status"]));
}

#[test]
fn the_self_test_passes_where_crashes_are_collected_and_says_why_not_elsewhere() {
    let collecting = Collecting::new("");
    let node = &collecting.node;
    let (passed, said) = output(&mut node.installer(["self-test"]));
    assert!(passed, "{said}");
    node.wait_for_ready(1, PATIENCE);

    // A composer that the kernel cannot start.
    let host_dir = node.host_dir();
    let _noexec = Mounted::bind(&host_dir, "noexec");
    for command in ["status", "self-test"] {
        let (passed, said) = output(&mut node.installer([command]));
        assert!(!passed && said.contains("mounted noexec"), "{command}: {said}");
    }
}

#[test]
fn what_the_uploader_left_in_the_spool_leads_the_composer_nowhere() {
    let collecting = Collecting::new("");
    let spool = collecting.node.spool_dir();
    let target = collecting.node.path().join("target");
    fs::write(&target, "precious").unwrap();
    // It may remove what is there, and put something else.
    symlink(&target, spool.join("crashes.jsonl")).unwrap();
    Crasher::start(["--heap-mb", "1"]).crash();
    assert_eq!(collecting.dump().manifest().core.truncated, None);
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}
