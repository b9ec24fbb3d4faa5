//! A real containerd, for as long as a test wants one, with pods that are
//! described to it as a kubelet does.
//!
//! As with [the kernel's settings](crate::kernel) it is a watchdog that takes
//! everything away, processes, mounts, cgroups and files, when a pipe closes:
//! after a test that passed, one that panicked and one that was killed. What
//! even the watchdog did not live to see the next [`Containerd::start`] finds.

mod client;
mod config;
mod container;
mod cri;
mod home;
mod image;
mod pod;
mod spec;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;
use prost::Message;

use self::client::Client;
pub use self::container::Container;
use self::cri::{Id, ImageSpec, ImageStatusRequest, ImageStatusResponse, StatusRequest};
use self::home::Home;
pub use self::pod::Pod;
pub use self::spec::{ContainerSpec, Mount, PodSpec, Qos, Security};
use crate::{node, wait_for};

/// It takes less than a second, on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A containerd of its own, with private directories and socket. It is gone
/// when dropped, with all its pods; so it is when the test is killed.
pub struct Containerd {
    runtime: Arc<Runtime>,
    home: Home,
    daemon: Option<Child>,
    snapshotter: &'static str,
}

/// What its pods and containers need of it.
struct Runtime {
    dir: PathBuf,
    socket: PathBuf,
    client: Client,
}

impl Containerd {
    /// Starts one that has the images it needs, and panics with the end of its
    /// log if that cannot be.
    pub fn start() -> Containerd {
        assert!(geteuid().is_root(), "only root may run containers: run this test as root");
        let crasher = crasher();
        let home = Home::new();
        let dir = home.path().to_owned();
        let socket = dir.join("containerd.sock");
        let client = Client::new(&socket);
        let runtime = Arc::new(Runtime { dir, socket, client });
        // From here on all goes away even if something panics.
        let snapshotter = config::write(&runtime.dir, &runtime.socket);
        let mut containerd = Containerd { runtime, home, daemon: None, snapshotter };
        containerd.start_daemon();
        let archive = containerd.path().join("images.tar");
        fs::write(&archive, image::archive(&crasher)).expect("the archive of images");
        containerd.import(&archive, &[image::PAUSE, image::CRASHER]);
        containerd
    }

    /// The socket of its CRI.
    pub fn socket(&self) -> &Path {
        &self.runtime.socket
    }

    /// Where everything of it lies.
    pub fn path(&self) -> &Path {
        &self.runtime.dir
    }

    /// Makes a pod. It stays until it is removed, or the containerd goes.
    pub fn run_pod(&self, spec: &PodSpec<'_>) -> Pod {
        Pod::run(Arc::clone(&self.runtime), spec)
    }

    /// What is asked when a container has crashed, and the answers byte for
    /// byte: what a fixture is made of.
    pub fn capture(&self, pod: &Pod, container: &Container) -> Vec<Captured> {
        let about = |id: &str| StatusRequest { id: id.to_owned(), verbose: true }.encode_to_vec();
        let image = ImageStatusRequest { image: Some(crasher_image()), verbose: true };
        let questions = [
            ("RuntimeService/Version", Vec::new()),
            ("RuntimeService/ListPodSandbox", Vec::new()),
            ("RuntimeService/ListContainers", Vec::new()),
            ("RuntimeService/PodSandboxStatus", about(pod.id())),
            ("RuntimeService/ContainerStatus", about(container.id())),
            ("ImageService/ImageStatus", image.encode_to_vec()),
        ];
        let ask = |(method, request): (&'static str, Vec<u8>)| {
            let answer = self.runtime.client.call_raw(method, request.clone());
            let answer = answer.unwrap_or_else(|status| panic!("{method}: {status}"));
            Captured { method, request, answer }
        };
        questions.into_iter().map(ask).collect()
    }

    fn start_daemon(&mut self) {
        let log = File::create(self.log()).expect("containerd's log");
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(config::path(self.path()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .process_group(0) // Ctrl-C is for the test, and then it is the watchdog's turn
            .spawn();
        let daemon = self.daemon.insert(daemon.expect("starting containerd, which `make tools` installs"));
        let version = || self.runtime.client.call_raw("RuntimeService/Version", Vec::new());
        wait_for("containerd", PATIENCE, || {
            let ended = daemon.try_wait().expect("containerd is our child");
            assert!(ended.is_none(), "containerd ended: {ended:?}");
            version().ok()
        });
    }

    /// Takes over the images of an archive in the format of OCI, which have these
    /// names.
    pub fn import(&self, archive: &Path, names: &[&str]) {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io", "images", "import"]);
        node::run(ctr.args(["--snapshotter", self.snapshotter]).arg(archive));
        for name in names {
            wait_for("CRI to hear of an image", PATIENCE, || self.runtime.image_id(name));
        }
    }

    fn log(&self) -> PathBuf {
        self.path().join("containerd.log")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read(self.log()).unwrap_or_default();
            eprintln!("the end of containerd's log:\n{}", last_lines(&String::from_utf8_lossy(&log), 30));
        }
        let nothing_is_left = self.home.leave();
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.wait();
        }
        if !thread::panicking() {
            assert!(nothing_is_left, "something is left of {}", self.path().display());
        }
    }
}

impl Runtime {
    /// Tells the watchdog, before anything is in it.
    fn remember_cgroup(&self, cgroup: &str) {
        let file = File::options().append(true).create(true).open(self.dir.join(home::CGROUPS));
        file.and_then(|mut file| writeln!(file, "{cgroup}")).expect("the list of cgroups");
    }

    fn image_id(&self, name: &str) -> Option<String> {
        let image = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        let status: ImageStatusResponse = self.client.call("ImageService/ImageStatus", &request);
        status.image.map(|Id { id }| id)
    }
}

/// A question and its answer, both of them messages of CRI.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Such as `RuntimeService/ContainerStatus`.
    pub method: &'static str,
    /// What was asked.
    pub request: Vec<u8>,
    /// What was answered.
    pub answer: Vec<u8>,
}

fn crasher_image() -> ImageSpec {
    ImageSpec { image: image::CRASHER.to_owned(), ..ImageSpec::default() }
}

/// The static crasher, of which the images are made.
fn crasher() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/test/crasher");
    assert!(path.is_file(), "{} is not there: run `make crasher` first", path.display());
    path
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
