//! Carries rusoto's requests over reqwest, signed or with what stands in for a signature.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, NoProxy, Proxy, Url};
use rusoto_core::ByteStream;
use rusoto_core::request::{
    DispatchSignedRequest, DispatchSignedRequestFuture, HttpDispatchError, HttpResponse,
};
use rusoto_core::signature::{SignedRequest, SignedRequestPayload};
use tokio::time::sleep;

use super::credentials::{Credentials, Grant};
use super::options;
use super::verdict::is_of_credentials;
use crate::config::{ObjectOptions, S3Config};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long no byte of a request may be taken, and after the last of them no
/// answer given.
const STALL_DEADLINE: Duration = Duration::from_secs(60);
/// Putting the parts of a large object together takes minutes, in which the
/// store says nothing ("CompleteMultipartUpload" in the S3 API reference).
const COMPLETE_DEADLINE: Duration = Duration::from_secs(600);
/// No answer to what we ask is longer than a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// An HTTP client that authorises what it sends.
pub struct Transport(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    credentials: Credentials,
    options: ObjectOptions,
    bucket: String,
    path_style: bool,
}

impl Transport {
    /// A client for the store in `config`. Connects to nothing yet.
    pub fn new(config: S3Config) -> anyhow::Result<Transport> {
        // An error means that there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = || {
            reqwest::Client::builder()
                .user_agent(concat!("coredump-uploader/", env!("CARGO_PKG_VERSION")))
                .tls_certs_merge(config.authorities.clone())
                .connect_timeout(CONNECT_DEADLINE)
                // A request is authorised for its host: elsewhere it is worth
                // nothing, or too much.
                .redirect(Policy::none())
        };
        let http = match &config.proxy {
            None => client(),
            Some(proxy) => client().proxy(Proxy::all(proxy)?.no_proxy(NoProxy::from_env())),
        };
        let http = http.build().context("making an HTTP client")?;
        log::info!(source:% = config.auth; "credentials have one source");
        let credentials = Credentials::new(config.auth, &http, || client().no_proxy().build());
        let credentials = credentials.context("making an HTTP client")?;
        let (options, bucket, path_style) = (config.options, config.bucket, config.path_style);
        Ok(Transport(Arc::new(Inner { http, credentials, options, bucket, path_style })))
    }
}

impl DispatchSignedRequest for Transport {
    fn dispatch(&self, request: SignedRequest, _: Option<Duration>) -> DispatchSignedRequestFuture {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let answered = inner.send(request).await;
            answered.map_err(|err| HttpDispatchError::new(format!("{err:#}")))
        })
    }
}

impl Inner {
    async fn send(&self, mut request: SignedRequest) -> anyhow::Result<HttpResponse> {
        if !self.path_style {
            self.name_bucket_in_host(&mut request);
        }
        for (name, value) in options::headers(&self.options, &request.method, &request.params) {
            request.add_header(name, value);
        }
        let grant = self.credentials.grant().await?;
        authorise(&mut request, &grant);
        let streams = matches!(request.payload, Some(SignedRequestPayload::Stream(_)));
        let (status, headers, body) = self.exchange(&mut request).await?;
        let another = match is_of_credentials(status, &body) {
            true => self.credentials.instead_of(&grant).await,
            false => None,
        };
        // What was streamed is gone. Who sent it tries again, with the other one.
        let Some(another) = another.filter(|_| !streams) else { return answer(status, &headers, body) };
        authorise(&mut request, &another);
        let (status, headers, body) = self.exchange(&mut request).await?;
        answer(status, &headers, body)
    }

    /// One request and its answer, in which rusoto can read.
    async fn exchange(&self, request: &mut SignedRequest) -> anyhow::Result<(u16, HeaderMap, Vec<u8>)> {
        let method = Method::from_bytes(request.method.as_bytes())?;
        let (posts, gets) = (method == Method::POST, method == Method::GET);
        let completes = posts && request.params.contains_key("uploadId");
        let deadline = if completes { COMPLETE_DEADLINE } else { STALL_DEADLINE };
        let progress = Arc::new(AtomicU64::new(0));
        let mut http = self.http.request(method, url(request)?).headers(headers(request)?);
        http = match request.payload.take() {
            None => http,
            Some(SignedRequestPayload::Buffer(bytes)) => {
                request.payload = Some(SignedRequestPayload::Buffer(bytes.clone()));
                http.body(bytes)
            }
            Some(SignedRequestPayload::Stream(stream)) => {
                let sent = Arc::clone(&progress);
                let counted = stream.inspect_ok(move |chunk| {
                    sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                });
                http.body(reqwest::Body::wrap_stream(counted))
            }
        };
        let exchange = async {
            let response = http.send().await.map_err(|err| anyhow!("{}", chain(&err)))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = bounded(response).await?;
            anyhow::Ok((status, headers, body))
        };
        let (status, headers, body) = tokio::select! {
            answer = exchange => answer?,
            () = stalled(&progress, deadline) => bail!("nothing has moved for {} seconds", deadline.as_secs()),
        };
        let root = match (posts, completes, gets) {
            (true, true, _) => Some("CompleteMultipartUploadResult"),
            (true, false, _) => Some("InitiateMultipartUploadResult"),
            (false, _, true) => Some("ListMultipartUploadsResult"),
            (false, _, false) => None,
        };
        let (status, body) = readable(status, body, root);
        Ok((status, headers, body))
    }

    /// From `host/bucket/key` to `bucket.host/key`, which rusoto cannot do.
    fn name_bucket_in_host(&self, request: &mut SignedRequest) {
        let bucket = &self.bucket;
        if let Some(path) = request.path.strip_prefix(&format!("/{bucket}")) {
            let (path, host) = (path.to_owned(), format!("{bucket}.{}", request.hostname()));
            request.path = path;
            request.set_hostname(Some(host));
        }
    }
}

/// Signs a request, or has it show what stands in for a signature. May be done
/// again.
fn authorise(request: &mut SignedRequest, grant: &Grant) {
    match grant {
        Grant::Pair(pair) => request.sign(pair),
        Grant::Bearer(token) => {
            // What signing does besides.
            request.complement();
            request.remove_header("authorization");
            request.add_header("authorization", &format!("Bearer {token}"));
        }
    }
}

fn url(request: &SignedRequest) -> anyhow::Result<Url> {
    let query = request.canonical_query_string();
    let mark = if query.is_empty() { "" } else { "?" };
    let url =
        format!("{}://{}{}{mark}{query}", request.scheme(), request.hostname(), request.canonical_uri());
    Url::parse(&url).with_context(|| format!("reading the address {url}"))
}

fn headers(request: &SignedRequest) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, values) in request.headers() {
        for value in values {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            headers.append(name, HeaderValue::from_bytes(value)?);
        }
    }
    Ok(headers)
}

/// Returns when nothing has moved for as long as `deadline`.
async fn stalled(progress: &AtomicU64, deadline: Duration) {
    let mut before = None;
    loop {
        let now = Some(progress.load(Ordering::Relaxed));
        if now == before {
            return;
        }
        before = now;
        sleep(deadline).await;
    }
}

pub(super) async fn bounded(response: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|err| anyhow!("{}", chain(&err)))?;
        anyhow::ensure!(
            body.len() + chunk.len() <= MAX_ANSWER,
            "the answer is longer than {MAX_ANSWER} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What rusoto may be given to read: it never returns from XML that is not
/// well-formed, and takes any root element for success. A store says 200
/// before it puts parts together, and may then say in the body that it could
/// not; a proxy says it to show a page of its own.
fn readable(status: u16, body: Vec<u8>, root: Option<&str>) -> (u16, Vec<u8>) {
    let found = root_element(&body);
    match (status, root) {
        (200..300, Some(root)) if found.as_deref() != Some(root) => (502, error_of(&found, body)),
        (200..300, _) => (status, body),
        _ => (status, error_of(&found, body)),
    }
}

/// The name of the root element, if the whole text is well-formed XML.
fn root_element(xml: &[u8]) -> Option<String> {
    let mut root = None;
    for event in xml::EventReader::new(xml) {
        if let xml::reader::XmlEvent::StartElement { name, .. } = event.ok()? {
            root.get_or_insert(name.local_name);
        }
    }
    root
}

/// An error as S3 would say it, of whatever was said instead.
fn error_of(root: &Option<String>, body: Vec<u8>) -> Vec<u8> {
    if body.is_empty() || root.as_deref() == Some("Error") {
        return body;
    }
    let said: String =
        String::from_utf8_lossy(&body).chars().take(200).filter(|c| !"<>&".contains(*c)).collect();
    format!("<Error><Message>{}</Message></Error>", said.escape_debug()).into_bytes()
}

fn answer(status: u16, headers: &HeaderMap, body: Vec<u8>) -> anyhow::Result<HttpResponse> {
    let mut told = http02::HeaderMap::<String>::default();
    for (name, value) in headers {
        let name = http02::header::HeaderName::from_bytes(name.as_str().as_bytes())?;
        told.insert(name, String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let status = http02::StatusCode::from_u16(status)?;
    let body = ByteStream::new(stream::iter([io::Result::Ok(Bytes::from(body))]));
    Ok(HttpResponse { status, headers: told, body })
}

/// reqwest's errors leave the cause to their sources, as errors should, and
/// rusoto takes only a string.
pub(super) fn chain(err: &reqwest::Error) -> String {
    let mut said = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        let cause = err.to_string();
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
        source = err.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_that_was_asked_for_is_a_success() {
        let root = "CompleteMultipartUploadResult";
        let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n  \n";
        let status = |body: &str| readable(200, format!("{head}{body}").into_bytes(), Some(root)).0;
        assert_eq!(
            status("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"),
            200
        );
        for wrong in [
            "<Error><Code>InternalError</Code></Error>",
            "<CompleteMultipartUploadResult><ETag>x</ETag>",
            "<html><head><meta></head></html>",
            "",
        ] {
            assert_eq!(status(wrong), 502, "{wrong}");
        }
    }

    #[test]
    fn an_error_that_cannot_be_read_is_told_as_it_stands() {
        let told = |body: &str| String::from_utf8(readable(503, body.into(), None).1).unwrap();
        assert_eq!(told("<Error><Code>SlowDown</Code></Error>"), "<Error><Code>SlowDown</Code></Error>");
        assert_eq!(told("<html><p>busy"), "<Error><Message>htmlpbusy</Message></Error>");
        assert_eq!(told(""), "");
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_stalled() {
        let progress = AtomicU64::new(0);
        let began = tokio::time::Instant::now();
        tokio::select! {
            () = stalled(&progress, STALL_DEADLINE) => {}
            () = async {
                for _ in 0..100 {
                    sleep(STALL_DEADLINE / 2).await;
                    progress.fetch_add(1, Ordering::Relaxed);
                }
                std::future::pending::<()>().await;
            } => {}
        }
        assert!(began.elapsed() >= STALL_DEADLINE * 50);
        assert!(began.elapsed() <= STALL_DEADLINE * 53);
    }
}
