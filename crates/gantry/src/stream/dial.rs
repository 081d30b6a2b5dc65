//! Connections to the streaming server.

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// What is spoken over the WebSocket.
const PROTOCOL: &str = "v5.channel.k8s.io";

/// Largest message that is taken; the server sends less.
const MAX_MESSAGE: usize = 1 << 20;

/// Number that says that the channel of the next byte is closed.
const CLOSE_CHANNEL: u8 = 255;

/// The sending side.
pub(crate) type Sink = SplitSink<WebSocketStream<Box<dyn Carrier>>, Message>;
/// The receiving side.
pub(crate) type Stream = SplitStream<WebSocketStream<Box<dyn Carrier>>>;
/// Both sides of a connection.
pub(crate) type Socket = (Sink, Stream);

/// A TCP connection, with TLS or without.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// Who is believed to be the daemon where it serves with TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// PEM file of certificates.
    pub(crate) authority: Option<PathBuf>,
}

impl From<crate::cli::TrustArgs> for Trust {
    fn from(given: crate::cli::TrustArgs) -> Self {
        Self { authority: given.tls_ca }
    }
}

/// What came on one channel.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) channel: u8,
    pub(crate) bytes: Bytes,
}

/// The message that says that nothing more will come on a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CloseChannel(pub(crate) u8);

impl From<CloseChannel> for Bytes {
    fn from(CloseChannel(channel): CloseChannel) -> Self {
        vec![CLOSE_CHANNEL, channel].into()
    }
}

impl Incoming {
    /// The channel that this message closes.
    pub(crate) fn closes(&self) -> Option<u8> {
        self.bytes.first().copied().filter(|_| self.channel == CLOSE_CHANNEL)
    }
}

/// Connects to a URL that the daemon gave. Such a URL is good for one connection.
pub(crate) async fn connect(url: &str, trust: &Trust) -> Result<Socket> {
    let uri: Uri = url.parse().with_context(|| format!("the daemon gave an unusable URL, {url:?}"))?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("the daemon gave the URL {url:?}, which is neither http nor https"),
    };
    let host = uri.host().ok_or_else(|| anyhow!("the daemon gave the URL {url:?}, which names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port))
        .await
        .with_context(|| format!("connect to the daemon's streaming server {host} port {port}"))?;
    // Keystrokes must not wait for more.
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    let stream: Box<dyn Carrier> = match secure {
        false => Box::new(stream),
        true => {
            let name = ServerName::try_from(host.to_owned()).with_context(|| format!("host {host:?}"))?;
            let connector = TlsConnector::from(tls(trust)?);
            let secured = connector.connect(name, stream).await;
            Box::new(secured.with_context(|| format!("TLS with the daemon's streaming server {host}"))?)
        }
    };
    // The library knows the schemes of WebSocket only: http becomes ws, https wss.
    let target = format!("ws{}", url.trim_start_matches("http"));
    let target: Uri = target.parse().with_context(|| format!("the daemon gave an unusable URL, {url:?}"))?;
    let request = ClientRequestBuilder::new(target).with_sub_protocol(PROTOCOL);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(64 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket.split()),
        Err(Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            bail!(
                "the daemon's streaming server refuses: {} {}",
                answer.status(),
                String::from_utf8_lossy(body).trim()
            )
        }
        Err(error) => Err(error).context("speak with the daemon's streaming server"),
    }
}

fn tls(trust: &Trust) -> Result<Arc<rustls::ClientConfig>> {
    let Some(path) = &trust.authority else {
        bail!("the daemon serves with TLS: name the certificate that signs its own with --tls-ca");
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path);
    for certificate in certificates.with_context(|| format!("read {}", path.display()))? {
        let certificate = certificate.with_context(|| format!("read {}", path.display()))?;
        roots.add(certificate).with_context(|| format!("a certificate in {}", path.display()))?;
    }
    if roots.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The next message on any channel; `None` at the end of the connection.
pub(crate) async fn receive(stream: &mut Stream) -> Result<Option<Incoming>> {
    loop {
        match stream.next().await {
            None | Some(Ok(Message::Close(_))) => return Ok(None),
            Some(Ok(Message::Binary(mut bytes))) if !bytes.is_empty() => {
                let channel = bytes.split_to(1)[0];
                return Ok(Some(Incoming { channel, bytes }));
            }
            Some(Ok(_)) => {}
            Some(Err(Error::ConnectionClosed)) => return Ok(None),
            Some(Err(error)) => return Err(error).context("the connection to the daemon broke"),
        }
    }
}

/// Sends what is queued until the senders are gone or the connection is; then says goodbye.
pub(crate) async fn send_all(mut sink: Sink, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = queue.recv().await {
        // The end of the connection is seen, and told, by who reads it.
        if sink.send(Message::Binary(bytes)).await.is_err() {
            return;
        }
    }
    let _gone = sink.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server that answers one request with `answer`; the request's head.
    async fn served(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (url, serving)
    }

    #[tokio::test]
    async fn a_url_of_the_daemon_is_asked_for_as_a_websocket() {
        let refusal = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n";
        let (url, serving) = served(refusal).await;
        let error = connect(&url, &Trust::default()).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
        let head = serving.await.unwrap();
        assert!(head.starts_with("GET /exec/token HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"), "{head}");
    }

    #[tokio::test]
    async fn unusable_urls_are_named() {
        for (url, word) in
            [("ftp://x/", "ftp"), ("https://127.0.0.1:1/x", "connect"), ("/relative", "relative")]
        {
            let error = connect(url, &Trust::default()).await.map(drop).unwrap_err().to_string();
            assert!(error.contains(word), "{url}: {error}");
        }
    }
}
