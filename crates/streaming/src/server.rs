//! The listening side: URLs, connections and their bounds.

use crate::endpoint::{AttachRequest, Endpoint, ExecRequest, PortForwardRequest};
use crate::http_service::Service;
use crate::tls::{Tls, TlsError, TlsFiles};
use crate::tokens::{Request, TokenError, Tokens};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// Most ports of a port-forward over WebSocket channels, which are numbered by one byte.
const MAX_PORTS: usize = 100;

/// How long clients may take to end after the server was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Said to clients beyond the bound.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What the server is told. [`Config::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 is the kernel's choice.
    pub address: SocketAddr,
    /// What clients connect to, such as `https://node-1:10010`. Default: the address that is listened on.
    pub base_url: Option<String>,
    /// Certificates; without them it is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// How long a token is good.
    pub token_life: Duration,
    /// Most tokens at a time.
    pub max_tokens: usize,
    /// A connection on which nothing comes or goes for so long is ended.
    pub idle: Duration,
    /// How long a client may take to open the streams of its request.
    pub stream_creation: Duration,
    /// How long a client may take for the handshake of TLS, and for the head of its request.
    pub header_read: Duration,
    /// Most connections at a time; more are answered 503.
    pub max_connections: usize,
    /// Most SPDY streams of a connection.
    pub max_streams: usize,
    /// Most received bytes of one stream that wait for the process.
    pub stream_buffer: usize,
}

impl Config {
    /// The defaults, listening on `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            base_url: None,
            tls: None,
            token_life: Duration::from_secs(60),
            max_tokens: 1000,
            idle: Duration::from_secs(4 * 60 * 60),
            stream_creation: Duration::from_secs(30),
            header_read: Duration::from_secs(10),
            max_connections: 1000,
            max_streams: 512,
            stream_buffer: 128 << 10,
        }
    }
}

/// Why there is no streaming server.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be listened on.
    #[error("listen on {address} for streaming: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Clients cannot connect to "any address".
    #[error("streaming address {0} says where to listen but not what clients connect to; name one address")]
    Unspecified(SocketAddr),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why there is no URL for a request.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// Too many requests wait for their client.
    #[error("{0}")]
    TooMany(String),
    /// There are no random bytes.
    #[error("{0}")]
    Internal(String),
}

/// Makes URLs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Streaming {
    tokens: Arc<Tokens>,
    base: Arc<str>,
}

/// Answers on the URLs.
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shared: Arc<Shared>,
    header_read: Duration,
}

/// What every connection uses.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) endpoint: Arc<dyn Endpoint>,
    pub(crate) sessions: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn with(config: Config, endpoint: Arc<dyn Endpoint>) -> Self {
        let tokens = Arc::new(Tokens::new(config.token_life, config.max_tokens));
        Self { config, tokens, endpoint, sessions: TaskTracker::new(), stop: CancellationToken::new() }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Streaming {
    /// Listens; nothing is answered before [`Server::serve`].
    pub async fn bind(config: Config, endpoint: Arc<dyn Endpoint>) -> Result<(Self, Server), BindError> {
        let address = config.address;
        let tls = config.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
        let failed = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let base = match &config.base_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if bound.ip().is_unspecified() => return Err(BindError::Unspecified(bound)),
            None => format!("{}://{bound}", if tls.is_some() { "https" } else { "http" }),
        };
        let header_read = config.header_read;
        let shared = Shared::with(config, endpoint);
        let tokens = shared.tokens.clone();
        let server = Server { listener, tls, shared: Arc::new(shared), header_read };
        Ok((Self { tokens, base: base.into() }, server))
    }

    /// What the URLs begin with.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    /// The URL for one exec.
    pub fn prepare_exec(&self, request: ExecRequest) -> Result<String, PrepareError> {
        if request.argv.first().is_none_or(String::is_empty) {
            return Err(PrepareError::Invalid("the command to execute is empty"));
        }
        check(request.tty, request.stdin, request.stdout, request.stderr)?;
        self.url(Request::Exec(request))
    }

    /// The URL for one attach.
    pub fn prepare_attach(&self, request: AttachRequest) -> Result<String, PrepareError> {
        check(request.tty, request.stdin, request.stdout, request.stderr)?;
        self.url(Request::Attach(request))
    }

    /// The URL for one port-forward.
    pub fn prepare_port_forward(&self, request: PortForwardRequest) -> Result<String, PrepareError> {
        if request.ports.len() > MAX_PORTS || request.ports.contains(&0) {
            return Err(PrepareError::Invalid("at most 100 ports can be forwarded, and none of them is 0"));
        }
        self.url(Request::PortForward(request))
    }

    fn url(&self, request: Request) -> Result<String, PrepareError> {
        let path = request.path();
        let token = self.tokens.put(request).map_err(|e| match e {
            TokenError::Full(_) => PrepareError::TooMany(e.to_string()),
            TokenError::Random(_) => PrepareError::Internal(e.to_string()),
        })?;
        Ok(format!("{}/{path}/{token}", self.base))
    }
}

fn check(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<(), PrepareError> {
    if tty && stderr {
        return Err(PrepareError::Invalid(
            "a terminal has no stderr of its own: tty and stderr cannot both be true",
        ));
    }
    if !(stdin || stdout || stderr) {
        return Err(PrepareError::Invalid("one of stdin, stdout and stderr must be true"));
    }
    Ok(())
}

impl Server {
    /// Answers until `stop` resolves; then every client is disconnected.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, shared, header_read } = self;
        let connections = Arc::new(Semaphore::new(shared.config.max_connections));
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => match connections.clone().try_acquire_owned() {
                        Ok(permit) => take(&shared, tls.clone(), header_read, stream, permit),
                        Err(_) => {
                            // As far as the socket takes it at once: whoever is beyond the bound is not waited for.
                            let _unsaid = stream.try_write(BUSY);
                        }
                    },
                    Err(error) => {
                        // Out of descriptors, most likely: the connection stays in the kernel's queue, and
                        // is looked for again when one of ours has ended, or after a second.
                        tracing::warn!(%error, "a streaming connection cannot be accepted");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
        shared.stop.cancel();
        shared.sessions.close();
        // Tasks that are slower end with the runtime.
        let _ended = tokio::time::timeout(STOP_LIMIT, shared.sessions.wait()).await;
    }
}

fn take(
    shared: &Arc<Shared>,
    tls: Option<Arc<Tls>>,
    header_read: Duration,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) {
    // Keystrokes and their echoes must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let inner = shared.clone();
    let work = async move {
        let permit = Arc::new(permit);
        let Some(tls) = tls else { return answer(inner, header_read, stream, permit).await };
        let handshake = TlsAcceptor::from(tls.current()).accept(stream);
        match tokio::time::timeout(header_read, handshake).await {
            Ok(Ok(stream)) => answer(inner, header_read, stream, permit).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("a client did not finish its TLS handshake in time"),
        }
    };
    let stop = shared.stop.clone();
    shared.sessions.spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Answers the requests of one connection, until it is upgraded or over.
pub(crate) async fn answer<T>(
    shared: Arc<Shared>,
    header_read: Duration,
    stream: T,
    permit: Arc<OwnedSemaphorePermit>,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_read)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), Service { shared, permit })
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming request could not be answered");
    }
}
