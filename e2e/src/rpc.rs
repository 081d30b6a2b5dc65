//! The CRI without a client program in between, for requests that crictl would refuse itself.

use crate::LIMIT;
use gantry_cri_api::MAX_MESSAGE;
use gantry_cri_api::v1::image_service_client::ImageServiceClient;
use gantry_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use gantry_cri_api::v1::{ContainerEventResponse, GetEventsRequest};
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection to a daemon's RuntimeService, and what drives it.
#[derive(Debug)]
pub struct Rpc {
    runtime: tokio::runtime::Runtime,
    client: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// What happens on a node, since a subscription.
#[derive(Debug)]
pub struct Events<'a> {
    rpc: &'a Rpc,
    stream: tonic::Streaming<ContainerEventResponse>,
}

impl Events<'_> {
    /// The next event; `None` when the daemon has ended the stream. Panics when none comes in time.
    #[track_caller]
    pub fn receive(&mut self) -> Option<ContainerEventResponse> {
        let stream = &mut self.stream;
        let next = self.rpc.runtime.block_on(async { tokio::time::timeout(LIMIT, stream.message()).await });
        next.expect("an event comes in time").expect("the stream goes on")
    }
}

impl Rpc {
    /// Dials `socket`.
    pub fn connect(socket: &Path) -> Self {
        // A thread of its own answers for the connection while the test does other things.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("build a runtime");
        let path = socket.to_owned();
        // The authority is never used: the connector ignores it.
        let endpoint = Endpoint::from_static("http://daemon.local");
        let dial = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }));
        let channel = runtime.block_on(dial).unwrap_or_else(|e| panic!("dial {}: {e}", socket.display()));
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let client = RuntimeServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { runtime, client, images }
    }

    /// Makes a call and waits for its answer.
    pub fn call<F, T>(&self, make: impl FnOnce(RuntimeServiceClient<Channel>) -> F) -> F::Output
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.runtime.block_on(make(self.client.clone()))
    }

    /// As [`Rpc::call`], of the ImageService.
    pub fn call_images<F, T>(&self, make: impl FnOnce(ImageServiceClient<Channel>) -> F) -> F::Output
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.runtime.block_on(make(self.images.clone()))
    }

    /// All parts of an answer that comes in parts.
    pub fn collect<T>(&self, answer: tonic::Response<tonic::Streaming<T>>) -> Vec<T> {
        let mut stream = answer.into_inner();
        self.runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(part) = stream.message().await.expect("the next part") {
                all.push(part);
            }
            all
        })
    }

    /// Subscribes to events; returns once the daemon has taken the subscription.
    #[track_caller]
    pub fn events(&self) -> Events<'_> {
        let subscribed = self.call(|mut c| async move { c.get_container_events(GetEventsRequest {}).await });
        Events { rpc: self, stream: subscribed.expect("subscribe to events").into_inner() }
    }
}
