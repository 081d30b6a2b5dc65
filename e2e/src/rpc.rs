//! The CRI without a client program in between, for requests that crictl would refuse itself.

use gantry_cri_api::MAX_MESSAGE;
use gantry_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection to a daemon's RuntimeService, and what drives it.
#[derive(Debug)]
pub struct Rpc {
    runtime: tokio::runtime::Runtime,
    client: RuntimeServiceClient<Channel>,
}

impl Rpc {
    /// Dials `socket`.
    pub fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("build a runtime");
        let path = socket.to_owned();
        // The authority is never used: the connector ignores it.
        let endpoint = Endpoint::from_static("http://daemon.local");
        let dial = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }));
        let channel = runtime.block_on(dial).unwrap_or_else(|e| panic!("dial {}: {e}", socket.display()));
        let client = RuntimeServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { runtime, client }
    }

    /// Makes a call and waits for its answer.
    pub fn call<F, T>(&self, make: impl FnOnce(RuntimeServiceClient<Channel>) -> F) -> F::Output
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.runtime.block_on(make(self.client.clone()))
    }
}
