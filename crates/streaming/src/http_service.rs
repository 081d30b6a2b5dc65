//! One request: token, protocol, upgrade, session.

use crate::activity::Activity;
use crate::collect::{self, SOCKET_CHANNELS, Wanted};
use crate::endpoint::{PortForwardRequest, Session};
use crate::negotiate::{
    self, PORT_FORWARD, PORT_SOCKETS, PROTOCOL_VERSION, PortSocket, Refusal, SOCKET_VERSIONS, VERSIONS,
    Version,
};
use crate::server::Shared;
use crate::spdy::{Connection, Limits};
use crate::tokens::Request;
use crate::{portforward, remotecommand, websocket};
use futures::future::BoxFuture;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Method, Response, StatusCode, Version as HttpVersion};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Answers the requests of one connection.
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) permit: Arc<OwnedSemaphorePermit>,
}

/// What an upgraded connection speaks.
enum Spoken {
    Spdy(Option<Version>),
    Socket(negotiate::Channel),
    Ports(PortSocket, Vec<u16>),
}

impl hyper::service::Service<http::Request<Incoming>> for Service {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let response = self.answer(request).unwrap_or_else(Refusal::response);
        std::future::ready(Ok(response))
    }
}

impl Service {
    fn answer(&self, mut request: http::Request<Incoming>) -> Result<Response<String>, Refusal> {
        if request.method() != Method::GET && request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"));
        }
        if request.version() != HttpVersion::HTTP_11 {
            // Upgrades are none of HTTP/1.0's (RFC 9110, 7.8).
            return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1"));
        }
        let unknown =
            || Refusal::new(StatusCode::NOT_FOUND, "no such streaming request, or its time is over");
        let path = request.uri().path().strip_prefix('/').unwrap_or_default();
        let (kind, token) = path.split_once('/').ok_or_else(unknown)?;
        let behind = self.shared.tokens.take(kind, token).ok_or_else(unknown)?;
        let (spoken, response) = negotiated(&behind, &request)?;

        let upgrade = hyper::upgrade::on(&mut request);
        let (shared, permit) = (self.shared.clone(), self.permit.clone());
        let stop = shared.stop.clone();
        let session = async move {
            tokio::select! {
                () = run(shared, upgrade, spoken, behind) => {}
                () = stop.cancelled() => {}
            }
            // The connection counts until its session is over.
            drop(permit);
        };
        self.shared.sessions.spawn(session);
        Ok(response)
    }
}

fn negotiated(
    behind: &Request,
    request: &http::Request<Incoming>,
) -> Result<(Spoken, Response<String>), Refusal> {
    let headers = request.headers();
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if !negotiate::is_websocket(headers) {
        let (name, version) = match behind {
            Request::PortForward(_) => {
                let (name, ()) = negotiate::spdy(headers, &PORT_FORWARD)?;
                (name, None)
            }
            _ => {
                let (name, version) = negotiate::spdy(headers, &VERSIONS)?;
                (name, Some(version))
            }
        };
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        response.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(name));
        return Ok((Spoken::Spdy(version), response));
    }
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    if request.method() != Method::GET {
        return Err(bad("a WebSocket begins with GET"));
    }
    if headers.get("sec-websocket-version").is_none_or(|v| v != "13") {
        return Err(bad("Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get("sec-websocket-key").ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("Sec-WebSocket-Key cannot be answered"))?;
    let (name, spoken) = match behind {
        Request::PortForward(forward) => {
            let (name, socket) = negotiate::socket(headers, &PORT_SOCKETS)?;
            let ports = match socket {
                PortSocket::Tunnel => Vec::new(),
                PortSocket::Channels(_) => ports(forward, request.uri().query().unwrap_or_default())?,
            };
            (name, Spoken::Ports(socket, ports))
        }
        _ => {
            let (name, channel) = negotiate::socket(headers, &SOCKET_VERSIONS)?;
            (name, Spoken::Socket(channel))
        }
    };
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((spoken, response))
}

/// Ports of the request, or else of the URL: `port=80&port=443,8080`.
fn ports(request: &PortForwardRequest, query: &str) -> Result<Vec<u16>, Refusal> {
    if !request.ports.is_empty() {
        return Ok(request.ports.clone());
    }
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("port="));
    let texts = values.flat_map(|v| v.split(',').flat_map(|p| p.split("%2C")));
    let ports: Result<Vec<u16>, _> = texts.map(str::parse).collect();
    match ports {
        Ok(ports) if (1..=100).contains(&ports.len()) && !ports.contains(&0) => Ok(ports),
        _ => Err(bad("the request names no ports, and the URL does not name 1 to 100 with port=")),
    }
}

async fn run(shared: Arc<Shared>, upgrade: OnUpgrade, spoken: Spoken, behind: Request) {
    let io = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a client went away during its upgrade"),
    };
    let activity = Activity::new();
    let idle = shared.config.idle;
    tokio::select! {
        () = speak(shared, io, spoken, behind, activity.clone()) => {}
        () = activity.idle_for(idle) => {
            tracing::info!(seconds = idle.as_secs(), "an idle streaming connection was ended");
        }
    }
}

async fn speak(
    shared: Arc<Shared>,
    io: TokioIo<Upgraded>,
    spoken: Spoken,
    behind: Request,
    activity: Activity,
) {
    let config = &shared.config;
    let limits = Limits { streams: config.max_streams, queue: config.stream_buffer };
    let limit = config.stream_creation;
    let broken = |error| tracing::error!(%error, "no SPDY connection can be made");
    match (spoken, behind) {
        (Spoken::Spdy(_), Request::PortForward(request)) => match Connection::start(io, limits, activity) {
            Ok(connection) => {
                portforward::serve_spdy(connection, shared.endpoint.clone(), Arc::new(request), limit).await;
            }
            Err(error) => broken(error),
        },
        (Spoken::Ports(PortSocket::Tunnel, _), Request::PortForward(request)) => {
            let tunnel = websocket::Tunnel::new(websocket::open(io).await);
            match Connection::start(tunnel, limits, activity) {
                Ok(connection) => {
                    portforward::serve_spdy(connection, shared.endpoint.clone(), Arc::new(request), limit)
                        .await;
                }
                Err(error) => broken(error),
            }
        }
        (Spoken::Ports(PortSocket::Channels(coding), ports), Request::PortForward(request)) => {
            let channels: Vec<bool> = (0..2 * ports.len()).map(|n| n % 2 == 0).collect();
            let socket = websocket::open(io).await;
            let connection =
                websocket::Connection::start(socket, coding, &channels, config.stream_buffer, activity);
            portforward::serve_channels(connection, shared.endpoint.clone(), Arc::new(request), ports).await;
        }
        (Spoken::Spdy(version), command) => {
            let mut connection = match Connection::start(io, limits, activity) {
                Ok(connection) => connection,
                Err(error) => return broken(error),
            };
            let Some((wanted, what, start)) = begin(&shared, command) else { return };
            let version = version.unwrap_or(Version::V4);
            let Some(channels) = collect::from_spdy(&mut connection, version, wanted, limit).await else {
                return;
            };
            remotecommand::serve(channels, what, start).await;
            connection.finish().await;
        }
        (Spoken::Socket(channel), command) => {
            let socket = websocket::open(io).await;
            let queue = config.stream_buffer;
            let connection =
                websocket::Connection::start(socket, channel.coding, &SOCKET_CHANNELS, queue, activity);
            let Some((wanted, what, start)) = begin(&shared, command) else { return };
            let Some(channels) = collect::from_socket(&connection, channel, wanted).await else { return };
            remotecommand::serve(channels, what, start).await;
            connection.finish().await;
        }
        // Protocols of port-forward are negotiated for nothing else.
        (Spoken::Ports(..), _) => {}
    }
}

type Start<'a> = BoxFuture<'a, Result<Session, String>>;

/// The channels of a command, how its failure is called, and what starts it; `None` for a port-forward.
fn begin(shared: &Shared, command: Request) -> Option<(Wanted, &'static str, Start<'_>)> {
    Some(match command {
        Request::Exec(r) => {
            let wanted = Wanted { tty: r.tty, stdin: r.stdin, stdout: r.stdout, stderr: r.stderr };
            (wanted, "executing command in container", shared.endpoint.exec(r))
        }
        Request::Attach(r) => {
            let wanted = Wanted { tty: r.tty, stdin: r.stdin, stdout: r.stdout, stderr: r.stderr };
            (wanted, "attaching to container", shared.endpoint.attach(r))
        }
        Request::PortForward(_) => return None,
    })
}
