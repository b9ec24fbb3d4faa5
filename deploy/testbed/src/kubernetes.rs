//! An API server on loopback, as far as our programs ask one: a DaemonSet and
//! its namespace, and Events. It speaks TLS with a certificate of a CA nobody
//! knows, and knows one token at a time.
//!
//! It is stricter than a real one, which takes nearly every core/v1 Event: what
//! is not as `kubectl describe` wants it is refused; see the module `event`.

mod event;

use std::collections::BTreeMap;
use std::fs;
use std::future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::store::{Fault, Request, tls};

pub use self::event::Event;

/// The namespace of the pod that asks.
pub const NAMESPACE: &str = "ibm-observe";
/// The DaemonSet that there is at the beginning.
pub const DAEMON_SET: &str = "coredump-handler";

/// An API server, and the account of a pod that may ask it.
pub struct ApiServer {
    account: TempDir,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    state: Arc<Mutex<State>>,
    runtime: Runtime,
    listening: Option<(oneshot::Sender<()>, mpsc::Receiver<()>)>,
}

type Rule = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

struct State {
    token: String,
    tokens: u32,
    /// By kind and name; what there is, and the rest of the object.
    objects: BTreeMap<(&'static str, &'static str), Value>,
    events: BTreeMap<(String, String), Event>,
    requests: Vec<Request>,
    rule: Option<Rule>,
}

impl ApiServer {
    /// One that has the pod's namespace and its DaemonSet.
    pub fn start() -> ApiServer {
        let identity = tls::Identity::new().expect("a certificate");
        let account = tempfile::tempdir().expect("a temporary directory for the account");
        let objects = [("Namespace", NAMESPACE), ("DaemonSet", DAEMON_SET)];
        let objects = objects.map(|(kind, name)| ((kind, name), json!({ "name": name }))).into();
        let state = State {
            token: String::new(),
            tokens: 0,
            objects,
            events: BTreeMap::new(),
            requests: vec![],
            rule: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut server = ApiServer {
            account,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            acceptor: identity.acceptor,
            state: Arc::new(Mutex::new(state)),
            runtime: runtime.expect("a runtime"),
            listening: None,
        };
        server.write("ca.crt", &identity.ca_pem);
        server.write("namespace", NAMESPACE);
        server.rotate_token();
        server.come_up();
        server
    }

    /// The directory that the kubelet would mount into the pod.
    pub fn account(&self) -> &Path {
        self.account.path()
    }

    /// What the kubelet would put into the environment of the pod.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        [("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)]
    }

    /// The next token, in the pod as well; the one before is worth nothing.
    pub fn rotate_token(&self) {
        self.revoke_token();
        let token = lock(&self.state).token.clone();
        self.write("token", &token);
    }

    /// As if the account were gone: the token in the pod is worth nothing.
    pub fn revoke_token(&self) {
        let mut state = lock(&self.state);
        state.tokens += 1;
        state.token = format!("token-{}", state.tokens);
    }

    /// Has somebody else sign for the API server, as far as the pod knows.
    pub fn forge_authority(&self) {
        self.write("ca.crt", &tls::Identity::new().expect("a certificate").ca_pem);
    }

    /// The DaemonSet is gone.
    pub fn delete_daemon_set(&self) {
        lock(&self.state).objects.remove(&("DaemonSet", DAEMON_SET));
    }

    /// The DaemonSet is there, and waits for its pods to be gone.
    pub fn begin_to_delete_daemon_set(&self) {
        self.begin_to_delete(("DaemonSet", DAEMON_SET));
    }

    /// The namespace waits for all that is in it to be gone.
    pub fn begin_to_delete_namespace(&self) {
        self.begin_to_delete(("Namespace", NAMESPACE));
    }

    fn begin_to_delete(&self, object: (&'static str, &'static str)) {
        let mut state = lock(&self.state);
        let metadata = state.objects.get_mut(&object).expect("what is to be deleted is there");
        metadata["deletionTimestamp"] = "2026-11-22T19:31:02Z".into();
    }

    /// All Events that were taken, in the order of their names.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.state).events.values().cloned().collect()
    }

    /// Every request so far, in the order of their arrival. Who does not trust us
    /// makes none.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state).requests.clone()
    }

    /// Asks `rule` about each request from now on. `None` leaves it to the server.
    pub fn set_faults(&self, rule: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        lock(&self.state).rule = Some(Box::new(rule));
    }

    /// Answers each request from now on with this status.
    pub fn answer_all_with(&self, status: u16) {
        self.set_faults(move |_| Some(failure(status, "AsTheTestWishes")));
    }

    /// From now on nothing is wrong.
    pub fn clear_faults(&self) {
        lock(&self.state).rule = None;
    }

    /// Nobody listens any more.
    pub fn go_down(&mut self) {
        if let Some((stop, stopped)) = self.listening.take() {
            drop(stop);
            let _ = stopped.recv();
        }
    }

    /// Listens, at the same address as before if there was one.
    pub fn come_up(&mut self) {
        let listener = TcpListener::bind(self.address).expect("an address to listen at");
        listener.set_nonblocking(true).expect("a listener that does not block");
        self.address = listener.local_addr().expect("an address");
        let (stop, stopping) = oneshot::channel::<()>();
        let (has_stopped, stopped) = mpsc::channel();
        let (acceptor, state) = (self.acceptor.clone(), Arc::clone(&self.state));
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            tokio::select! {
                () = accept(&listener, acceptor, state) => {}
                _ = stopping => {}
            }
            drop(listener);
            let _ = has_stopped.send(());
        });
        self.listening = Some((stop, stopped));
    }

    /// As the kubelet does, from one to the other and nothing in between.
    fn write(&self, name: &str, text: &str) {
        let new = self.account().join("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.account().join(name)))
            .expect("the account");
    }
}

/// An error as Kubernetes tells it.
pub fn failure(status: u16, reason: &str) -> Fault {
    let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    Fault::Answer { status, headers, body: told(status, reason, "").1.to_string() }
}

fn told(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, status)
}

async fn accept(listener: &tokio::net::TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            // That a client does not trust us is what some tests want.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| respond(request, Arc::clone(&state)));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An error closes the connection without an answer.
async fn respond(
    request: hyper::Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> io::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut seen = Request::new(&parts);
    seen.body_bytes = body.len() as u64;
    let fault = {
        let mut state = lock(&state);
        let fault = state.rule.as_mut().and_then(|rule| rule(&seen));
        state.requests.push(seen.clone());
        fault
    };
    let (status, headers, body) = match fault {
        Some(Fault::Answer { status, headers, body }) => (status, headers, body),
        Some(Fault::Hang) => future::pending().await,
        Some(Fault::Disconnect) => return Err(io::ErrorKind::ConnectionAborted.into()),
        other => {
            if let Some(Fault::Delay(delay)) = other {
                tokio::time::sleep(delay).await;
            }
            let (status, object) = lock(&state).answer(&parts.method, &seen, &body);
            if let Some(Fault::LoseAnswer) = other {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            (status, vec![(CONTENT_TYPE.to_string(), "application/json".to_owned())], object.to_string())
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Full::from(body)).map_err(io::Error::other)
}

impl State {
    fn answer(&mut self, method: &Method, request: &Request, body: &[u8]) -> (u16, Value) {
        let bearer = format!("Bearer {}", self.token);
        if request.headers.get(AUTHORIZATION.as_str()) != Some(&bearer) {
            return told(401, "Unauthorized", "");
        }
        let path: Vec<_> = request.path.trim_start_matches('/').split('/').collect();
        match (method.as_str(), &path[..]) {
            ("GET", ["apis", "apps", "v1", "namespaces", NAMESPACE, "daemonsets", name]) => {
                self.object("DaemonSet", name)
            }
            ("GET", ["api", "v1", "namespaces", name]) => self.object("Namespace", name),
            ("POST", ["api", "v1", "namespaces", namespace, "events"]) => {
                let media = request.headers.get(CONTENT_TYPE.as_str()).map(String::as_str);
                match media == Some("application/json") {
                    true => self.create(namespace, body),
                    false => told(415, "UnsupportedMediaType", ""),
                }
            }
            // The account has no other rights.
            _ => told(403, "Forbidden", &request.path),
        }
    }

    fn object(&self, kind: &'static str, name: &str) -> (u16, Value) {
        match self.objects.iter().find(|((its, named), _)| (*its, *named) == (kind, name)) {
            Some((_, metadata)) => (200, json!({ "kind": kind, "metadata": metadata })),
            None => told(404, "NotFound", name),
        }
    }

    fn create(&mut self, namespace: &str, body: &[u8]) -> (u16, Value) {
        let event: Event = match serde_json::from_slice(body) {
            Ok(event) => event,
            Err(err) => return told(400, "BadRequest", &err.to_string()),
        };
        let problems = event.problems(namespace);
        if !problems.is_empty() {
            return told(422, "Invalid", &problems.join("; "));
        }
        let key = (namespace.to_owned(), event.metadata.name.clone());
        if self.events.contains_key(&key) {
            return told(409, "AlreadyExists", &key.1);
        }
        self.events.insert(key, event);
        (201, serde_json::from_slice(body).unwrap_or_default())
    }
}

/// A rule that panicked has failed its test.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
