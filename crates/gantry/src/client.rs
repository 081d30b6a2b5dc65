//! The connection to a daemon.

use anyhow::{Context as _, Result, bail};
use gantry_cri_api::local::v1::local_client::LocalClient;
use gantry_cri_api::v1::image_service_client::ImageServiceClient;
use gantry_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use gantry_cri_api::{MAX_MESSAGE, REALM_HEADER};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// Who made an object, and who may end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Realm {
    /// This command line.
    Local,
    /// The kubelet, through the CRI.
    Cri,
}

impl Realm {
    /// Both, in the order in which names are looked up.
    pub(crate) const ALL: [Self; 2] = [Self::Local, Self::Cri];

    /// As users write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cri => "cri",
        }
    }

    /// The one that was asked for, or both.
    pub(crate) fn asked(realm: Option<Self>) -> Vec<Self> {
        realm.map_or_else(|| Self::ALL.to_vec(), |r| vec![r])
    }
}

/// Names the realm in each call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameRealm(Realm);

impl Interceptor for NameRealm {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(REALM_HEADER, MetadataValue::from_static(self.0.name()));
        Ok(request)
    }
}

type Named = InterceptedService<Channel, NameRealm>;

/// Clients of the CRI, for one realm.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    pub(crate) runtime: RuntimeServiceClient<Named>,
    pub(crate) images: ImageServiceClient<Named>,
}

impl Cri {
    fn new(channel: &Channel, realm: Realm) -> Self {
        let channel = || channel.clone();
        Self {
            runtime: RuntimeServiceClient::with_interceptor(channel(), NameRealm(realm))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::with_interceptor(channel(), NameRealm(realm))
                .max_decoding_message_size(MAX_MESSAGE),
        }
    }
}

/// Clients of the daemon's services, over one connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    local_realm: Cri,
    cri_realm: Cri,
    /// What the CRI has no call for.
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
        Ok(Self {
            local_realm: Cri::new(&channel, Realm::Local),
            cri_realm: Cri::new(&channel, Realm::Cri),
            local: LocalClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        })
    }

    /// The CRI as one realm sees it.
    pub(crate) fn of(&mut self, realm: Realm) -> &mut Cri {
        match realm {
            Realm::Local => &mut self.local_realm,
            Realm::Cri => &mut self.cri_realm,
        }
    }
}
