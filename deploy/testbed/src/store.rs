//! An S3 store on loopback for people and tests without one.
//!
//! `s3s` speaks the protocol and verifies signatures, `s3s-fs` keeps objects as
//! plain files; the module `backend` mends where the latter is kinder than a real store.
//! It has threads of its own, so a test needs no runtime, and stops on drop.

mod backend;
mod fault;
pub(crate) mod front;
mod passes;
mod request;
pub(crate) mod server;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result, ensure};
use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;

use self::backend::Backend;
use self::front::{Front, answer};
use self::passes::Gate;
use self::server::{Server, any_port};

pub use self::fault::Fault;
pub use self::passes::{Passes, Session};
pub use self::request::{Operation, Request};

/// The HMAC pair the store knows. No secret: it guards nothing.
pub const ACCESS_KEY: &str = "testbed";
/// See [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "testbed-secret";
/// The region to sign for. The store takes any.
pub const REGION: &str = "us-east-1";
/// `<bucket>.s3.test` names a bucket in the virtual-host style; every other
/// host is taken for the store itself, whatever it is called from where.
pub const DOMAIN: &str = "s3.test";

/// A running store.
pub struct Store {
    dir: PathBuf,
    ca_file: Option<PathBuf>,
    backend: Backend,
    passes: Passes,
    front: Arc<Front>,
    server: Server,
    _temporary: Option<TempDir>,
}

impl Store {
    /// A store with one bucket, in a directory that goes with it.
    pub fn temporary(bucket: &str) -> Store {
        Store::within_a_temporary_directory(bucket, Store::start)
    }

    /// The same over https; see [`Store::ca_file`].
    pub fn temporary_tls(bucket: &str) -> Store {
        Store::within_a_temporary_directory(bucket, Store::start_tls)
    }

    fn within_a_temporary_directory(bucket: &str, start: impl Fn(&Path) -> Result<Store>) -> Store {
        let dir = tempfile::tempdir().expect("a temporary directory for the store");
        let mut store = start(dir.path()).expect("the store starts");
        store.create_bucket(bucket).expect("the bucket is created");
        store._temporary = Some(dir);
        store
    }

    /// A store of what is in `dir`, on a free port.
    ///
    /// # Errors
    /// If `dir` is no directory or there is no port.
    pub fn start(dir: &Path) -> Result<Store> {
        Store::start_at(dir, any_port())
    }

    /// A store of what is in `dir`, at an address: perhaps that of one that was
    /// there before and is to come back.
    ///
    /// # Errors
    /// If `dir` is no directory or the address is taken.
    pub fn start_at(dir: &Path, addr: SocketAddr) -> Result<Store> {
        Store::launch(dir, addr, None)
    }

    /// A store of what is in `dir`, over https, with a certificate for
    /// 127.0.0.1, localhost and [`DOMAIN`] of a CA nobody knows.
    ///
    /// # Errors
    /// If `dir` is no directory or there is no port.
    pub fn start_tls(dir: &Path) -> Result<Store> {
        Store::launch(dir, any_port(), Some(tls::Identity::new()?))
    }

    fn launch(dir: &Path, addr: SocketAddr, identity: Option<tls::Identity>) -> Result<Store> {
        let backend = Backend::new(dir).with_context(|| format!("opening {}", dir.display()))?;
        let passes = Passes::default();
        let mut service = S3ServiceBuilder::new(backend.clone());
        service.set_auth(passes.clone());
        service.set_access(Gate);
        service.set_host(Hosts);
        let (service, gate) = (service.build(), passes.clone());
        let front = Arc::new(Front::new(move |mut request| {
            let (service, refused) = (service.clone(), gate.refuse(&mut request));
            async move {
                match refused {
                    Some(Fault::Answer { status, headers, body }) => answer(status, &headers, body),
                    _ => service.call(request).await.map_err(io::Error::other),
                }
            }
        }));
        let (ca_file, acceptor) = match identity {
            None => (None, None),
            Some(identity) => {
                let file = dir.join(".ca.pem");
                fs::write(&file, &identity.ca_pem).with_context(|| format!("writing {}", file.display()))?;
                let stranger = tls::Identity::new()?.acceptor;
                (Some(file), Some(tls::Acceptors { own: identity.acceptor, stranger }))
            }
        };
        let server = Server::start(Arc::clone(&front), addr, acceptor)?;
        Ok(Store { dir: dir.to_owned(), ca_file, backend, passes, front, server, _temporary: None })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The endpoint for path-style requests: `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme(), self.addr())
    }

    /// The endpoint for virtual-host style requests, `http://s3.test:<port>`.
    /// No resolver knows the name: say so to the client, or over plain http
    /// give it the store as its proxy.
    pub fn virtual_endpoint(&self) -> String {
        format!("{}://{DOMAIN}:{}", self.scheme(), self.addr().port())
    }

    fn scheme(&self) -> &'static str {
        if self.ca_file.is_some() { "https" } else { "http" }
    }

    /// The certificate to trust, in PEM, if the store speaks https.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// Creates a bucket, unless it is there.
    ///
    /// # Errors
    /// If S3 would not take the name or the directory cannot be made.
    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        ensure!(s3s::path::check_bucket_name(bucket), "{bucket:?} is no name for a bucket");
        fs::create_dir_all(self.dir.join(bucket)).with_context(|| format!("creating bucket {bucket}"))
    }

    /// The keys of all objects, sorted.
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        let (backend, bucket) = (self.backend.clone(), bucket.to_owned());
        self.ask(async move { backend.keys(bucket).await })
    }

    /// The file an object is kept in.
    pub fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.dir.join(bucket).join(key)
    }

    /// The bytes of an object.
    pub fn read(&self, bucket: &str, key: &str) -> Vec<u8> {
        fs::read(self.path(bucket, key)).unwrap_or_else(|err| panic!("reading object {bucket}/{key}: {err}"))
    }

    /// The user metadata of an object, without `x-amz-meta-`.
    pub fn metadata(&self, bucket: &str, key: &str) -> BTreeMap<String, String> {
        let (backend, bucket, key) = (self.backend.clone(), bucket.to_owned(), key.to_owned());
        self.ask(async move { backend.metadata(bucket, key).await })
    }

    /// How many multipart uploads were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.backend.open_uploads()
    }

    /// Begins an upload in parts, as somebody else would. Returns what the store
    /// calls it.
    pub fn begin_upload(&self, bucket: &str, key: &str) -> String {
        let (backend, bucket, key) = (self.backend.clone(), bucket.to_owned(), key.to_owned());
        self.ask(async move { backend.begin_upload(bucket, key).await })
    }

    /// Whether an upload was neither completed nor aborted.
    pub fn is_open(&self, upload_id: &str) -> bool {
        self.backend.is_open(upload_id)
    }

    /// Whom it lets in besides its own pair.
    pub fn passes(&self) -> Passes {
        self.passes.clone()
    }

    /// Every request so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.front.requests()
    }

    /// Asks `rule` about each request from now on, before the store sees it.
    /// `None` leaves it to the store. Requests wait for the rule one by one,
    /// and it must not set faults itself.
    pub fn set_faults(&self, rule: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.front.set_rule(Some(Box::new(rule)));
    }

    /// Who connects over https from now on meets somebody with the certificate of
    /// another CA.
    pub fn be_stranger(&self) {
        self.front.be_stranger(true);
    }

    /// From now on nothing is wrong.
    pub fn clear_faults(&self) {
        self.front.set_rule(None);
        self.front.be_stranger(false);
    }

    /// Runs `question` among the store's own threads, so that the caller may
    /// be on a runtime of its own, where blocking on another is forbidden.
    fn ask<T: Send + 'static>(&self, question: impl Future<Output = S3Result<T>> + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        self.server.spawn(async move { drop(answer.send(question.await)) });
        let answer = answered.recv().expect("the store's threads outlive the question");
        answer.unwrap_or_else(|err| panic!("the store cannot answer: {err:?}"))
    }
}

/// `s3s`'s own parsers take the name of a host they do not know for a bucket.
struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        let bucket = name.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.'));
        let host = VirtualHost::new(name);
        Ok(match bucket {
            Some(bucket) => host.with_bucket(bucket),
            None => host,
        })
    }
}
