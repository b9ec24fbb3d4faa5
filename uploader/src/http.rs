//! `/metrics`, `/livez` and `/readyz`.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::metrics::MEDIA_TYPE;
use crate::monitor::Monitor;

/// One scraper and one kubelet need two.
const CONNECTIONS: usize = 16;
/// For a whole connection, which is one request, so that nobody keeps one.
const DEADLINE: Duration = Duration::from_secs(10);
/// A request of more is refused. The least that hyper takes is 8 KiB.
const REQUEST_BYTES: usize = 16 << 10;
/// When there are no descriptors to be had, as after a failed accept(2).
const RESPITE: Duration = Duration::from_millis(100);

/// Answers at `address`, in a thread of its own: it has something to say above
/// all when the daemon's is stuck.
///
/// # Errors
/// If the address is not to be had.
pub fn serve(address: SocketAddr, monitor: Arc<Monitor>) -> io::Result<()> {
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    log::info!(address:% = listener.local_addr()?; "listening");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || runtime.block_on(accept(listener, monitor));
    thread::Builder::new().name("http".to_owned()).spawn(serve)?;
    Ok(())
}

/// `[::]` is every address of either kind, and every one there is where the kernel
/// was booted without IPv6.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|err| match address.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) if err.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        _ => Err(err),
    })
}

async fn accept(listener: TcpListener, monitor: Arc<Monitor>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(err) => return log::error!("nobody can be answered: {err}"),
    };
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RESPITE).await;
            continue;
        };
        let monitor = Arc::clone(&monitor);
        tokio::spawn(async move {
            let service = service_fn(|request: hyper::Request<_>| {
                let answer = answer(request.method(), request.uri().path(), &monitor);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            http.keep_alive(false).max_buf_size(REQUEST_BYTES);
            // How it ends is the client's affair.
            let _ = timeout(DEADLINE, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

fn answer(method: &Method, path: &str, monitor: &Monitor) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are what there is");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/metrics" => {
            let mut metrics = Response::new(Full::from(monitor.text()));
            metrics.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            metrics
        }
        "/livez" => verdict("alive", &Vec::from_iter(monitor.alive().err())),
        "/readyz" => verdict("ready", &monitor.obstacles()),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz"),
    }
}

fn verdict(well: &str, obstacles: &[String]) -> Response<Full<Bytes>> {
    match obstacles {
        [] => text(StatusCode::OK, well),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, &obstacles.join("\n")),
    }
}

fn text(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{words}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
