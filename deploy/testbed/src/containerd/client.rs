//! The wire to the runtime: gRPC over its socket, without the build step that
//! generated code would need.

use std::path::Path;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A pod takes a second; a loaded machine is given the time for sixty.
const PATIENCE: Duration = Duration::from_secs(240);

/// A blocking client.
pub(super) struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects when it has to, so that the socket may come later.
    pub fn new(socket: &Path) -> Client {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let endpoint = endpoint.expect("a socket's path makes an endpoint");
        let channel = {
            let _context = runtime.enter(); // it spawns
            endpoint.connect_lazy()
        };
        Client { runtime, channel }
    }

    /// Calls a method, such as `RuntimeService/Version`, and panics if it fails.
    pub fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> A {
        let answer = self.call_raw(method, request.encode_to_vec());
        let answer = answer.unwrap_or_else(|status| panic!("{method}: {status}"));
        A::decode(&answer[..]).unwrap_or_else(|err| panic!("the answer to {method}: {err}"))
    }

    /// The same in bytes, for who knows what to do about a failure.
    pub fn call_raw(&self, method: &str, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let method: PathAndQuery = format!("/runtime.v1.{method}").parse().expect("a method's path");
        let call = async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|err| Status::unavailable(err.to_string()))?;
            Ok(grpc.unary(Request::new(request), method, Raw).await?.into_inner())
        };
        let call = async { tokio::time::timeout(PATIENCE, call).await };
        self.runtime.block_on(call).unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }
}

/// Messages are what they are in bytes, so that answers can be kept as fixtures
/// with all that we know nothing of.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
