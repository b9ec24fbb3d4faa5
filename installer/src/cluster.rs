//! Whether this pod ends because the collector is being removed. The API server
//! knows: pods end for many reasons, and this one alone is no reason to go on
//! collecting.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use log::{info, warn};
use protocol::cluster::ApiServer;
use reqwest::Certificate;
use reqwest::blocking::Client;
use reqwest::redirect::Policy;
use serde::Deserialize;

/// For all that is asked at the end. Some of the 45 seconds that Kubernetes
/// gives a pod has to be left for uninstalling.
const DEADLINE: Duration = Duration::from_secs(5);
/// For one request; an API server of several may be down.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions at the end.
const RETRY: Duration = Duration::from_millis(500);
/// Between two questions before that, until there is an answer.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// An object of etcd has less than 2 MiB (its `--max-request-bytes`).
const MOST: u64 = 2 << 20;

/// The DaemonSet that we are of.
#[derive(Clone, Debug)]
pub struct DaemonSet {
    server: ApiServer,
    namespace: String,
    name: String,
    seen: Arc<AtomicBool>,
}

/// What the API server says of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It is there to stay.
    There,
    /// This is being deleted: itself, or what is around it.
    Going(&'static str),
    /// There is none.
    Gone,
    /// We may not ask, with this status.
    Denied(u16),
    /// Nothing that would tell, for this reason.
    Unclear(String),
}

/// What follows from it, and why.
#[derive(Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The node goes on collecting.
    Stay(String),
    /// The collector is being removed: the node is given back.
    Leave(String),
}

/// What to do at the end of a pod. `seen` is whether the API server ever showed
/// us our DaemonSet: what never was there is not gone but misspelt, and a right
/// that we never had was not taken from us.
pub fn judge(seen: bool, answer: &Answer) -> Verdict {
    match answer {
        Answer::There => Verdict::Stay("its DaemonSet stays".to_owned()),
        Answer::Going(what) => Verdict::Leave(format!("its {what} is being deleted")),
        Answer::Gone if seen => Verdict::Leave("its DaemonSet is gone".to_owned()),
        Answer::Gone => Verdict::Stay("no DaemonSet of this name was ever there".to_owned()),
        Answer::Denied(status) if seen => Verdict::Leave(format!("its account is revoked ({status})")),
        Answer::Denied(status) => Verdict::Stay(format!("we were never allowed to ask about it ({status})")),
        Answer::Unclear(why) => Verdict::Stay(format!("whether it is removed cannot be told: {why}")),
    }
}

impl DaemonSet {
    /// The one of this name, in the namespace of this pod.
    ///
    /// # Errors
    /// If we are in no pod, or in one that has no account.
    pub fn find(env: &dyn Fn(&str) -> Option<String>, account: &Path, name: &str) -> Result<DaemonSet> {
        // An error means that there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = ApiServer::find(env, account)?;
        let namespace = server.namespace()?;
        Ok(DaemonSet { server, namespace, name: name.to_owned(), seen: Arc::default() })
    }

    /// Asks in a thread of its own until it is seen, and says if it is not: who
    /// reads that now need not wonder later why a node was not given back.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn look_out(&self) -> Result<()> {
        let this = self.clone();
        let look_out = move || {
            let mut said = None;
            loop {
                let answer = this.ask(Instant::now() + DEADLINE);
                if let Answer::There | Answer::Going(_) = answer {
                    this.seen.store(true, Ordering::Relaxed);
                    info!(daemon_set:% = this.name; "removing this DaemonSet will give this node back");
                    return;
                }
                if let (true, Verdict::Stay(why)) = (said.as_ref() != Some(&answer), judge(false, &answer)) {
                    warn!(daemon_set:% = this.name, namespace:% = this.namespace;
                        "removing this DaemonSet would not give this node back, as things are: {why}");
                }
                said = Some(answer);
                thread::sleep(ASK_EVERY);
            }
        };
        thread::Builder::new().name("look-out".to_owned()).spawn(look_out).context("starting a thread")?;
        Ok(())
    }

    /// Whether to give the node back, now that this pod ends. Takes some seconds
    /// at the most. A control plane that is just starting denies what it will
    /// allow, so that is asked again, too.
    pub fn verdict(&self) -> Verdict {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.ask(deadline);
            let clear = matches!(answer, Answer::There | Answer::Going(_) | Answer::Gone);
            if clear || Instant::now() + RETRY >= deadline {
                return judge(self.seen.load(Ordering::Relaxed), &answer);
            }
            thread::sleep(RETRY);
        }
    }

    fn ask(&self, deadline: Instant) -> Answer {
        self.exchange(deadline).unwrap_or_else(|err| Answer::Unclear(format!("{err:#}")))
    }

    fn exchange(&self, deadline: Instant) -> Result<Answer> {
        let namespace = format!("namespaces/{}", self.namespace);
        let path = format!("apis/apps/v1/{namespace}/daemonsets/{}", self.name);
        let (status, object) = self.get(&path, deadline)?;
        Ok(match (status, &*object.kind) {
            (200, "DaemonSet") if object.is_going() => Answer::Going("DaemonSet"),
            // Who deletes a namespace deletes its pods first.
            (200, "DaemonSet") => match self.get(&format!("api/v1/{namespace}"), deadline)? {
                (200, object) if object.is_going() => Answer::Going("namespace"),
                // That we may not ask about it is no news of the DaemonSet.
                (200 | 403, _) => Answer::There,
                (401, _) => Answer::Denied(401),
                (status, _) => Answer::Unclear(format!("{} answers with {status}", self.server.url())),
            },
            (404, "Status") if object.reason == "NotFound" => Answer::Gone,
            (401 | 403, _) => Answer::Denied(status),
            _ => Answer::Unclear(format!("{} answers with {status}", self.server.url())),
        })
    }

    /// Asks for one object. The certificates and the token are those of now.
    fn get(&self, path: &str, deadline: Instant) -> Result<(u16, Object)> {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer within {} s", DEADLINE.as_secs());
        let authority = Certificate::from_pem_bundle(self.server.authority()?.as_bytes());
        let http = Client::builder()
            .user_agent(concat!("coredump-installer/", env!("CARGO_PKG_VERSION")))
            .tls_certs_only(authority.context("reading the certificates of the API server")?)
            .redirect(Policy::none())
            // Who is asked is next door, whatever way there is to the internet.
            .no_proxy()
            .timeout(left.min(PATIENCE))
            .build()
            .context("making an HTTP client")?;
        let request = http.get(format!("{}/{path}", self.server.url())).bearer_auth(self.server.token()?);
        let response = request.send()?;
        let status = response.status().as_u16();
        // What is no object says as much as an empty one.
        Ok((status, serde_json::from_reader(BufReader::new(response.take(MOST))).unwrap_or_default()))
    }
}

/// What of an object of Kubernetes is of interest, or of its `Status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Object {
    kind: String,
    reason: String,
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

impl Object {
    fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(seen: bool, answer: Answer) -> bool {
        matches!(judge(seen, &answer), Verdict::Leave(_))
    }

    #[test]
    fn a_node_is_left_only_if_the_collector_is_being_removed() {
        for seen in [true, false] {
            assert!(!leaves(seen, Answer::There));
            assert!(!leaves(seen, Answer::Unclear("no route to host".into())));
            assert!(leaves(seen, Answer::Going("namespace")));
        }
    }

    #[test]
    fn only_what_was_seen_is_gone_or_revoked() {
        for answer in [Answer::Gone, Answer::Denied(401), Answer::Denied(403)] {
            assert!(leaves(true, answer.clone()));
            assert!(!leaves(false, answer));
        }
    }
}
