//! What became of a pod's crash, as Events on the pod: `kubectl describe pod`
//! shows them.
//!
//! Nobody who tells waits for the API server: what is told goes through a queue
//! of bounded length to a task of its own ([`Courier`]), and a storm is summed
//! up on the way ([`storm`]).

mod courier;
mod storm;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytesize::ByteSize;
use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::Signal;
use protocol::cluster::is_object_name;
use protocol::journal::{Line, Outcome, Skip};
use protocol::manifest::Manifest;
use protocol::spool::DumpId;
use protocol::text::Text;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::EventsConfig;
use crate::journal::quoted;
use crate::metrics::EventCounter;
use storm::{Admission, Storm};

pub use courier::Courier;

/// Who says it.
const COMPONENT: &str = "coredump-handler";
/// As many pods crash on a node in the time that the API server takes to come
/// back, or it is no longer of interest.
const QUEUE: usize = 128;
/// As long as the API server keeps an Event (its `--event-ttl`): what happened
/// before would be no news.
const NEWS: SignedDuration = SignedDuration::from_hours(1);
/// What `events.k8s.io/v1` allows of a message and of an instance
/// (`NoteLengthLimit` and another in `pkg/apis/core/validation/events.go`).
const MAX_MESSAGE: usize = 1024;
const MAX_INSTANCE: usize = 128;

/// Where what happens is told.
#[derive(Clone, Default)]
pub struct Events(Option<Told>);

#[derive(Clone)]
struct Told {
    storm: Arc<Mutex<Storm>>,
    queue: mpsc::Sender<Event>,
    counter: EventCounter,
}

impl Events {
    /// Told to the API server, by the courier that is to be run.
    pub fn new(config: EventsConfig, counter: &EventCounter) -> (Events, Courier) {
        let (queue, told) = mpsc::channel(QUEUE);
        let storm = Arc::<Mutex<Storm>>::default();
        let courier = Courier::new(config, told, Arc::clone(&storm), counter.clone());
        (Events(Some(Told { storm, queue, counter: counter.clone() })), courier)
    }

    /// A composer has journaled a crash.
    pub fn crash(&self, line: &Line) {
        self.tell(|| Event::of_crash(line, Timestamp::now()));
    }

    /// The store has a dump; `place` is where.
    pub fn uploaded(&self, id: &DumpId, manifest: Option<&Manifest>, place: &str) {
        self.tell(|| Event::of_upload(id, manifest?, place, Timestamp::now()));
    }

    fn tell(&self, event: impl FnOnce() -> Option<Event>) {
        let Some(Told { storm, queue, counter }) = &self.0 else { return };
        let Some(event) = event() else { return };
        let admission = storm.lock().unwrap_or_else(PoisonError::into_inner).admit(event, Instant::now());
        let lost = match admission {
            Admission::Now(event) => queue.try_send(event).is_err(),
            Admission::Later => false,
            Admission::Never => true,
        };
        if lost {
            counter.dropped();
        }
    }
}

/// The container of a pod.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Subject {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
}

impl Subject {
    fn new(namespace: &str, pod: &str, uid: &str, container: &str) -> Option<Subject> {
        let named = [namespace, pod, container].into_iter().all(is_object_name) && !uid.is_empty();
        let [namespace, pod, uid, container] = [namespace, pod, uid, container].map(str::to_owned);
        named.then_some(Subject { namespace, pod, uid, container })
    }
}

/// What there is to say.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Reason {
    /// There is a dump.
    Dumped,
    /// The store has it.
    Uploaded,
    /// There is none, though there should be one.
    Refused,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Dumped => "CoreDumped",
            Reason::Uploaded => "CoreDumpUploaded",
            Reason::Refused => "CoreDumpRefused",
        }
    }

    fn severity(self) -> &'static str {
        match self {
            Reason::Dumped | Reason::Refused => "Warning",
            Reason::Uploaded => "Normal",
        }
    }
}

/// An Event, which may be the sum of several.
#[derive(Clone, Debug)]
struct Event {
    subject: Subject,
    reason: Reason,
    /// Of the last of them, as the next two.
    id: DumpId,
    message: String,
    last: Timestamp,
    first: Timestamp,
    count: u32,
}

impl Event {
    /// What the journal says, if it is news, of a pod, and not as the settings
    /// want it.
    fn of_crash(line: &Line, now: Timestamp) -> Option<Event> {
        let mut place = line.container.as_deref()?.splitn(3, '/');
        let subject = Subject::new(place.next()?, place.next()?, line.pod_uid.as_deref()?, place.next()?)?;
        let id = &line.id;
        let refused = |why: String| (Reason::Refused, format!("no core dump {id}: {why}"));
        let (reason, what) = match &line.outcome {
            Outcome::Captured { core_bytes, truncated, .. } => {
                let size = ByteSize(*core_bytes);
                let cut = truncated.as_ref().map(|why| format!(", truncated: {}", Text::from(why.as_str())));
                let what = format!("core dump {id}, {size} of core{}", cut.unwrap_or_default());
                (Reason::Dumped, what)
            }
            Outcome::Refused { reason } => refused(Text::from(&**reason).to_string()),
            Outcome::Skipped { reason } => match reason {
                Skip::DiskFull | Skip::SpoolFull | Skip::RateLimit => refused(reason.as_str().to_owned()),
                // Who is busy does not even ask whose crash it is.
                Skip::NotAPod
                | Skip::Namespace
                | Skip::Label
                | Skip::Annotation
                | Skip::Busy
                | Skip::Trial
                | Skip::Other(_) => {
                    return None;
                }
            },
        };
        let comm = quoted(line.comm.clone().unwrap_or_default());
        let signal = line.signal.map_or("a signal".to_owned(), |signal| {
            Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
        });
        let message = format!("{comm} was killed by {signal}; {what}");
        let news = now.duration_since(line.at) <= NEWS;
        news.then(|| Event::once(subject, reason, id, message, line.at))
    }

    /// What the store has confirmed.
    fn of_upload(id: &DumpId, manifest: &Manifest, place: &str, now: Timestamp) -> Option<Event> {
        let container = manifest.container.present()?;
        let pod = &container.pod;
        let subject = Subject::new(&pod.namespace, &pod.name, &pod.uid, &container.name)?;
        let message = format!("core dump {id} is stored: {}", Text::from(place));
        Some(Event::once(subject, Reason::Uploaded, id, message, now))
    }

    fn once(subject: Subject, reason: Reason, id: &DumpId, message: String, at: Timestamp) -> Event {
        Event { subject, reason, id: id.clone(), message, last: at, first: at, count: 1 }
    }

    /// Adds a later one about the same.
    fn add(&mut self, later: Event) {
        *self = Event { first: self.first.min(later.first), count: self.count + later.count, ..later };
    }

    /// What the API server is sent, by the uploader of this node. Its name is
    /// made of the dump and the reason alone: sent twice it is there once.
    fn body(&self, node: &str) -> Value {
        let Subject { namespace, pod, uid, container } = &self.subject;
        let others = match self.count {
            1 => String::new(),
            count => format!("; and {} more in the last minute", count - 1),
        };
        let message = cut(&self.message, MAX_MESSAGE - others.len()).to_owned() + &others;
        // As Kubernetes writes them.
        let second = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": format!("{}.{}", self.id, self.reason.as_str()).to_lowercase(),
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": namespace,
                "name": pod,
                "uid": uid,
                // Of an init container as well: nobody tells us what it is.
                "fieldPath": format!("spec.containers{{{container}}}"),
            },
            "type": self.reason.severity(),
            "reason": self.reason.as_str(),
            "message": message,
            "count": self.count,
            "firstTimestamp": second(self.first),
            "lastTimestamp": second(self.last),
            "source": { "component": COMPONENT, "host": node },
            "reportingComponent": COMPONENT,
            "reportingInstance": cut(node, MAX_INSTANCE),
        })
    }
}

/// The beginning of `text`, of so many bytes at the most.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use protocol::manifest::Truncation;

    use super::*;

    fn line(outcome: Outcome) -> Line {
        Line {
            at: Timestamp::UNIX_EPOCH,
            id: DumpId::new(Timestamp::UNIX_EPOCH, 1, 7),
            outcome,
            pid: Some(1),
            signal: Some(11),
            comm: Some("crasher".into()),
            container: Some("default/crash/main".into()),
            pod_uid: Some("ebd4ed5f".into()),
        }
    }

    fn captured(truncated: Option<Truncation>) -> Outcome {
        Outcome::Captured { core_bytes: 5 << 20, dump_bytes: 3, truncated, held_ms: 1 }
    }

    fn told(line: &Line) -> Option<Event> {
        Event::of_crash(line, line.at)
    }

    #[test]
    fn each_outcome_is_said_in_a_sentence() {
        let refused = |reason: &str| Outcome::Refused { reason: reason.into() };
        let skipped = |reason| Outcome::Skipped { reason };
        let died = "\"crasher\" was killed by SIGSEGV; ";
        for (outcome, reason, what) in [
            (captured(None), Reason::Dumped, "core dump 19700101T000000Z-1-00000007, 5.0 MiB of core"),
            (
                captured(Some(Truncation::DiskFull)),
                Reason::Dumped,
                "core dump 19700101T000000Z-1-00000007, 5.0 MiB of core, truncated: disk_full",
            ),
            (refused("no\nroom"), Reason::Refused, r"no core dump 19700101T000000Z-1-00000007: no\x0aroom"),
            (
                skipped(Skip::RateLimit),
                Reason::Refused,
                "no core dump 19700101T000000Z-1-00000007: rate_limit",
            ),
        ] {
            let event = told(&line(outcome)).unwrap();
            assert_eq!((event.reason, event.message), (reason, format!("{died}{what}")));
        }
        for as_wanted in [Skip::NotAPod, Skip::Namespace, Skip::Label, Skip::Annotation, Skip::Trial] {
            assert!(told(&line(skipped(as_wanted))).is_none());
        }
    }

    #[test]
    fn only_of_a_pod_that_is_known_and_only_news() {
        let good = line(captured(None));
        for container in [None, Some("?"), Some("2931aa39"), Some("a/b"), Some("a/../x/b"), Some("a/b/c/d")] {
            let container = container.map(str::to_owned);
            assert!(told(&Line { container, ..good.clone() }).is_none());
        }
        assert!(told(&Line { pod_uid: None, ..good.clone() }).is_none());
        assert!(Event::of_crash(&good, good.at + NEWS).is_some());
        assert!(Event::of_crash(&good, good.at + NEWS + SignedDuration::from_secs(1)).is_none());
        assert!(Event::of_crash(&good, good.at - NEWS).is_some(), "the clock was set back");
    }

    #[test]
    fn whatever_a_container_calls_itself_the_message_is_one_line_and_short_enough() {
        let comm = Some(Text::from(&b"\x1b[2K\"x\n\xff"[..]));
        let event = told(&Line { comm, ..line(captured(None)) }).unwrap();
        assert!(event.message.starts_with(r#""\x1b[2K\"x\x0a\xff" was killed"#), "{}", event.message);
        let refused = Outcome::Refused { reason: "ä".repeat(2000) };
        let mut event = told(&line(refused)).unwrap();
        event.count = 18;
        let body = event.body("worker-3");
        let message = body["message"].as_str().unwrap();
        assert!(message.ends_with("ä; and 17 more in the last minute"), "{message}");
        assert!((MAX_MESSAGE - 1..=MAX_MESSAGE).contains(&message.len()), "{}", message.len());
    }

    #[test]
    fn an_event_says_whose_it_is_and_has_the_same_name_whenever_it_is_sent() {
        let body = told(&line(captured(None))).unwrap().body(&"n".repeat(200));
        assert_eq!(body, told(&line(captured(None))).unwrap().body(&"n".repeat(200)));
        assert_eq!(body["metadata"]["name"], "19700101t000000z-1-00000007.coredumped");
        assert_eq!(body["involvedObject"]["fieldPath"], "spec.containers{main}");
        assert_eq!(body["firstTimestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(body["reportingInstance"].as_str().unwrap().len(), MAX_INSTANCE);
    }
}
