//! The container runtime, over its own socket: a client of the CRI, version 1.
//!
//! What it is asked takes a few milliseconds, or for ever; whoever asks has the
//! deadline. `message` is what goes over the wire, `json` how it is printed.

#[cfg(test)]
pub mod fake;
pub mod json;
pub mod message;

use std::error::Error;
use std::fmt::Write;

use http::uri::PathAndQuery;
use prost::Message;
use protocol::host::HostPath;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use message::{
    ContainerFilter, ContainerStatusRequest, ImageSpec, ImageStatusRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandboxFilter, PodSandboxStatusRequest,
};
use message::{
    ContainerStatusResponse, ImageStatusResponse, ListContainersResponse, ListPodSandboxResponse,
    PodSandboxStatusResponse,
};

/// The most that a list may have, in bytes. It is one of a pod or of its
/// containers, half of which may be annotations; as structs it takes up to
/// twenty times as much, and the composer has 32 MiB for everything.
const MAX_LIST: usize = 1 << 20;
/// The most that a status may have. Most of it is one text.
const MAX_STATUS: usize = 4 << 20;

/// A runtime that listened. Errors are sentences.
pub struct Runtime(Channel);

impl Runtime {
    /// Connects to the runtime that listens at `socket`.
    pub async fn connect(socket: &HostPath) -> Result<Runtime, String> {
        let endpoint = Endpoint::from_shared(format!("unix://{socket}")).map_err(|err| chain(&err))?;
        endpoint.connect().await.map(Runtime).map_err(|err| chain(&err))
    }

    /// The containers that match; what crictl's `ps -a` asks for.
    pub async fn containers(&self, filter: ContainerFilter) -> Result<ListContainersResponse, String> {
        let request = ListContainersRequest { filter: Some(filter) };
        self.call("/runtime.v1.RuntimeService/ListContainers", request, MAX_LIST).await
    }

    /// The pods' sandboxes that match; what crictl's `pods` asks for.
    pub async fn sandboxes(&self, filter: PodSandboxFilter) -> Result<ListPodSandboxResponse, String> {
        let request = ListPodSandboxRequest { filter: Some(filter) };
        self.call("/runtime.v1.RuntimeService/ListPodSandbox", request, MAX_LIST).await
    }

    /// All about a container; crictl's `inspect`.
    pub async fn container(&self, container_id: String) -> Result<ContainerStatusResponse, String> {
        let request = ContainerStatusRequest { container_id, verbose: true };
        self.call("/runtime.v1.RuntimeService/ContainerStatus", request, MAX_STATUS).await
    }

    /// All about a sandbox; crictl's `inspectp`.
    pub async fn sandbox(&self, pod_sandbox_id: String) -> Result<PodSandboxStatusResponse, String> {
        let request = PodSandboxStatusRequest { pod_sandbox_id, verbose: true };
        self.call("/runtime.v1.RuntimeService/PodSandboxStatus", request, MAX_STATUS).await
    }

    /// All about an image; crictl's `inspecti`.
    pub async fn image(&self, image: String) -> Result<ImageStatusResponse, String> {
        let image = Some(ImageSpec { image, ..ImageSpec::default() });
        let request = ImageStatusRequest { image, verbose: true };
        self.call("/runtime.v1.ImageService/ImageStatus", request, MAX_STATUS).await
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q, max: usize) -> Result<A, String>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let name = method.rsplit('/').next().unwrap_or(method);
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(max);
        grpc.ready().await.map_err(|err| format!("{name}: {}", chain(&err)))?;
        let path = PathAndQuery::from_static(method);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| format!("{name}: {}", sentence(&status)))
    }
}

/// What the runtime said, or what became of what it said.
fn sentence(status: &Status) -> String {
    match (status.code(), status.source()) {
        (_, Some(source)) => chain(source),
        (Code::Unimplemented, None) => format!("the runtime does not speak CRI v1: {}", status.message()),
        (code, None) => format!("{code:?}: {}", status.message()),
    }
}

fn chain(err: &dyn Error) -> String {
    let mut said = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        // Some of them say again what their source says.
        let this = err.to_string();
        if !said.contains(&this) {
            let _ = write!(said, ": {this}");
        }
        source = err.source();
    }
    said
}
