//! An OCI registry in this process (OCI distribution-spec, pull half) that counts requests and
//! misbehaves on demand.

use crate::image::{Document, Image};
use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE,
    WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;
/// Bytes that one frame of a body holds.
const CHUNK: usize = 16 << 10;

/// How a path misbehaves.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The first byte of the body is another one.
    WrongBytes,
    /// The connection ends after so many bytes, this many times; then the path behaves.
    Truncate(usize, usize),
    /// This status, this many times; then the path behaves.
    Status(u16, usize),
    /// A `Content-Length` that differs from the body's by so many bytes.
    ContentLength(i64),
    /// After so many bytes, nothing more until the [`Gate`] opens.
    Stall(usize, Gate),
    /// A body without end, with this status.
    Endless(u16),
    /// Ranges are ignored.
    NoRanges,
    /// As [`Fault::Truncate`], with ranges ignored then and later.
    TruncateNoRanges(usize, usize),
}

/// Holds a response back until it is opened; says when somebody waits at it.
#[derive(Debug, Clone)]
pub struct Gate {
    open: watch::Sender<bool>,
    reached: watch::Sender<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { open: watch::Sender::new(false), reached: watch::Sender::new(0) }
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns once `n` responses have come to the gate.
    pub async fn reached(&self, n: usize) {
        let mut reached = self.reached.subscribe();
        let _ = reached.wait_for(|r| *r >= n).await;
    }

    async fn pass(self) {
        self.reached.send_modify(|r| *r += 1);
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|o| *o).await;
    }
}

/// Who may read.
#[derive(Debug, Clone)]
enum Access {
    Everybody,
    Basic(String),
    /// Bearer tokens, given out at `/token` for these credentials (or for the refresh token).
    Token(String),
}

/// Refresh token that the token service takes.
pub const IDENTITY_TOKEN: &str = "refresh-token-of-the-test";
/// Bearer token that the token service gives out.
pub const BEARER_TOKEN: &str = "bearer-token-of-the-test";

#[derive(Debug)]
struct State {
    /// By `/v2/…` path.
    content: HashMap<String, Document>,
    faults: HashMap<String, Fault>,
    requests: Vec<String>,
    access: Access,
}

/// A registry on 127.0.0.1; it stops when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    /// Starts an empty registry on a free port; call it within a tokio runtime.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State {
            content: HashMap::new(),
            faults: HashMap::new(),
            requests: Vec::new(),
            access: Access::Everybody,
        }));
        let task = tokio::spawn(serve(listener, Arc::clone(&state), address));
        Self { address, state, task }
    }

    /// `127.0.0.1:<port>`, to put in front of a repository.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Serves an image as `repository:tag` and by its digest.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        self.put_manifest(repository, tag, &image.manifest);
        self.put_blob(repository, &image.config.bytes);
        for layer in &image.layers {
            self.put_blob(repository, &layer.blob);
        }
    }

    /// Serves a manifest or index under a tag and by its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, document: &Document) {
        let mut state = self.lock();
        for name in [tag, &document.digest()] {
            state.content.insert(format!("/v2/{repository}/manifests/{name}"), document.clone());
        }
    }

    /// Serves a blob by its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) {
        self.put_blob_as(repository, &crate::layer::sha256(bytes), bytes);
    }

    /// Serves bytes under a digest that may not be theirs.
    pub fn put_blob_as(&self, repository: &str, digest: &str, bytes: &[u8]) {
        let document = Document { bytes: bytes.to_vec(), media_type: "application/octet-stream".to_owned() };
        self.lock().content.insert(format!("/v2/{repository}/blobs/{digest}"), document);
    }

    /// Makes every path that contains `part` misbehave.
    pub fn fault(&self, part: &str, fault: Fault) {
        self.lock().faults.insert(part.to_owned(), fault);
    }

    /// Makes everything behave again.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// From now on, only Basic authentication with these credentials may read.
    pub fn require_basic(&self, user: &str, password: &str) {
        self.lock().access = Access::Basic(basic(user, password));
    }

    /// From now on, only tokens of this registry's own token service may read, which wants these
    /// credentials or [`IDENTITY_TOKEN`].
    pub fn require_token(&self, user: &str, password: &str) {
        self.lock().access = Access::Token(basic(user, password));
    }

    /// How many requests had a path that contains `part`.
    pub fn requests(&self, part: &str) -> usize {
        self.lock().requests.iter().filter(|r| r.contains(part)).count()
    }

    /// All requests so far, as `METHOD path`.
    pub fn all_requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the registry is locked")
    }
}

fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>, address: SocketAddr) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let state = Arc::clone(&state);
                let service = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(answer(&state, address, request).await) }
                });
                connections.spawn(async move {
                    // A client that hangs up is none of the registry's business.
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(state: &Mutex<State>, address: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let given = header(&request, AUTHORIZATION);
    let method = request.method().clone();
    let range = header(&request, RANGE);
    let access = {
        let mut state = state.lock().expect("no panic while the registry is locked");
        state.requests.push(format!("{method} {path}"));
        state.access.clone()
    };
    if path == "/token" {
        return token(&access, &given, request).await;
    }
    let challenge = match &access {
        Access::Everybody => None,
        Access::Basic(right) => (given != *right).then(|| "Basic realm=\"test\"".to_owned()),
        Access::Token(_) => (given != format!("Bearer {BEARER_TOKEN}")).then(|| {
            format!("Bearer realm=\"http://{address}/token\",service=\"test\",scope=\"repository:any:pull\"")
        }),
    };
    if let Some(challenge) = challenge {
        let mut response = plain(StatusCode::UNAUTHORIZED, error("UNAUTHORIZED", "log in first"));
        response.headers_mut().insert(WWW_AUTHENTICATE, value(&challenge));
        return response;
    }
    let (document, fault) = {
        let mut state = state.lock().expect("no panic while the registry is locked");
        let document = state.content.get(&path).cloned();
        let fault = take_fault(&mut state.faults, &path);
        (document, fault)
    };
    match fault {
        Some(Fault::Status(code, _)) => {
            let status = StatusCode::from_u16(code).expect("a fault has a valid status");
            return plain(status, error("UNKNOWN", "injected failure"));
        }
        Some(Fault::Endless(code)) => return endless(code),
        _ => {}
    }
    if path == "/v2/" {
        return plain(StatusCode::OK, Vec::new());
    }
    match document {
        Some(document) => deliver(document, fault, &range, method == Method::HEAD),
        None => plain(StatusCode::NOT_FOUND, error("MANIFEST_UNKNOWN", "nobody pushed that")),
    }
}

/// The fault for a path; counted ones wear off.
fn take_fault(faults: &mut HashMap<String, Fault>, path: &str) -> Option<Fault> {
    let key = faults.keys().find(|part| path.contains(part.as_str()))?.clone();
    let fault = faults.get_mut(&key)?;
    let taken = fault.clone();
    match fault {
        Fault::Status(_, times) | Fault::Truncate(_, times) if *times <= 1 => {
            faults.remove(&key);
        }
        Fault::TruncateNoRanges(_, times) if *times <= 1 => *fault = Fault::NoRanges,
        Fault::Status(_, times) | Fault::Truncate(_, times) | Fault::TruncateNoRanges(_, times) => {
            *times -= 1;
        }
        _ => {}
    }
    Some(taken)
}

fn deliver(document: Document, fault: Option<Fault>, range: &str, head: bool) -> Response<Body> {
    let digest = document.digest();
    let mut bytes = document.bytes;
    let total = bytes.len();
    let start = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')).and_then(|s| s.parse().ok());
    let ranges = !matches!(fault, Some(Fault::NoRanges | Fault::TruncateNoRanges(..)));
    let start: usize = if ranges { start.unwrap_or(0) } else { 0 };
    if start > 0 && start >= total {
        return plain(StatusCode::RANGE_NOT_SATISFIABLE, Vec::new());
    }
    let mut bytes = bytes.split_off(start);
    let mut length = bytes.len() as i64;
    let mut stall = None;
    let mut cut = false;
    match fault {
        Some(Fault::WrongBytes) => bytes.iter_mut().take(1).for_each(|b| *b ^= 0xff),
        Some(Fault::Truncate(at, _) | Fault::TruncateNoRanges(at, _)) => {
            bytes.truncate(at);
            cut = true;
        }
        Some(Fault::ContentLength(by)) => length += by,
        Some(Fault::Stall(at, gate)) => stall = Some((at.min(bytes.len()), gate)),
        _ => {}
    }
    let after = stall.as_ref().map_or_else(Vec::new, |(at, _)| bytes.split_off(*at));
    let gate = stall.map(|(_, gate)| gate);
    let end: Option<std::io::Error> = cut.then(|| std::io::Error::other("cut off"));
    let body = chunks(bytes)
        .chain(stream::iter(gate).then(Gate::pass).filter_map(|()| async { None }))
        .chain(chunks(after))
        .chain(stream::iter(end.map(Err)));
    let body: BoxStream<'static, _> = if head { stream::empty().boxed() } else { body.boxed() };
    let mut response = Response::new(StreamBody::new(body));
    if !range.is_empty() && start > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {start}-{}/{total}", total - 1);
        response.headers_mut().insert(CONTENT_RANGE, value(&range));
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, value(&document.media_type));
    headers.insert(CONTENT_LENGTH, value(&length.max(0).to_string()));
    headers.insert(ACCEPT_RANGES, value("bytes"));
    headers.insert("docker-content-digest", value(&digest));
    response
}

async fn token(access: &Access, given: &str, request: Request<Incoming>) -> Response<Body> {
    use http_body_util::BodyExt;
    let post = request.method() == Method::POST;
    let form = match request.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    let allowed = match access {
        Access::Token(right) => {
            given == right || (post && form.contains(&format!("refresh_token={IDENTITY_TOKEN}")))
        }
        _ => false,
    };
    if !allowed {
        return plain(StatusCode::UNAUTHORIZED, error("UNAUTHORIZED", "no token for you"));
    }
    plain(StatusCode::OK, format!(r#"{{"token":"{BEARER_TOKEN}","expires_in":300}}"#).into_bytes())
}

fn endless(code: u16) -> Response<Body> {
    let chunk = Bytes::from(vec![b' '; CHUNK]);
    let body = stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
    let mut response = Response::new(StreamBody::new(body.boxed()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a fault has a valid status");
    response
}

fn chunks(bytes: Vec<u8>) -> impl futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send {
    let bytes = Bytes::from(bytes);
    let frames: Vec<_> = (0..bytes.len())
        .step_by(CHUNK)
        .map(|at| Ok(Frame::data(bytes.slice(at..bytes.len().min(at + CHUNK)))))
        .collect();
    stream::iter(frames)
}

fn plain(status: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(StreamBody::new(chunks(bytes).boxed()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, value(&length.to_string()));
    response
}

fn error(code: &str, message: &str) -> Vec<u8> {
    format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#).into_bytes()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("header values of the registry are plain text")
}

fn header(request: &Request<Incoming>, name: hyper::header::HeaderName) -> String {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}
