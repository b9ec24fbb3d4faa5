//! Stands in for `hyper-tls` 0.5.
//!
//! rusoto_core does not build without a TLS stack, and those it offers are
//! years old. Our requests travel through reqwest and never through rusoto's
//! own client, so this gives it the type it insists on, without any TLS behind
//! it. That nothing connects through it is thereby not a promise but a fact.
//! See docs/decisions/0006-rusoto-over-reqwest.md.

use std::future::{self, Ready};
use std::io;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::client::HttpConnector;
use hyper::service::Service;
use tokio::net::TcpStream;

/// A connector that never connects.
pub struct HttpsConnector<T>(PhantomData<T>);

impl HttpsConnector<HttpConnector> {
    /// What rusoto_core calls.
    #[expect(clippy::new_without_default, reason = "nobody should make one without being made to")]
    pub fn new() -> Self {
        HttpsConnector(PhantomData)
    }
}

impl<T> Clone for HttpsConnector<T> {
    fn clone(&self) -> Self {
        HttpsConnector(PhantomData)
    }
}

impl<T> Service<Uri> for HttpsConnector<T> {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Ready<io::Result<TcpStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        future::ready(Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "rusoto's own client is not to be used",
        )))
    }
}
