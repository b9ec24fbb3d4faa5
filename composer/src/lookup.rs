//! Which container it was: its runtime is asked while the core is copied, and
//! has so long to answer. The core does not wait for it.

mod question;

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use protocol::journal::Skip;
use protocol::manifest::Attribution;
use protocol::settings::ComposerSettings;
use protocol::spool::Spool;

use crate::cgroup::PodCgroup;

use self::question::Question;

/// The deadline is kept within the lookup, but not if the machine has no time
/// for it.
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
    /// What crictl would print.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Where the container's log is.
    pub log: Option<PathBuf>,
    /// What of it is not here, and why.
    pub problems: Vec<String>,
}

impl Findings {
    /// Of that container, for now, nothing else.
    fn of(container: Attribution) -> Findings {
        Findings { container, files: vec![], log: None, problems: vec![] }
    }

    /// Nothing, for this reason, of a process whose cgroup says `who` it is.
    pub fn missing(who: Option<&PodCgroup>, reason: String) -> Findings {
        let id = who.and_then(|who| who.container_id.clone());
        Findings::of(Attribution::Missing { reason, id, pod_uid: who.map(|who| who.pod_uid.clone()) })
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
    pub fn start(who: PodCgroup, settings: &ComposerSettings, spool: &Spool) -> Lookup {
        let deadline = Deadline::new(settings.cri_timeout);
        let skip = Arc::new(OnceLock::new());
        let (sender, findings) = mpsc::sync_channel(1);
        let question =
            Question::new(who.clone(), settings.clone(), spool.clone(), deadline, Arc::clone(&skip));
        let answer = sender.clone();
        let thread = thread::Builder::new().name("lookup".to_owned());
        if let Err(err) = thread.spawn(move || drop(answer.send(question.ask()))) {
            let _ = sender.send(Findings::undecided(Some(&who), format!("starting a thread: {err}")));
        }
        Lookup { who, deadline, skip, findings }
    }

    /// Where it will be said why the crash is not to be captured, if it is not.
    pub fn skip(&self) -> Arc<OnceLock<Skip>> {
        Arc::clone(&self.skip)
    }

    /// What was found. Returns soon after the deadline at the latest.
    pub fn wait(&self) -> Findings {
        let left = self.deadline.at.saturating_duration_since(Instant::now());
        let reason = match self.findings.recv_timeout(left + GRACE) {
            Ok(findings) => return findings,
            Err(RecvTimeoutError::Timeout) => "the lookup is stuck",
            Err(RecvTimeoutError::Disconnected) => "the lookup panicked; see the kernel's log",
        };
        Findings::undecided(Some(&self.who), reason.to_owned())
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

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
        (
            missing(Lookup::start(who(), &settings(&socket, timeout), &Spool::at("/nowhere")).wait()),
            began.elapsed(),
        )
    }

    /// What is there without the runtime, and why there is no more.
    fn missing(findings: Findings) -> String {
        assert!(findings.files.is_empty() && findings.log.is_none());
        let Attribution::Missing { reason, id, pod_uid } = findings.container else { panic!("it is there") };
        assert_eq!((id.as_deref(), pod_uid.as_deref()), (Some(ID), Some(UID)));
        reason
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("none.sock");
        let reason = missing(Lookup::start(who(), &settings(&socket, "5s"), &Spool::at("/nowhere")).wait());
        assert!(reason.starts_with(&format!("{}: ", socket.display())), "{reason}");
        assert!(reason.ends_with("No such file or directory (os error 2)"), "{reason}");
    }

    #[test]
    fn a_runtime_that_never_answers_costs_the_deadline_and_no_more() {
        let mut held = Vec::new();
        let (reason, took) = refusal("300ms", move |stream| held.push(stream));
        assert!(reason.ends_with(": no answer within 300ms"), "{reason}");
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn garbage_and_a_dropped_connection_are_told_at_once() {
        // The last are the settings of HTTP/2, and then the end.
        for answer in
            [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 4096], b"", &[0, 0, 0, 4, 0, 0, 0, 0, 0]]
        {
            let (reason, took) = refusal("60s", move |mut stream| {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            });
            // What was wrong with it, or that the connection is gone because of it.
            assert!(reason.contains(": ListContainers: "), "{reason}");
            assert!(
                ["frame", "connection", "broken pipe"].iter().any(|said| reason.contains(said)),
                "{reason}"
            );
            assert!(took < Duration::from_secs(30), "{took:?}: {reason}");
        }
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
