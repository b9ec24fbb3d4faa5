//! A runtime for tests of what a real one does not do on demand.

use std::sync::Arc;
use std::thread;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Response};
use prost::Message;
use protocol::host::HostPath;
use tempfile::TempDir;
use tokio::net::UnixListener;

/// What it does when it is asked.
pub enum Reply {
    Answer(Vec<u8>),
    /// The connection is gone after half of it.
    Half(Vec<u8>),
    Silence,
}

impl Reply {
    pub fn message(message: &impl Message) -> Reply {
        Reply::Answer(message.encode_to_vec())
    }
}

/// A runtime that listens for as long as it is there.
pub struct Fake {
    socket: HostPath,
    _dir: TempDir,
}

impl Fake {
    /// One that answers a method, such as `ContainerStatus`, like this.
    pub fn new(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let reply = Arc::new(reply);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&reply)));
                }
            });
        });
        Fake { socket: HostPath::try_from(path.to_str().unwrap()).unwrap(), _dir: dir }
    }

    pub fn socket(&self) -> HostPath {
        self.socket.clone()
    }
}

/// gRPC as far as it takes: an answer is a length and a message, and its status
/// comes after it.
async fn serve(stream: tokio::net::UnixStream, reply: Arc<impl Fn(&str) -> Reply>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut silent = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let framed = |message: &[u8]| -> Bytes {
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(message.len() as u32);
            frame.put_slice(message);
            frame.freeze()
        };
        match reply(&method) {
            Reply::Answer(message) => {
                let mut body = respond.send_response(head, false).unwrap();
                body.send_data(framed(&message), false).unwrap();
                let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                body.send_trailers(status).unwrap();
            }
            Reply::Half(message) => {
                let mut body = respond.send_response(head, false).unwrap();
                let frame = framed(&message);
                body.send_data(frame.slice(..frame.len() / 2), false).unwrap();
                // What was sent goes out, and that is all.
                let _ =
                    tokio::time::timeout(std::time::Duration::from_millis(100), connection.accept()).await;
                return;
            }
            Reply::Silence => silent.push(respond),
        }
    }
}
