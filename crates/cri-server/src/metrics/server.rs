//! The listener for scrapes: plain HTTP/1.1 on a thread with a runtime of its own, so that it answers
//! while the daemon's own threads are all busy or stuck.

use super::Metrics;
use crate::listen;
use bytes::Bytes;
use gantry_pod_sandbox::{Engine, Error, Kind, Result};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

/// Scrapes that are served at the same time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8;

/// How long a client may take to send its request.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// How long a client may take for all, reading the answer included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// Content type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket in the file system, for root only.
    Unix(PathBuf),
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(format!("{text:?} is not a socket address; write unix:///path/to/socket")),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "{text:?} is neither ADDRESS:PORT, such as 127.0.0.1:9550, nor unix:///path/to/socket"
                )
            }),
        }
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/metrics"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The running server; ends with [`MetricsServer::stop`].
#[derive(Debug)]
pub(crate) struct MetricsServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    address: MetricsAddress,
}

impl MetricsServer {
    /// Binds `address` and serves `metrics`, with what `engine` has, from now on.
    ///
    /// # Errors
    ///
    /// The address cannot be bound; [`Kind::FailedPrecondition`] when somebody answers on the socket.
    pub(crate) async fn start(
        address: &MetricsAddress,
        metrics: Metrics,
        engine: Option<Engine>,
    ) -> Result<Self> {
        let fail = |call: &str, e: &std::io::Error| {
            Error::new(Kind::Internal, format!("{call} the metrics address {address}: {e}"))
        };
        let (listener, address) = match address {
            MetricsAddress::Tcp(wanted) => {
                let listener = std::net::TcpListener::bind(wanted).map_err(|e| fail("bind", &e))?;
                listener.set_nonblocking(true).map_err(|e| fail("set up", &e))?;
                let bound = listener.local_addr().map_err(|e| fail("look at", &e))?;
                (Listener::Tcp(listener), MetricsAddress::Tcp(bound))
            }
            MetricsAddress::Unix(path) => {
                let listener = listen::bind(path).await?.into_std().map_err(|e| fail("set up", &e))?;
                (Listener::Unix(listener), address.clone())
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::internal(&e).context("start the runtime for metrics"))?;
        let (stop, stopped) = oneshot::channel();
        let page = Page { metrics, engine };
        let run = move || {
            runtime.block_on(async move {
                tokio::select! {
                    served = serve(listener, Arc::new(page)) => {
                        if let Err(error) = served {
                            tracing::error!(%error, "metrics are not served any more");
                        }
                    }
                    // The sender going away means the same.
                    _stopped = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(run)
            .map_err(|e| Error::internal(&e).context("start the thread for metrics"))?;
        tracing::info!(%address, "metrics are served");
        Ok(Self { stop, thread, address })
    }

    /// Where it listens, with the port that the kernel chose.
    #[cfg(test)]
    pub(crate) fn address(&self) -> &MetricsAddress {
        &self.address
    }

    /// Ends the server and its connections, and takes the socket away.
    pub(crate) fn stop(self) {
        // It may have ended by itself.
        let _ended = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the metrics thread panicked");
        }
        if let MetricsAddress::Unix(path) = &self.address {
            // A new daemon replaces what is left.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// What a request is answered from.
struct Page {
    metrics: Metrics,
    engine: Option<Engine>,
}

async fn serve(listener: Listener, page: Arc<Page>) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let place = || async {
        let place = places.clone().acquire_owned().await;
        place.map_err(std::io::Error::other)
    };
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let place = place().await?;
                let Some(socket) = accepted(listener.accept().await).await? else { continue };
                tokio::spawn(connection(socket, page.clone(), place));
            }
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                let place = place().await?;
                let Some(socket) = accepted(listener.accept().await).await? else { continue };
                tokio::spawn(connection(socket, page.clone(), place));
            }
        }
    }
}

/// The socket of a new connection; `None` for one that ended before it was taken, or when this process
/// or the machine has no descriptor left (accept(2)), which passes.
async fn accepted<S, A>(result: std::io::Result<(S, A)>) -> std::io::Result<Option<S>> {
    use rustix::io::Errno;
    match result {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO) => Ok(None),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                tracing::warn!(error = %e, "a scrape of the metrics is put off");
                // The kernel does not tell when there is one again.
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(None)
            }
            _ => Err(e),
        },
    }
}

async fn connection<S>(socket: S, page: Arc<Page>, _place: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&page, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(16 << 10)
        // One request a connection: nobody holds a place without using it.
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), answer);
    match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a scrape of the metrics was broken off"),
        Err(_) => tracing::debug!("a scrape of the metrics took too long"),
    }
}

fn answer(page: &Page, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/metrics" if method == Method::GET || method == Method::HEAD => {
            match page.metrics.render(page.engine.as_ref()) {
                Ok(text) => (StatusCode::OK, Bytes::from(text)),
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be shown");
                    (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"metrics cannot be shown\n"))
                }
            }
        }
        "/metrics" => (StatusCode::METHOD_NOT_ALLOWED, Bytes::from_static(b"only GET and HEAD\n")),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"metrics are at /metrics\n")),
    };
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write as _};

    /// Sends `request` and reads until the server closes.
    fn exchange(mut socket: impl Read + std::io::Write, request: &str) -> String {
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    fn start(address: &str) -> MetricsServer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = address.parse().unwrap();
        runtime.block_on(MetricsServer::start(&address, Metrics::new().unwrap(), None)).unwrap()
    }

    fn tcp(server: &MetricsServer) -> std::net::TcpStream {
        let MetricsAddress::Tcp(address) = server.address() else { panic!("not TCP") };
        std::net::TcpStream::connect(address).unwrap()
    }

    const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn addresses_are_tcp_or_unix() {
        let parse = |text: &str| text.parse::<MetricsAddress>();
        assert_eq!(parse("127.0.0.1:9550"), Ok(MetricsAddress::Tcp(([127, 0, 0, 1], 9550).into())));
        assert_eq!(parse("unix:///run/m.sock"), Ok(MetricsAddress::Unix("/run/m.sock".into())));
        for bad in ["", "9550", "localhost:9550", "unix://m.sock", "/run/m.sock"] {
            assert!(parse(bad).unwrap_err().contains("unix:///path"), "{bad}");
        }
    }

    #[test]
    fn only_the_page_of_metrics_is_there() {
        let server = start("127.0.0.1:0");
        let page = exchange(tcp(&server), GET);
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        assert!(page.contains("\nprocess_threads "), "{page}");
        let other = exchange(tcp(&server), "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(other.starts_with("HTTP/1.1 404"), "{other}");
        let post = exchange(tcp(&server), "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(32 << 10));
        let mut socket = tcp(&server);
        // The server may close before it has read all of it.
        let _refused = socket.write_all(long.as_bytes());
        let mut said = Vec::new();
        let _reset = socket.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
        server.stop();
    }

    #[test]
    fn a_unix_socket_is_for_root_and_goes_with_the_server() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let server = start(&format!("unix://{}", path.display()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(exchange(socket, GET).starts_with("HTTP/1.1 200 OK"));
        server.stop();
        assert!(!path.exists());
    }

    #[test]
    fn it_answers_while_the_main_runtime_is_stuck() {
        let main =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let server = main.block_on(MetricsServer::start(&address, Metrics::new().unwrap(), None)).unwrap();
        let (stuck_tell, stuck) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        main.spawn(async move {
            stuck_tell.send(()).unwrap();
            // Blocks the only worker, as a system call that hangs would.
            released.recv().unwrap();
        });
        stuck.recv().unwrap();
        assert!(exchange(tcp(&server), GET).starts_with("HTTP/1.1 200 OK"));
        release.send(()).unwrap();
        server.stop();
    }

    #[test]
    fn silent_clients_are_bounded_and_end_with_the_server() {
        let server = start("127.0.0.1:0");
        // Places are taken; the scrape behind them waits, and is answered when one goes.
        let silent: Vec<_> = (0..MAX_CONNECTIONS).map(|_| tcp(&server)).collect();
        let waiting = tcp(&server);
        let answer = std::thread::spawn(move || exchange(waiting, GET));
        drop(silent);
        assert!(answer.join().unwrap().starts_with("HTTP/1.1 200 OK"));
        let mut open = tcp(&server);
        server.stop();
        assert_eq!(open.read(&mut [0; 1]).unwrap_or(0), 0, "stopping ends what is open");
    }
}
