//! The store's front: connections, the log of requests, and faults.

use std::future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::S3Service;
use s3s::{Body, HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fault::Fault;
use super::request::Request;

pub(super) type Rule = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// Stands between the network and the store.
pub(super) struct Front {
    service: S3Service,
    requests: Mutex<Vec<Request>>,
    rule: Mutex<Option<Rule>>,
}

impl Front {
    pub(super) fn new(service: S3Service) -> Front {
        Front { service, requests: Mutex::default(), rule: Mutex::default() }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(super) fn set_rule(&self, rule: Option<Rule>) {
        *lock(&self.rule) = rule;
    }

    /// Takes connections for ever.
    pub(super) async fn serve(self: &Arc<Front>, listener: &TcpListener, tls: Option<TlsAcceptor>) {
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
                        if let Ok(stream) = tls.accept(stream).await {
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
        let damage = match fault {
            Some(Fault::Damage { offset }) => Some(offset),
            _ => None,
        };
        let fed = fed.map(|chunk: Result<Bytes, hyper::Error>| chunk.map(Frame::data));
        // s3s wants to know beforehand that there is nothing to come.
        let fed = match body.is_end_stream() {
            true => Body::empty(),
            false => Body::http_body_unsync(StreamBody::new(fed)),
        };
        let request = hyper::Request::from_parts(parts, fed);
        let answer = async {
            match &fault {
                Some(Fault::Disconnect) => Err(io::ErrorKind::ConnectionAborted.into()),
                Some(Fault::Answer { status, headers, body }) => {
                    drop(request);
                    let mut answer = hyper::Response::builder().status(*status);
                    for (name, value) in headers {
                        answer = answer.header(name, value);
                    }
                    answer.body(Body::from(body.clone())).map_err(io::Error::other)
                }
                Some(Fault::Hang) => {
                    drop(request);
                    future::pending().await
                }
                Some(Fault::Delay(delay)) => {
                    tokio::time::sleep(*delay).await;
                    self.service.call(request).await.map_err(io::Error::other)
                }
                Some(Fault::LoseAnswer | Fault::Damage { .. }) | None => {
                    self.service.call(request).await.map_err(io::Error::other)
                }
            }
        };
        // The body is read to its end also when the answer is known before: a
        // client that is still sending might otherwise meet a closed connection
        // and never hear it.
        let (answer, body_bytes) = match fault {
            Some(Fault::Disconnect) => (answer.await, 0),
            _ => tokio::join!(answer, pump(body, feed, damage)),
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
}

/// Hands a body on, perhaps with one bit changed, and counts its bytes.
async fn pump(
    mut body: Incoming,
    mut feed: mpsc::Sender<Result<Bytes, hyper::Error>>,
    damage: Option<u64>,
) -> u64 {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let chunk = match frame.map(Frame::into_data) {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(_trailers)) => continue,
            Err(err) => {
                let _ = feed.send(Err(err)).await;
                break;
            }
        };
        let offset = damage.and_then(|offset| usize::try_from(offset.checked_sub(bytes)?).ok());
        bytes += chunk.len() as u64;
        let chunk = match offset {
            Some(offset) if offset < chunk.len() => {
                let mut damaged = BytesMut::from(chunk);
                damaged[offset] ^= 1;
                damaged.freeze()
            }
            _ => chunk,
        };
        // Fails when the store has made up its mind without the rest.
        let _ = feed.send(Ok(chunk)).await;
    }
    bytes
}

/// A rule that panicked has failed its test; the log is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
