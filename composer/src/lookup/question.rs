//! What is asked, of whom, and in which order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use protocol::host::HostPath;
use protocol::journal::Skip;
use protocol::manifest::Attribution;
use protocol::settings::{ComposerSettings, CriSocket};
use protocol::spool::Spool;
use tokio::task::JoinSet;

use super::{Deadline, Findings};
use crate::cgroup::PodCgroup;
use crate::cri::message::{
    Container, ContainerFilter, ListContainersResponse, ListPodSandboxResponse, PodSandbox, PodSandboxFilter,
};
use crate::cri::{Runtime, json};
use crate::rate::{self, Who};
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
/// Labels and annotations of a pod about which more is asked. Each takes ten
/// times its length in memory, several answers have all of them, and the
/// composer has 32 MiB for everything.
const MAX_LABELS: usize = 40_000;

/// All the lookup's thread knows.
pub struct Question {
    who: PodCgroup,
    settings: ComposerSettings,
    spool: Spool,
    deadline: Deadline,
    skip: Arc<OnceLock<Skip>>,
}

/// Who knows the container or its pod, and what it said at first.
struct Found {
    runtime: Runtime,
    container: Option<Container>,
    containers: ListContainersResponse,
    pods: ListPodSandboxResponse,
    /// Which of the pods.
    sandbox: usize,
}

impl Found {
    fn sandbox(&self) -> &PodSandbox {
        &self.pods.items[self.sandbox]
    }
}

impl Question {
    /// Asks about `who`, and sets `skip` as soon as it is known that the
    /// settings do not want it.
    pub fn new(
        who: PodCgroup,
        settings: ComposerSettings,
        spool: Spool,
        deadline: Deadline,
        skip: Arc<OnceLock<Skip>>,
    ) -> Question {
        Question { who, settings, spool, deadline, skip }
    }

    /// Asks, and returns soon after the deadline at the latest.
    pub fn ask(self) -> Findings {
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
        let mut findings = match &found.container {
            Some(container) => {
                let (container, cut) = account::attributed(container, found.sandbox());
                Findings {
                    problems: cut.into_iter().collect(),
                    ..Findings::of(Attribution::Present(container))
                }
            }
            None => {
                let why = self.no_container(found.sandbox());
                let problems = vec![format!("the container is not known: {why}")];
                Findings { problems, ..Findings::missing(Some(&self.who), why) }
            }
        };
        let skip = selection::skip(found.sandbox(), &self.settings);
        match skip.or_else(|| self.too_many(&findings.container)) {
            Some(skip) => drop(self.skip.set(skip)),
            None => self.collect(found, &mut findings).await,
        }
        findings
    }

    fn too_many(&self, container: &Attribution) -> Option<Skip> {
        let name = container.place()?;
        let who = Who::Container(&name);
        rate::is_exceeded(&self.spool, self.settings.rate_limit, who, Timestamp::now())
            .then_some(Skip::RateLimit)
    }

    /// Asks everybody there is, at once: one that hangs must not hide another
    /// that knows, nor one that knows the pod another that knows the container.
    async fn find(&self, sockets: Vec<HostPath>) -> Result<Found, String> {
        let mut asked = JoinSet::new();
        for socket in sockets {
            let (who, deadline) = (self.who.clone(), self.deadline);
            asked.spawn(async move {
                let found = deadline.keep(find_at(&socket, &who)).await;
                found.map_err(|why| format!("{socket}: {why}"))
            });
        }
        let (mut of_pod, mut reasons) = (None, Vec::new());
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(|err| err.to_string()).flatten() {
                Ok(found) if found.container.is_some() => return Ok(found),
                Ok(found) => of_pod = Some(found),
                Err(why) => reasons.push(why),
            }
        }
        of_pod.ok_or_else(|| match reasons.is_empty() {
            true => format!("no container runtime listens at {}", WELL_KNOWN.join(", ")),
            false => reasons.join("; "),
        })
    }

    fn no_container(&self, sandbox: &PodSandbox) -> String {
        match &self.who.container_id {
            Some(id) if *id == sandbox.id => "it is the pod's sandbox, which is no container".to_owned(),
            Some(id) => format!("the runtime does not know container {id} any more"),
            None => "the process is in the pod's cgroup, and in no container's".to_owned(),
        }
    }

    /// All else there is to know, as far as it comes in time. One answer after
    /// the other, the most wanted first: together they may be too large.
    async fn collect(&self, found: Found, findings: &mut Findings) {
        let redact = self.settings.redact_environ;
        let labels = found.sandbox().labels.len() + found.sandbox().annotations.len();
        let Found { runtime, container, containers, pods, sandbox } = found;
        let sandbox = pods.items[sandbox].id.clone();
        let mut keep = Keep { deadline: self.deadline, findings };
        keep.printed("pods.json", json::pods(&pods, redact));
        drop(pods);
        keep.printed("ps.json", json::ps(&containers, redact));
        drop(containers);
        if labels > MAX_LABELS {
            keep.findings.problems.push(format!("the runtime is asked no more: the pod has {labels} labels"));
            return;
        }
        match container {
            Some(container) => {
                if let Some(status) = keep.answer("inspect.json", runtime.container(container.id)).await {
                    keep.printed("inspect.json", json::inspect(&status, redact));
                    let status = status.status.unwrap_or_default();
                    if let Attribution::Present(container) = &mut keep.findings.container {
                        account::name_image(container, &status);
                    }
                    keep.findings.log = Some(PathBuf::from(status.log_path));
                }
                if let Some(image) = keep.answer("inspecti.json", runtime.image(container.image_ref)).await {
                    keep.printed("inspecti.json", json::inspecti(&image));
                }
            }
            None => keep.findings.problems.push("no crictl/inspect.json: there is no container".to_owned()),
        }
        if let Some(status) = keep.answer("inspectp.json", runtime.sandbox(sandbox)).await {
            keep.printed("inspectp.json", json::inspectp(&status, redact));
        }
    }
}

/// Keeps what comes in time, and the reason for what does not.
struct Keep<'a> {
    deadline: Deadline,
    findings: &'a mut Findings,
}

impl Keep<'_> {
    async fn answer<T>(&mut self, name: &str, answer: impl Future<Output = Result<T, String>>) -> Option<T> {
        let answer = self.deadline.keep(answer).await;
        answer.map_err(|why| self.findings.problems.push(format!("no crictl/{name}: {why}"))).ok()
    }

    fn printed(&mut self, name: &'static str, content: Vec<u8>) {
        self.findings.files.push((name, content));
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
    let label_selector = BTreeMap::from([(account::POD_UID.to_owned(), who.pod_uid.clone())]);
    let all = ContainerFilter { label_selector: label_selector.clone(), ..ContainerFilter::default() };
    let mut containers = runtime.containers(all).await?;
    let its = |container: &&Container| who.container_id.as_ref() == Some(&container.id);
    let mut container = containers.containers.iter().find(its).cloned();
    // Whoever made it was no kubelet, and labelled nothing.
    if let (None, Some(id)) = (&container, &who.container_id) {
        let filter = ContainerFilter { id: id.clone(), ..ContainerFilter::default() };
        container =
            runtime.containers(filter).await?.containers.into_iter().find(|container| container.id == *id);
        containers.containers.extend(container.clone());
    }
    let mut pods =
        runtime.sandboxes(PodSandboxFilter { label_selector, ..PodSandboxFilter::default() }).await?;
    let mut sandbox = sandbox_of(container.as_ref(), &pods);
    if let (None, Some(container)) = (sandbox, &container) {
        let id = container.pod_sandbox_id.clone();
        pods = runtime.sandboxes(PodSandboxFilter { id, ..PodSandboxFilter::default() }).await?;
        sandbox = sandbox_of(Some(container), &pods);
    }
    let sandbox = sandbox.ok_or_else(|| format!("knows nothing of pod {}", who.pod_uid))?;
    match pods.items[sandbox].metadata.as_ref().map(|metadata| &metadata.uid) {
        Some(uid) if *uid == who.pod_uid => Ok(Found { runtime, container, containers, pods, sandbox }),
        // Not what the kubelet set up. Whose it is, we do not say then.
        uid => Err(format!("says that the pod is {uid:?}, and the cgroup that it is {}", who.pod_uid)),
    }
}

/// The container's sandbox among those of its pod, or the latest: a pod whose
/// sandbox died has several.
fn sandbox_of(container: Option<&Container>, pods: &ListPodSandboxResponse) -> Option<usize> {
    let sandboxes = pods.items.iter().enumerate();
    match container {
        Some(container) => sandboxes.into_iter().find(|(_, pod)| pod.id == container.pod_sandbox_id),
        None => sandboxes.max_by_key(|(_, pod)| pod.created_at),
    }
    .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cri::fake::{Fake, Reply};
    use crate::cri::message::{
        ContainerMetadata, ContainerStatus, ContainerStatusResponse, ImageStatusResponse, PodSandboxMetadata,
        PodSandboxStatusResponse,
    };

    const ID: &str = "2931aa398062759b9ca3f1df74ec3eaacb35a4b68eaa200ddc96794f078d9c9e";
    const UID: &str = "ebd4ed5f-7157-41bc-8004-afdf4f6afe14";

    /// A pod of two sandboxes, the later of which has the container.
    fn pods(uid: &str) -> ListPodSandboxResponse {
        let sandbox = |id: &str, created_at| PodSandbox {
            id: id.to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: "web-0".to_owned(),
                namespace: "payments".to_owned(),
                uid: uid.to_owned(),
                attempt: 0,
            }),
            created_at,
            ..PodSandbox::default()
        };
        ListPodSandboxResponse { items: vec![sandbox("new", 2), sandbox("old", 1)] }
    }

    fn containers() -> ListContainersResponse {
        let container = |id: &str, sandbox: &str, name: &str| Container {
            id: id.to_owned(),
            pod_sandbox_id: sandbox.to_owned(),
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 3 }),
            image_ref: "sha256:1234".to_owned(),
            ..Container::default()
        };
        ListContainersResponse {
            containers: vec![container("other", "old", "init"), container(ID, "new", "api")],
        }
    }

    /// A runtime that knows them.
    fn knowing(method: &str) -> Reply {
        match method {
            "ListContainers" => Reply::message(&containers()),
            "ListPodSandbox" => Reply::message(&pods(UID)),
            "ContainerStatus" => Reply::message(&ContainerStatusResponse {
                status: Some(ContainerStatus {
                    image_ref: "reg.io/api@sha256:5678".to_owned(),
                    log_path: "/var/log/pods/x/api/3.log".to_owned(),
                    ..ContainerStatus::default()
                }),
                ..ContainerStatusResponse::default()
            }),
            "PodSandboxStatus" => Reply::message(&PodSandboxStatusResponse::default()),
            _ => Reply::message(&ImageStatusResponse::default()),
        }
    }

    /// One that does `reply` if that is something, and else knows them.
    fn but(method: &'static str, reply: fn() -> Reply) -> Fake {
        Fake::new(move |asked| if asked == method { reply() } else { knowing(asked) })
    }

    fn question(yaml: &str) -> Question {
        let who = PodCgroup { pod_uid: UID.to_owned(), container_id: Some(ID.to_owned()) };
        let (settings, problems) = ComposerSettings::read(yaml);
        assert_eq!(problems, Vec::<String>::new());
        let deadline = Deadline::new(settings.cri_timeout);
        Question::new(who, settings, Spool::at("/nowhere"), deadline, Arc::default())
    }

    fn ask(runtime: &Fake, yaml: &str) -> (Findings, Option<Skip>) {
        let question = question(&format!("cri_socket: {}\n{yaml}", runtime.socket()));
        let skip = Arc::clone(&question.skip);
        (question.ask(), skip.get().cloned())
    }

    fn names(findings: &Findings) -> Vec<&str> {
        findings.files.iter().map(|(name, _)| *name).collect()
    }

    fn find(sockets: Vec<HostPath>, yaml: &str) -> Result<Found, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(question(yaml).find(sockets))
    }

    #[test]
    fn what_is_known_is_found() {
        let (findings, skip) = ask(&Fake::new(knowing), "");
        assert_eq!((findings.problems.len(), skip), (0, None), "{:?}", findings.problems);
        let Attribution::Present(container) = &findings.container else { panic!("{:?}", findings.container) };
        assert_eq!((&*container.name, container.attempt), ("api", 3));
        assert_eq!(
            (&*container.pod.name, &*container.pod.namespace, &*container.pod.uid),
            ("web-0", "payments", UID)
        );
        assert_eq!(container.image_ref, "reg.io/api@sha256:5678");
        assert_eq!(findings.log.as_deref(), Some(Path::new("/var/log/pods/x/api/3.log")));
        assert_eq!(
            names(&findings),
            ["pods.json", "ps.json", "inspect.json", "inspecti.json", "inspectp.json"]
        );
        let text = |at: usize| String::from_utf8_lossy(&findings.files[at].1).into_owned();
        assert!(text(0).contains("\"new\"") && text(0).contains("\"old\""), "every sandbox of the pod");
        assert!(text(1).contains("\"init\"") && text(1).contains("\"api\""), "every container of the pod");
    }

    #[test]
    fn a_pod_that_the_cgroup_does_not_name_is_nobodys() {
        let (findings, _) = ask(&but("ListPodSandbox", || Reply::message(&pods("another"))), "");
        let Attribution::Missing { reason, .. } = &findings.container else { panic!("it is believed") };
        assert!(reason.contains("says that the pod is Some(\"another\")"), "{reason}");
        assert!(findings.files.is_empty() && findings.log.is_none());
    }

    #[test]
    fn what_the_settings_leave_out_is_known_and_asked_no_more() {
        let (findings, skip) = ask(&Fake::new(knowing), "namespaces: {exclude: [pay*]}");
        assert_eq!(skip, Some(Skip::Namespace));
        assert!(findings.container.present().is_some() && findings.files.is_empty());
    }

    #[test]
    fn an_answer_that_breaks_off_or_does_not_come_costs_no_other() {
        let half = but("ContainerStatus", || Reply::Half(vec![0; 1000]));
        let (findings, _) = ask(&half, "cri_timeout: 30s");
        assert!(findings.container.present().is_some());
        assert_eq!(names(&findings), ["pods.json", "ps.json", "inspecti.json", "inspectp.json"]);
        assert!(
            findings.problems[0].starts_with("no crictl/inspect.json: ContainerStatus: "),
            "{:?}",
            findings.problems
        );

        let silent = but("ImageStatus", || Reply::Silence);
        let (findings, _) = ask(&silent, "cri_timeout: 3s");
        assert!(findings.container.present().is_some() && findings.log.is_some());
        assert_eq!(names(&findings), ["pods.json", "ps.json", "inspect.json"]);
        assert_eq!(findings.problems[0], "no crictl/inspecti.json: no answer within 3s");

        let half = but("ListPodSandbox", || Reply::Half(vec![0; 1000]));
        let (findings, _) = ask(&half, "cri_timeout: 30s");
        assert!(findings.container.present().is_none());
        assert!(findings.problems[1].contains("could not be decided"), "{:?}", findings.problems);
    }

    #[test]
    fn one_runtime_hides_no_other() {
        let missing = HostPath::try_from("/nowhere/cri.sock").unwrap();
        let mute = Fake::new(|_| Reply::Silence);
        let why = find(vec![mute.socket(), missing.clone()], "cri_timeout: 200ms").err().unwrap();
        assert!(why.contains("/nowhere/cri.sock: ") && why.contains(": no answer within 200ms"), "{why}");
        let why = find(vec![], "").err().unwrap();
        assert!(
            why.starts_with("no container runtime listens at /run/containerd/containerd.sock, "),
            "{why}"
        );

        // It knows the pod from earlier, and answers first.
        let of_pod = but("ListContainers", || Reply::message(&ListContainersResponse::default()));
        let slow = Fake::new(|asked| {
            std::thread::sleep(Duration::from_millis(50));
            knowing(asked)
        });
        let began = Instant::now();
        let sockets = vec![mute.socket(), of_pod.socket(), slow.socket(), missing];
        assert!(find(sockets, "cri_timeout: 30s").unwrap().container.is_some());
        assert!(began.elapsed() < Duration::from_secs(20), "nobody waits for the one that hangs");
        let found = find(vec![of_pod.socket()], "").unwrap();
        assert!(found.container.is_none());
        assert_eq!(found.sandbox().id, "new");
    }

    #[test]
    fn a_pod_with_more_labels_than_fit_is_asked_no_more_about() {
        let many = || {
            let mut pods = pods(UID);
            pods.items[0].labels = (0..MAX_LABELS + 1).map(|n| (format!("{n:x}"), String::new())).collect();
            Reply::message(&pods)
        };
        let (findings, _) = ask(&but("ListPodSandbox", many), "");
        assert!(findings.container.present().is_some());
        assert_eq!(names(&findings), ["pods.json", "ps.json"]);
        assert_eq!(
            findings.problems.last().unwrap(),
            "the runtime is asked no more: the pod has 40001 labels"
        );
    }
}
