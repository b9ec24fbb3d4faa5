//! The store's front: connections, the log of requests, and faults.

use std::future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::{Body, HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::fault::Fault;
use super::request::Request;
use super::tls::Acceptors;

/// How often whoever is slow looks whether he still has to be.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) type Rule = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;
type Service =
    Box<dyn Fn(hyper::Request<Body>) -> BoxFuture<'static, io::Result<HttpResponse>> + Send + Sync>;

/// Stands between the network and a service, such as the store.
pub(crate) struct Front {
    service: Service,
    requests: Mutex<Vec<Request>>,
    rule: Mutex<Option<Rule>>,
    is_stranger: AtomicBool,
}

impl Front {
    pub(crate) fn new<F>(service: impl Fn(hyper::Request<Body>) -> F + Send + Sync + 'static) -> Front
    where
        F: Future<Output = io::Result<HttpResponse>> + Send + 'static,
    {
        let service: Service = Box::new(move |request| Box::pin(service(request)));
        Front {
            service,
            requests: Mutex::default(),
            rule: Mutex::default(),
            is_stranger: AtomicBool::default(),
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(crate) fn set_rule(&self, rule: Option<Rule>) {
        *lock(&self.rule) = rule;
    }

    pub(super) fn be_stranger(&self, stranger: bool) {
        self.is_stranger.store(stranger, Ordering::Relaxed);
    }

    /// Takes connections for ever.
    pub(super) async fn serve(self: &Arc<Front>, listener: &TcpListener, tls: Option<Acceptors>) {
        loop {
            // Connections that failed before we took them are the client's affair.
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let (front, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => front.converse(stream).await,
                    // That a client does not trust us is what some tests want.
                    Some(tls) => {
                        let is_stranger = front.is_stranger.load(Ordering::Relaxed);
                        let acceptor = if is_stranger { tls.stranger } else { tls.own };
                        if let Ok(stream) = acceptor.accept(stream).await {
                            front.converse(stream).await;
                        }
                    }
                }
            });
        }
    }

    async fn converse(self: Arc<Front>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let service = service_fn(move |request| {
            let front = self.clone();
            // In a task of its own: a store ends what it has begun, whoever hangs
            // up meanwhile.
            let answer = tokio::spawn(async move { front.answer(request).await });
            async { answer.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) }
        });
        // A conversation ends in an error when either side hangs up, which is
        // no news here.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    /// An error closes the connection without an answer.
    async fn answer(&self, request: hyper::Request<Incoming>) -> io::Result<HttpResponse> {
        let (parts, body) = request.into_parts();
        let seen = Request::new(&parts);
        let fault = lock(&self.rule).as_mut().and_then(|rule| rule(&seen));
        let number = {
            let mut requests = lock(&self.requests);
            requests.push(seen);
            requests.len() - 1
        };

        let (feed, fed) = mpsc::channel(0);
        let fed = fed.map(|chunk: Result<Bytes, hyper::Error>| chunk.map(Frame::data));
        // s3s wants to know beforehand that there is nothing to come.
        let fed = match body.is_end_stream() {
            true => Body::empty(),
            false => Body::http_body_unsync(StreamBody::new(fed)),
        };
        let request = hyper::Request::from_parts(parts, fed);
        let answer = async {
            match &fault {
                Some(Fault::Disconnect | Fault::Cut { .. }) => Err(io::ErrorKind::ConnectionAborted.into()),
                Some(Fault::Answer { status, headers, body }) => {
                    drop(request);
                    answer(*status, headers, body.clone())
                }
                Some(Fault::Hang) => {
                    drop(request);
                    future::pending().await
                }
                Some(Fault::Delay(delay)) => {
                    sleep(*delay).await;
                    (self.service)(request).await
                }
                Some(Fault::LoseAnswer | Fault::Damage { .. } | Fault::Slow { .. }) | None => {
                    (self.service)(request).await
                }
            }
        };
        // The body is read to its end also when the answer is known before: a
        // client that is still sending might otherwise meet a closed connection
        // and never hear it.
        let (answer, body_bytes) = match fault {
            Some(Fault::Disconnect) => (answer.await, 0),
            Some(Fault::Cut { after }) => (answer.await, swallow(body, after).await),
            _ => tokio::join!(answer, self.pump(body, feed, fault.as_ref())),
        };
        let answer = match fault {
            Some(Fault::LoseAnswer) => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => answer,
        };
        let request = &mut lock(&self.requests)[number];
        request.body_bytes = body_bytes;
        request.status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        answer
    }

    /// Hands a body on, perhaps slowly or with one bit changed, and counts its bytes.
    async fn pump(
        &self,
        mut body: Incoming,
        mut feed: mpsc::Sender<Result<Bytes, hyper::Error>>,
        fault: Option<&Fault>,
    ) -> u64 {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let mut chunk = match frame.map(Frame::into_data) {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(_trailers)) => continue,
                Err(err) => {
                    let _ = feed.send(Err(err)).await;
                    break;
                }
            };
            let before = bytes;
            bytes += chunk.len() as u64;
            match fault {
                Some(Fault::Slow { rate }) => self.dawdle(chunk.len() as u64, *rate).await,
                Some(Fault::Damage { offset }) if (before..bytes).contains(offset) => {
                    let mut damaged = BytesMut::from(chunk);
                    damaged[(offset - before) as usize] ^= 1;
                    chunk = damaged.freeze();
                }
                _ => {}
            }
            // Fails when the store has made up its mind without the rest.
            let _ = feed.send(Ok(chunk)).await;
        }
        bytes
    }

    /// Takes as long as so many bytes do at this rate, while there are faults.
    async fn dawdle(&self, bytes: u64, rate: u64) {
        let end = Instant::now() + Duration::from_secs_f64(bytes as f64 / rate as f64);
        while Instant::now() < end && lock(&self.rule).is_some() {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// An answer.
pub(crate) fn answer(status: u16, headers: &[(String, String)], body: String) -> io::Result<HttpResponse> {
    let mut answer = hyper::Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    answer.body(Body::from(body)).map_err(io::Error::other)
}

/// Reads so many bytes of a body, and counts them.
async fn swallow(mut body: Incoming, most: u64) -> u64 {
    let mut bytes = 0;
    while bytes < most
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, |chunk| chunk.len() as u64);
    }
    bytes
}

/// A rule that panicked has failed its test; the log is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
