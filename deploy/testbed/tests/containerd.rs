//! Containers are real, like those of a kubelet, and gone afterwards. Needs
//! root, and the static crasher of `make crasher`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testbed::containerd::{Container, ContainerSpec, Containerd, Pod, PodSpec, Qos};
use testbed::{node, wait_for};

const HOLD: &str = "TESTBED_HOLD_CONTAINERD";

const PATIENCE: Duration = Duration::from_secs(30);

fn crasher<'a>(args: &'a [&'a str]) -> ContainerSpec<'a> {
    ContainerSpec { args, ..ContainerSpec::default() }
}

/// What a crasher says first.
fn said(container: &Container) -> Value {
    let lines = wait_for("a container's first line", PATIENCE, || {
        Some(container.log()).filter(|lines| !lines.is_empty())
    });
    let json = lines[0].strip_prefix("stdout F ").expect("a whole line");
    serde_json::from_str(json).expect("the line is JSON")
}

fn namespace(pid: u32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the process is there")
}

/// Whether a container's namespace is the host's, and whether it is its pod's.
fn shared(pod: &Pod, container: &Container, kind: &str) -> (bool, bool) {
    let of_container = namespace(container.pid(), kind);
    (of_container == namespace(std::process::id(), kind), of_container == namespace(pod.pid(), kind))
}

fn hostname(container: &Container) -> String {
    let pid = container.pid().to_string();
    let hostname = node::run(Command::new("nsenter").args(["--uts", "--target", &pid, "hostname"])).stdout;
    String::from_utf8(hostname).expect("a hostname of ours is text").trim_end().to_owned()
}

#[test]
fn a_container_is_in_its_pods_cgroup_and_its_log_has_what_it_said() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod(&PodSpec::default());
    let long = "x".repeat(40_000);
    let args = ["--until", "/crash", "--stdout", "one\ntwo\n", "--stdout", &long, "--stderr", "last words"];
    let container = pod.run_container(&crasher(&args));

    assert_eq!(pod.cgroup(), format!("/kubepods/besteffort/pod{}", pod.uid()));
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    let cgroup = format!("{}/{}", pod.cgroup(), container.id());
    assert!(cgroups.lines().all(|line| line.ends_with(&format!(":{cgroup}"))), "{cgroups}");
    assert_eq!(said(&container)["pid"], 1);

    container.crash();
    assert_eq!(container.wait_exited(), 139);
    let name = format!("pods/default_web-0_{}/app/0.log", pod.uid());
    assert_eq!(container.log_path(), containerd.path().join(name));
    let log = container.log();
    let of = |stream| log.iter().filter_map(move |line| line.strip_prefix(stream));
    assert_eq!(of("stderr ").collect::<Vec<_>>(), ["P last words"]);
    let stdout: Vec<_> = of("stdout ").skip(1).collect();
    assert_eq!(stdout[..2], ["F one", "F two"]);
    let pieces = stdout[2..].iter().map(|piece| piece.strip_prefix("P ").unwrap());
    assert_eq!(pieces.clone().map(str::len).collect::<Vec<_>>(), [16384, 16384, 7232]);
    assert_eq!(pieces.collect::<String>(), long);
}

#[test]
fn the_child_of_process_1_crashes_and_process_1_goes_on() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod(&PodSpec { qos: Qos::Burstable, ..PodSpec::default() });
    let container = pod.run_container(&crasher(&["--child", "--until", "/crash", "--signal", "ABRT"]));
    assert!(pod.cgroup().starts_with("/kubepods/burstable/pod"), "{}", pod.cgroup());

    assert_ne!(said(&container)["pid"], 1);
    let children = format!("/proc/{0}/task/{0}/children", container.pid());
    let children = || fs::read_to_string(&children).expect("process 1 is there");
    assert_ne!(children(), "");
    container.crash();
    wait_for("the child to be buried", PATIENCE, || children().is_empty().then_some(()));
    assert!(container.is_running());

    container.remove();
    let args = &["--stderr", "last words", "--until", "/crash"];
    let again = ContainerSpec {
        attempt: 1,
        args,
        env: &[("SECRET", "hidden")],
        user: Some(65532),
        tty: true,
        ..ContainerSpec::default()
    };
    let again = pod.run_container(&again);
    let of_process = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", again.pid())).unwrap();
    assert!(of_process("environ").contains("SECRET=hidden\0"));
    assert!(of_process("status").contains("Uid:\t65532"));
    again.crash();
    assert_eq!(again.wait_exited(), 139);
    assert!(again.log_path().ends_with("app/1.log"));
    assert_eq!(again.log().last().unwrap(), "stdout P last words");
    pod.remove();
}

#[test]
fn two_pods_of_one_name_are_two_pods() {
    let containerd = Containerd::start();
    let [one, other] = ["default", "other"].map(|namespace| {
        let pod = containerd.run_pod(&PodSpec { namespace, qos: Qos::Guaranteed, ..PodSpec::default() });
        let container = pod.run_container(&crasher(&["--stdout", namespace]));
        assert_eq!(container.wait_exited(), 139);
        assert!(container.log().contains(&format!("stdout P {namespace}")));
        (pod, container)
    });
    assert_ne!(one.0.uid(), other.0.uid());
    assert_ne!(one.0.cgroup(), other.0.cgroup());
    assert_ne!(one.1.id(), other.1.id());
    assert_ne!(one.1.log_path(), other.1.log_path());

    // What is captured is what was asked about.
    let captured = containerd.capture(&other.0, &other.1);
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    for captured in &captured {
        assert!(!captured.answer.is_empty(), "{}", captured.method);
        let (about_one, about_other) =
            (has(&captured.answer, one.0.uid()), has(&captured.answer, other.0.uid()));
        match captured.method {
            "RuntimeService/ListPodSandbox" | "RuntimeService/ListContainers" => {
                assert!(about_one && about_other);
            }
            "RuntimeService/PodSandboxStatus" | "RuntimeService/ContainerStatus" => {
                assert!(!about_one && about_other);
            }
            method => assert!(!about_one && !about_other, "{method}"),
        }
    }
}

#[test]
fn a_pod_shares_what_it_asks_for() {
    let containerd = Containerd::start();
    let waiting = crasher(&["--until", "/crash"]);

    let hostname_of_its_own = PodSpec { name: "own", hostname: Some("elsewhere"), ..PodSpec::default() };
    let pod = containerd.run_pod(&hostname_of_its_own);
    let container = pod.run_container(&waiting);
    assert_eq!(hostname(&container), "elsewhere");
    assert_eq!(shared(&pod, &container, "net"), (false, true));
    assert_eq!(shared(&pod, &container, "pid"), (false, false));

    let pod = containerd.run_pod(&PodSpec { name: "net", host_network: true, ..PodSpec::default() });
    let container = pod.run_container(&waiting);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(hostname(&container), host);
    assert_eq!(shared(&pod, &container, "net"), (true, true));

    let pod = containerd.run_pod(&PodSpec { name: "pid", host_pid: true, ..PodSpec::default() });
    let container = pod.run_container(&waiting);
    assert_eq!(said(&container)["pid"], container.pid());
    assert_eq!(shared(&pod, &container, "pid"), (true, true));

    let sharing = PodSpec { name: "share", share_process_namespace: true, ..PodSpec::default() };
    let pod = containerd.run_pod(&sharing);
    let container = pod.run_container(&crasher(&["--until", "/crash", "--signal", "BUS"]));
    assert_eq!(shared(&pod, &container, "pid"), (false, true));
    container.crash();
    assert_eq!(container.wait_exited(), 128 + 7);
}

/// False also of a zombie: of its command line nothing is left.
fn runs(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|cmdline| !cmdline.is_empty())
}

/// What there may be of a containerd in a directory.
fn remains(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("its name is text");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<_> = mounts.lines().filter(|line| line.contains(dir)).map(str::to_owned).collect();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let cmdline = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&cmdline).into_owned();
        found.extend(Some(cmdline).filter(|cmdline| cmdline.contains(dir)));
    }
    found.extend(fs::exists(dir).unwrap().then(|| dir.to_owned()));
    found
}

/// The same of a pod of which the cgroup is known.
fn inhabitants(cgroup: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let hierarchies = hierarchies.chain(["/sys/fs/cgroup".into()]);
    let path = |hierarchy: PathBuf| hierarchy.join(cgroup.trim_start_matches('/'));
    hierarchies.map(path).filter(|path| path.exists()).collect()
}

#[test]
fn nothing_is_left_when_it_is_dropped() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod(&PodSpec::default());
    let container = pod.run_container(&crasher(&["--child", "--until", "/crash"]));
    let (dir, cgroup, pid) = (containerd.path().to_owned(), pod.cgroup().to_owned(), container.pid());
    assert!(!remains(&dir).is_empty() && !inhabitants(&cgroup).is_empty());
    drop(containerd);
    assert_eq!(remains(&dir), [""; 0]);
    assert_eq!(inhabitants(&cgroup), [""; 0].map(PathBuf::from));
    assert!(!runs(pid as i32));
}

/// A process with a containerd, to be killed: its directory and a pod's cgroup.
struct Holder {
    process: std::process::Child,
    dir: PathBuf,
    cgroup: String,
}

impl Holder {
    fn start() -> Holder {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_one_that_is_killed", "--nocapture"])
            .env(HOLD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.filter_map(|line| Some(line.split_once("it is in ")?.1.to_owned())).next();
        let said = said.expect("the holder says where it is");
        let (dir, cgroup) = said.split_once(' ').expect("two paths");
        let (dir, cgroup) = (PathBuf::from(dir), cgroup.to_owned());
        assert!(!remains(&dir).is_empty() && !inhabitants(&cgroup).is_empty());
        Holder { process, dir, cgroup }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        assert_eq!(self.process.wait().unwrap().signal(), Some(9));
    }

    fn is_gone(&self) -> bool {
        remains(&self.dir).is_empty() && inhabitants(&self.cgroup).is_empty()
    }
}

#[test]
fn nothing_is_left_when_the_test_is_killed() {
    let mut holder = Holder::start();
    holder.kill();
    wait_for("the watchdog", PATIENCE, || holder.is_gone().then_some(()));
}

#[test]
fn the_next_one_clears_away_what_has_no_watchdog() {
    let mut holder = Holder::start();
    let dir = holder.dir.to_str().unwrap();
    let watchdog = node::run(Command::new("pgrep").args(["-f", &format!("^/bin/sh.*watchdog {dir}")])).stdout;
    let watchdog: i32 = String::from_utf8(watchdog).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(watchdog), Signal::SIGKILL).unwrap();
    wait_for("the end of the watchdog", PATIENCE, || (!runs(watchdog)).then_some(()));
    holder.kill();
    drop(Containerd::start());
    // Another test's may have been the first to see it, and is at it.
    wait_for("the next one", PATIENCE, || holder.is_gone().then_some(()));
}

/// No test of its own: what the others run and kill.
#[test]
fn the_one_that_is_killed() {
    if std::env::var_os(HOLD).is_some() {
        let containerd = Containerd::start();
        let pod = containerd.run_pod(&PodSpec::default());
        let _container = pod.run_container(&crasher(&["--until", "/crash"]));
        println!("it is in {} {}", containerd.path().display(), pod.cgroup());
        io::stdin().read_line(&mut String::new()).unwrap();
    }
}
