//! The connection to a daemon.

use anyhow::{Context as _, Result, bail};
use gantry_cri_api::MAX_MESSAGE;
use gantry_cri_api::local::v1::local_client::LocalClient;
use gantry_cri_api::v1::image_service_client::ImageServiceClient;
use gantry_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Clients of the daemon's services, over one connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    pub(crate) local: LocalClient<Channel>,
}

impl Client {
    /// Dials `unix:///path`.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let Some(path) = address.strip_prefix("unix://").filter(|p| p.starts_with('/')) else {
            bail!("--socket {address:?}: write unix:///path/to/socket");
        };
        let path = PathBuf::from(path);
        let hint = format!(
            "no daemon answers on {address}; start one with `gantry serve`, or name its socket with --socket"
        );
        // The authority is never used: the connector below ignores it.
        let channel = Endpoint::from_static("http://gantry.local")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .context(hint)?;
        let runtime = RuntimeServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let local = LocalClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { runtime, images, local })
    }
}
