//! Which channels an exec or attach has, and how a client opens them.

use crate::channels::{Channels, Input, Output};
use crate::negotiate::{Channel, Version};
use crate::spdy::Connection;
use crate::websocket;
use std::time::Duration;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// Waits at most `limit` for the client to open every stream that was asked for.
pub(crate) async fn from_spdy(
    connection: &mut Connection,
    version: Version,
    wanted: Wanted,
    limit: Duration,
) -> Option<Channels> {
    let mut channels =
        Channels { json_status: version >= Version::V4, closed: connection.closed(), ..Channels::default() };
    let all = take_streams(connection, version, wanted, &mut channels);
    match tokio::time::timeout(limit, all).await {
        Ok(Some(())) => Some(channels),
        Ok(None) => None,
        Err(_) => {
            tracing::info!(?wanted, seconds = limit.as_secs(), "a client did not open its streams in time");
            None
        }
    }
}

async fn take_streams(
    connection: &mut Connection,
    version: Version,
    wanted: Wanted,
    channels: &mut Channels,
) -> Option<()> {
    let resize = wanted.tty && version >= Version::V3;
    let mut has_error = false;
    loop {
        let complete = has_error
            && channels.stdin.is_some() == wanted.stdin
            && channels.stdout.is_some() == wanted.stdout
            && channels.stderr.is_some() == wanted.stderr
            && channels.resize.is_some() == resize;
        if complete {
            return Some(());
        }
        let stream = connection.accept().await?;
        let kind = stream.headers.get("streamtype").unwrap_or_default().to_owned();
        let expected = match kind.as_str() {
            "error" => !has_error,
            "stdin" => wanted.stdin && channels.stdin.is_none(),
            "stdout" => wanted.stdout && channels.stdout.is_none(),
            "stderr" => wanted.stderr && channels.stderr.is_none(),
            "resize" => resize && channels.resize.is_none(),
            _ => false,
        };
        if !expected {
            stream.refuse();
            continue;
        }
        let (sender, receiver) = stream.accept().ok()?;
        // Halves without use: what comes on an output is thrown away, an input's other half ends at once.
        match kind.as_str() {
            // As the first kubelets did: their clients do not wait for this stream.
            "error" if version == Version::V1 => {
                sender.reset();
                has_error = true;
            }
            "error" => {
                has_error = true;
                channels.error = Some(Output::Spdy(sender));
            }
            "stdout" => channels.stdout = Some(Output::Spdy(sender)),
            "stderr" => channels.stderr = Some(Output::Spdy(sender)),
            "stdin" => {
                if version == Version::V1 {
                    let _gone = sender.finish().await;
                } else {
                    sender.leave();
                }
                channels.stdin = Some(Input::Spdy(receiver));
            }
            _ => {
                sender.leave();
                channels.resize = Some(Input::Spdy(receiver));
            }
        }
    }
}

/// Channels that the client may send on.
pub(crate) const SOCKET_CHANNELS: [bool; 5] = [true, false, false, false, true];

/// The channels of a WebSocket, and the message that tells the client that it is connected.
pub(crate) async fn from_socket(
    connection: &websocket::Connection,
    channel: Channel,
    wanted: Wanted,
) -> Option<Channels> {
    let output = |number, wanted: bool| wanted.then(|| Output::Socket(connection.sender(number)));
    let input = |number, wanted: bool| {
        let receiver = wanted.then(|| connection.receiver(number))??;
        Some(Input::Socket(receiver))
    };
    let mut channels = Channels {
        stdin: input(0, wanted.stdin),
        stdout: output(1, wanted.stdout),
        stderr: output(2, wanted.stderr),
        error: output(3, true),
        resize: input(4, wanted.tty),
        json_status: channel.json_status,
        closed: connection.closed(),
    };
    let first = channels.stdout.as_mut().or(channels.stderr.as_mut()).or(channels.error.as_mut())?;
    first.say("").await.ok()?;
    Some(channels)
}
