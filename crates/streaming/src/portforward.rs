//! Port-forward: pairs of a data and an error stream, each joined to a connection into the pod.

use crate::channels::{Input, Output};
use crate::endpoint::{Duplex, Endpoint, PortForwardRequest};
use crate::spdy::{Connection, Stream};
use crate::websocket;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Size of a read.
const READ: usize = 32 << 10;

/// Halves of a pair as they come.
#[derive(Debug, Default)]
struct Pair {
    port: u16,
    data: Option<(Output, Input)>,
    error: Option<(Output, Input)>,
}

/// Serves a SPDY connection until the client goes; `limit` is how long half a pair waits for the other.
pub(crate) async fn serve_spdy(
    mut connection: Connection,
    endpoint: Arc<dyn Endpoint>,
    request: Arc<PortForwardRequest>,
    limit: Duration,
) {
    let closed = connection.closed();
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut deadlines: VecDeque<(Instant, String)> = VecDeque::new();
    let mut running = JoinSet::new();
    loop {
        let deadline = deadlines.front().map(|(at, _)| *at);
        let late = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = connection.accept() => {
                let Some(stream) = stream else { break };
                let Some((id, fresh)) = sort(stream, &mut pairs) else { continue };
                if fresh {
                    deadlines.push_back((Instant::now() + limit, id.clone()));
                }
                if pairs.get(&id).is_some_and(|p| p.data.is_some() && p.error.is_some()) {
                    deadlines.retain(|(_, waiting)| *waiting != id);
                    if let Some(Pair { port, data: Some(data), error: Some(error) }) = pairs.remove(&id) {
                        running.spawn(forward(endpoint.clone(), request.clone(), port, data, error, closed.clone()));
                    }
                }
            }
            () = late => {
                let Some((_, id)) = deadlines.pop_front() else { continue };
                if let Some(Pair { error: Some((mut error, _)), .. }) = pairs.remove(&id) {
                    let text = format!("error forwarding: no data stream for request {id} in time");
                    running.spawn(async move {
                        if error.say(&text).await.is_ok() {
                            let _gone = error.finish().await;
                        }
                    });
                }
            }
            Some(ended) = running.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a forwarded connection ended abnormally");
                }
            }
        }
    }
    running.shutdown().await;
    connection.finish().await;
}

/// Takes a stream into its pair; the pair's name, and whether it is a new one.
fn sort(stream: Stream, pairs: &mut HashMap<String, Pair>) -> Option<(String, bool)> {
    let header = |name| stream.headers.get(name);
    let kind = header("streamtype").unwrap_or_default().to_owned();
    let port = header("port").and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0);
    let number = stream.id();
    let by_number = match kind.as_str() {
        "error" => Some(number.to_string()),
        // Clients of old name no request and open the error stream first.
        "data" => number.checked_sub(2).map(|n| n.to_string()),
        _ => None,
    };
    let id = header("requestid").map(str::to_owned);
    let (Some(port), Some(id)) = (port, by_number.and_then(|n| id.or(Some(n)))) else {
        stream.refuse();
        return None;
    };
    let fresh = !pairs.contains_key(&id);
    let pair = pairs.entry(id.clone()).or_default();
    let slot = if kind == "data" { &mut pair.data } else { &mut pair.error };
    if slot.is_some() || (!fresh && pair.port != port) {
        stream.refuse();
        return None;
    }
    pair.port = port;
    // The connection is at its end if it cannot be answered; accepting streams then ends.
    let (output, input) = stream.accept().ok()?;
    *slot = Some((Output::Spdy(output), Input::Spdy(input)));
    Some((id, fresh))
}

/// Serves a WebSocket that has two channels for each port.
pub(crate) async fn serve_channels(
    connection: websocket::Connection,
    endpoint: Arc<dyn Endpoint>,
    request: Arc<PortForwardRequest>,
    ports: Vec<u16>,
) {
    let closed = connection.closed();
    let mut running = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let Some(input) = connection.receiver(2 * index) else { continue };
        let [mut data, mut error] = [2 * index, 2 * index + 1].map(|n| connection.sender(n as u8));
        let (endpoint, request, closed) = (endpoint.clone(), request.clone(), closed.clone());
        running.spawn(async move {
            for channel in [&mut data, &mut error] {
                let mut first = channel.buffer(2);
                first.extend_from_slice(&port.to_le_bytes());
                if channel.send(first).await.is_err() {
                    return;
                }
            }
            let (data, error) = (Output::Socket(data), Output::Socket(error));
            run(endpoint, request, port, data, Some(Input::Socket(input)), error, closed).await;
        });
    }
    while running.join_next().await.is_some() {}
    connection.finish().await;
}

async fn forward(
    endpoint: Arc<dyn Endpoint>,
    request: Arc<PortForwardRequest>,
    port: u16,
    (data, input): (Output, Input),
    (error, unused): (Output, Input),
    closed: CancellationToken,
) {
    // Nothing is to come on the error stream.
    drop(unused);
    run(endpoint, request, port, data, Some(input), error, closed).await;
}

async fn run(
    endpoint: Arc<dyn Endpoint>,
    request: Arc<PortForwardRequest>,
    port: u16,
    data: Output,
    input: Option<Input>,
    mut error: Output,
    closed: CancellationToken,
) {
    let abandoned = data.abandoned();
    let dial = async {
        tokio::select! {
            dialled = endpoint.port_forward(&request.pod, port) => Some(dialled),
            () = abandoned.cancelled() => None,
            () = closed.cancelled() => None,
        }
    };
    match dial.await {
        Some(Ok(connection)) => {
            let (read, write) = tokio::io::split(connection);
            let both = async {
                tokio::join!(to_pod(input, write), from_pod(read, data));
            };
            tokio::select! {
                () = both => {}
                () = abandoned.cancelled() => {}
                () = closed.cancelled() => return,
            }
        }
        Some(Err(why)) => {
            let text = format!("error forwarding port {port} to pod {}: {why}", request.pod);
            drop(input);
            // The reason first: a client that sees the data stream end may look for it.
            let _gone = error.say(&text).await;
            let _gone = error.finish().await;
            data.reset();
            return;
        }
        None => {}
    }
    let _gone = error.finish().await;
}

async fn to_pod(input: Option<Input>, mut to: WriteHalf<Box<dyn Duplex>>) {
    let Some(mut input) = input else { return };
    while let Some(bytes) = input.next().await {
        if to.write_all(&bytes).await.is_err() {
            // The pod reads no more; what it says is still passed on.
            return;
        }
    }
    let _closed = to.shutdown().await;
}

async fn from_pod(mut from: ReadHalf<Box<dyn Duplex>>, mut to: Output) {
    loop {
        let mut buffer = to.buffer(READ);
        match from.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => {
                if to.send(buffer).await.is_err() {
                    return;
                }
            }
            // The end, or a connection that the pod has reset: both end the stream.
            Ok(_) | Err(_) => break,
        }
    }
    let _gone = to.finish().await;
}
