//! Which container it was: its runtime is asked while the core is copied, and
//! has so long to answer. The core does not wait for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use protocol::host::HostPath;
use protocol::journal::Skip;
use protocol::manifest::Attribution;
use protocol::settings::{ComposerSettings, CriSocket};
use tokio::task::JoinSet;

use crate::cgroup::PodCgroup;
use crate::cri::message::{self, ContainerFilter, ListPodSandboxResponse, PodSandbox, PodSandboxFilter};
use crate::cri::{Runtime, json};
use crate::logs::Log;
use crate::{account, selection};

/// Where runtimes listen if nobody told them otherwise: containerd, CRI-O,
/// cri-dockerd, k3s and RKE2, k0s, MicroK8s.
const WELL_KNOWN: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
/// The deadline is kept within the lookup, but not while a file system hangs.
const GRACE: Duration = Duration::from_millis(500);

/// A lookup under way.
pub struct Lookup {
    who: PodCgroup,
    deadline: Deadline,
    skip: Arc<OnceLock<Skip>>,
    findings: Receiver<Findings>,
}

/// What the runtime said.
pub struct Findings {
    /// The container, or why it is not known.
    pub container: Attribution,
    /// Why the crash is not to be captured, if it is not.
    pub skip: Option<Skip>,
    /// What crictl would print.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// The container's log, to be read when it has said its last.
    pub log: Option<Log>,
    /// What of it is not here, and why.
    pub problems: Vec<String>,
}

impl Findings {
    /// Nothing, for this reason, of a process whose cgroup says `who` it is.
    pub fn missing(who: Option<&PodCgroup>, reason: String) -> Findings {
        let id = who.and_then(|who| who.container_id.clone());
        let container = Attribution::Missing { reason, id, pod_uid: who.map(|who| who.pod_uid.clone()) };
        Findings { container, skip: None, files: vec![], log: None, problems: vec![] }
    }

    /// The same, where nobody can say whether the crash is wanted either.
    pub fn undecided(who: Option<&PodCgroup>, reason: String) -> Findings {
        let problems = vec![
            format!("the container is not known: {reason}"),
            "whether this crash is wanted could not be decided, so it was captured".to_owned(),
        ];
        Findings { problems, ..Findings::missing(who, reason) }
    }
}

impl Lookup {
    /// Begins to ask.
    pub fn start(who: PodCgroup, settings: &ComposerSettings) -> Lookup {
        let deadline = Deadline::new(settings.cri_timeout);
        let skip = Arc::new(OnceLock::new());
        let (sender, findings) = mpsc::sync_channel(1);
        let question =
            Question { who: who.clone(), settings: settings.clone(), deadline, skip: Arc::clone(&skip) };
        let answer = sender.clone();
        let thread = thread::Builder::new().name("lookup".to_owned());
        if let Err(err) = thread.spawn(move || drop(answer.send(question.ask()))) {
            let _ = sender.send(Findings::undecided(Some(&who), format!("starting a thread: {err}")));
        }
        Lookup { who, deadline, skip, findings }
    }

    /// Why the crash is not to be captured, if that is known by now.
    pub fn skip(&self) -> Option<&Skip> {
        self.skip.get()
    }

    /// What was found. Returns soon after the deadline at the latest.
    pub fn wait(self) -> Findings {
        let left = self.deadline.at.saturating_duration_since(Instant::now());
        let reason = match self.findings.recv_timeout(left + GRACE) {
            Ok(findings) => return findings,
            Err(RecvTimeoutError::Timeout) => "the lookup is stuck",
            Err(RecvTimeoutError::Disconnected) => "the lookup panicked; see the kernel's log",
        };
        Findings::undecided(Some(&self.who), reason.to_owned())
    }
}

/// All the lookup's thread knows.
struct Question {
    who: PodCgroup,
    settings: ComposerSettings,
    deadline: Deadline,
    skip: Arc<OnceLock<Skip>>,
}

/// Who knows the container, and what it said at first.
struct Found {
    runtime: Runtime,
    container: Option<message::Container>,
    pods: ListPodSandboxResponse,
    sandbox: PodSandbox,
}

impl Question {
    fn ask(self) -> Findings {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.answer()),
            Err(err) => Findings::undecided(Some(&self.who), format!("starting the lookup: {err}")),
        }
    }

    async fn answer(&self) -> Findings {
        let found = match self.find(sockets(&self.settings.cri_socket)).await {
            Ok(found) => found,
            Err(why) => return Findings::undecided(Some(&self.who), why),
        };
        let skip = selection::skip(&found.sandbox, &self.settings);
        if let Some(skip) = &skip {
            // First of all: the crashed process need not be held any longer.
            let _ = self.skip.set(skip.clone());
        }
        let mut findings = match &found.container {
            Some(container) => {
                let container = account::attributed(container, &found.sandbox);
                Findings {
                    container: Attribution::Present(container),
                    ..Findings::missing(None, String::new())
                }
            }
            None => {
                let why = self.no_container(&found.sandbox);
                let problems = vec![format!("the container is not known: {why}")];
                Findings { problems, ..Findings::missing(Some(&self.who), why) }
            }
        };
        findings.skip = skip;
        if findings.skip.is_none() {
            self.collect(found, &mut findings).await;
        }
        findings
    }

    /// Asks everybody there is, at once: one that hangs must not hide another
    /// that knows.
    async fn find(&self, sockets: Vec<HostPath>) -> Result<Found, String> {
        let mut asked = JoinSet::new();
        for socket in sockets {
            let (who, deadline) = (self.who.clone(), self.deadline);
            asked.spawn(async move {
                let found = deadline.keep(find_at(&socket, &who)).await;
                found.map_err(|why| format!("{socket}: {why}"))
            });
        }
        let mut reasons = Vec::new();
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(|err| err.to_string()).flatten() {
                Ok(found) => return Ok(found),
                Err(why) => reasons.push(why),
            }
        }
        match reasons.is_empty() {
            true => Err(format!("no container runtime listens at {}", WELL_KNOWN.join(", "))),
            false => Err(reasons.join("; ")),
        }
    }

    fn no_container(&self, sandbox: &PodSandbox) -> String {
        match &self.who.container_id {
            Some(id) if *id == sandbox.id => "it is the pod's sandbox, which is no container".to_owned(),
            Some(id) => format!("the runtime does not know container {id} any more"),
            None => "the process is in the pod's cgroup, and in no container's".to_owned(),
        }
    }

    /// All else there is to know, as far as it comes in time.
    async fn collect(&self, found: Found, findings: &mut Findings) {
        let Found { runtime, container, pods, sandbox } = found;
        let redact = self.settings.redact_environ;
        let of_pod = ContainerFilter { pod_sandbox_id: sandbox.id.clone(), ..ContainerFilter::default() };
        let id = container.as_ref().map(|container| container.id.clone());
        let image = container.as_ref().map(|container| container.image_ref.clone());
        let (siblings, status, sandbox, image) = tokio::join!(
            self.deadline.keep(runtime.containers(of_pod)),
            self.deadline.keep(async { runtime.container(id.ok_or("there is no container")?).await }),
            self.deadline.keep(runtime.sandbox(sandbox.id)),
            self.deadline.keep(async { runtime.image(image.ok_or("there is no container")?).await }),
        );
        if let (Attribution::Present(container), Ok(status)) = (&mut findings.container, &status) {
            account::name_image(container, status);
        }
        if let Some(status) = status.as_ref().ok().and_then(|answer| answer.status.as_ref()) {
            match Log::open(Path::new(&status.log_path), &status.id) {
                _ if self.settings.log_lines == 0 => {}
                Ok(log) => findings.log = Some(log),
                Err(why) => findings.problems.push(format!("no crictl/logs.txt: {why}")),
            }
        }
        for (name, content) in [
            ("pods.json", Ok(json::pods(&pods, redact))),
            ("ps.json", siblings.map(|answer| json::ps(&answer, redact))),
            ("inspect.json", status.map(|answer| json::inspect(&answer, redact))),
            ("inspectp.json", sandbox.map(|answer| json::inspectp(&answer, redact))),
            ("inspecti.json", image.map(|answer| json::inspecti(&answer))),
        ] {
            match content {
                Ok(content) => findings.files.push((name, content)),
                Err(why) => findings.problems.push(format!("no crictl/{name}: {why}")),
            }
        }
    }
}

/// When everything has to be over, and how long that was from the beginning.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    span: Duration,
}

impl Deadline {
    fn new(span: Duration) -> Deadline {
        Deadline { at: Instant::now() + span, span }
    }

    async fn keep<T>(self, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let late = || Err(format!("no answer within {:?}", self.span));
        tokio::time::timeout_at(self.at.into(), answer).await.unwrap_or_else(|_| late())
    }
}

/// Where to ask.
fn sockets(setting: &CriSocket) -> Vec<HostPath> {
    match setting {
        CriSocket::At(socket) => vec![socket.clone()],
        CriSocket::Auto => {
            let there = WELL_KNOWN.into_iter().filter(|path| Path::new(path).exists());
            there.filter_map(|path| HostPath::try_from(path).ok()).collect()
        }
    }
}

/// What the runtime at `socket` knows of the container, or of its pod if the
/// container is gone.
async fn find_at(socket: &HostPath, who: &PodCgroup) -> Result<Found, String> {
    let runtime = Runtime::connect(socket).await?;
    let container = match who.container_id.clone() {
        Some(id) => {
            let filter = ContainerFilter { id: id.clone(), ..ContainerFilter::default() };
            // The filter takes beginnings of an id as well.
            runtime.containers(filter).await?.containers.into_iter().find(|container| container.id == id)
        }
        None => None,
    };
    let filter = match &container {
        Some(container) => {
            PodSandboxFilter { id: container.pod_sandbox_id.clone(), ..PodSandboxFilter::default() }
        }
        None => {
            let label_selector = BTreeMap::from([(account::POD_UID.to_owned(), who.pod_uid.clone())]);
            PodSandboxFilter { label_selector, ..PodSandboxFilter::default() }
        }
    };
    let pods = runtime.sandboxes(filter).await?;
    // A pod whose sandbox died has several.
    let latest = pods.items.iter().max_by_key(|sandbox| sandbox.created_at);
    let sandbox = latest.ok_or_else(|| format!("knows nothing of pod {}", who.pod_uid))?.clone();
    match sandbox.metadata.as_ref().map(|metadata| &metadata.uid) {
        Some(uid) if *uid == who.pod_uid => Ok(Found { runtime, container, pods, sandbox }),
        // Not what the kubelet set up. Whose it is, we do not say then.
        uid => Err(format!("says that the pod is {uid:?}, and the cgroup that it is {}", who.pod_uid)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    const ID: &str = "2931aa398062759b9ca3f1df74ec3eaacb35a4b68eaa200ddc96794f078d9c9e";
    const UID: &str = "ebd4ed5f-7157-41bc-8004-afdf4f6afe14";

    fn who() -> PodCgroup {
        PodCgroup { pod_uid: UID.to_owned(), container_id: Some(ID.to_owned()) }
    }

    fn settings(socket: &Path, timeout: &str) -> ComposerSettings {
        let yaml = format!("cri_socket: {}\ncri_timeout: {timeout}", socket.display());
        let (settings, problems) = ComposerSettings::read(&yaml);
        assert_eq!(problems, Vec::<String>::new());
        settings
    }

    /// Asks a runtime that does this with who connects; returns why there is
    /// no answer, and how long that took.
    fn refusal(timeout: &str, mut runtime: impl FnMut(UnixStream) + Send + 'static) -> (String, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || listener.incoming().flatten().for_each(&mut runtime));
        let began = Instant::now();
        (missing(Lookup::start(who(), &settings(&socket, timeout)).wait()), began.elapsed())
    }

    /// What is there without the runtime, and why there is no more.
    fn missing(findings: Findings) -> String {
        assert!(findings.files.is_empty() && findings.log.is_none() && findings.skip.is_none());
        let Attribution::Missing { reason, id, pod_uid } = findings.container else { panic!("it is there") };
        assert_eq!((id.as_deref(), pod_uid.as_deref()), (Some(ID), Some(UID)));
        reason
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("none.sock");
        let reason = missing(Lookup::start(who(), &settings(&socket, "5s")).wait());
        assert!(reason.starts_with(&format!("{}: ", socket.display())), "{reason}");
        assert!(reason.ends_with("No such file or directory (os error 2)"), "{reason}");
    }

    #[test]
    fn a_runtime_that_never_answers_costs_the_deadline_and_no_more() {
        let mut held = Vec::new();
        let (reason, took) = refusal("300ms", move |stream| held.push(stream));
        assert!(reason.ends_with(": no answer within 300ms"), "{reason}");
        assert!((300..800).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn garbage_and_a_dropped_connection_are_told_at_once() {
        // The last are the settings of HTTP/2, and then the end.
        for answer in
            [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 4096], b"", &[0, 0, 0, 4, 0, 0, 0, 0, 0]]
        {
            let (reason, took) = refusal("10s", move |mut stream| {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            });
            // What was wrong with it, or that the connection is gone because of it.
            assert!(reason.contains(": ListContainers: "), "{reason}");
            assert!(
                ["frame", "connection", "broken pipe"].iter().any(|said| reason.contains(said)),
                "{reason}"
            );
            assert!(took < Duration::from_secs(5), "{took:?}: {reason}");
        }
    }

    #[test]
    fn one_runtime_that_hangs_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| HostPath::try_from(dir.path().join(name).to_str().unwrap()).unwrap();
        let _mute = UnixListener::bind(dir.path().join("mute")).unwrap();
        let deadline = Deadline::new(Duration::from_millis(200));
        let skip = Arc::new(OnceLock::new());
        let question = Question { who: who(), settings: ComposerSettings::default(), deadline, skip };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let why = runtime.block_on(question.find(vec![path("mute"), path("none")])).err().unwrap();
        assert!(why.contains("/none: ") && why.contains("/mute: no answer within 200ms"), "{why}");
        let why = runtime.block_on(question.find(vec![])).err().unwrap();
        assert!(
            why.starts_with("no container runtime listens at /run/containerd/containerd.sock, "),
            "{why}"
        );
    }

    #[test]
    fn a_lookup_that_panicked_or_is_stuck_is_missing() {
        let lookup = |findings| Lookup {
            who: who(),
            deadline: Deadline::new(Duration::ZERO),
            skip: Arc::new(OnceLock::new()),
            findings,
        };
        let (sender, findings) = mpsc::sync_channel(1);
        assert!(missing(lookup(findings).wait()).contains("stuck"));
        drop(sender);
        let (_, findings) = mpsc::sync_channel(1);
        assert!(missing(lookup(findings).wait()).contains("panicked"));
    }
}
