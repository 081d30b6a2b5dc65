//! The connection to a daemon, and what the kernel knows of the daemon.

use anyhow::{Context as _, Result};
use gantry_cri_api::MAX_MESSAGE;
use gantry_cri_api::v1::image_service_client::ImageServiceClient;
use gantry_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// No call may take longer: the kubelet gives up after two minutes, too.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// Clients of one daemon over one connection. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
}

impl Client {
    /// Dials the unix socket `path`.
    pub(crate) async fn connect(path: &Path) -> Result<Self> {
        let target = path.to_owned();
        // The authority is never used: the connector below ignores it.
        let channel = Endpoint::from_static("http://cri.local")
            .timeout(CALL_LIMIT)
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let target = target.clone();
                async move { UnixStream::connect(target).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("no daemon answers on {}", path.display()))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        })
    }
}

/// Process that listens on the unix socket `path`, as the kernel remembers it.
pub(crate) async fn listener(path: &Path) -> Result<i32> {
    let stream = UnixStream::connect(path).await.with_context(|| format!("connect to {}", path.display()))?;
    let credentials = stream.peer_cred().with_context(|| format!("ask who listens on {}", path.display()))?;
    credentials
        .pid()
        .with_context(|| format!("the listener on {} is in no PID namespace of ours", path.display()))
}
