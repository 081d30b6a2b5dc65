//! The byte channels of one client, whatever protocol carries them.

use crate::{spdy, websocket};
use bytes::{Bytes, BytesMut};
use std::io;
use tokio_util::sync::CancellationToken;

/// What the client sends on one channel.
#[derive(Debug)]
pub(crate) enum Input {
    Spdy(spdy::Receiver),
    Socket(websocket::Receiver),
}

impl Input {
    /// The next piece; `None` at the end. Taking one tells that the piece before is done with.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Spdy(stream) => stream.next().await,
            Self::Socket(channel) => channel.next().await,
        }
    }
}

/// What the client gets on one channel.
#[derive(Debug)]
pub(crate) enum Output {
    Spdy(spdy::Sender),
    Socket(websocket::Sender),
}

impl Output {
    /// A buffer with room for `size` bytes; what is appended to it can be sent without copying.
    pub(crate) fn buffer(&self, size: usize) -> BytesMut {
        match self {
            Self::Spdy(_) => BytesMut::with_capacity(size),
            Self::Socket(channel) => channel.buffer(size),
        }
    }

    /// Sends a buffer that [`Output::buffer`] made.
    pub(crate) async fn send(&mut self, buffer: BytesMut) -> io::Result<()> {
        match self {
            Self::Spdy(stream) => stream.send(buffer.freeze()).await,
            Self::Socket(channel) => channel.send(buffer).await,
        }
    }

    /// Sends a text.
    pub(crate) async fn say(&mut self, text: &str) -> io::Result<()> {
        let mut buffer = self.buffer(text.len());
        buffer.extend_from_slice(text.as_bytes());
        self.send(buffer).await
    }

    /// Says that nothing more will come.
    pub(crate) async fn finish(self) -> io::Result<()> {
        match self {
            Self::Spdy(stream) => stream.finish().await,
            Self::Socket(channel) => channel.finish().await,
        }
    }

    /// Ends the channel both ways, without what waits.
    pub(crate) fn reset(self) {
        match self {
            Self::Spdy(stream) => stream.reset(),
            // A WebSocket's channels end with it.
            Self::Socket(_) => {}
        }
    }

    /// Cancelled when the client has reset the channel.
    pub(crate) fn abandoned(&self) -> CancellationToken {
        match self {
            Self::Spdy(stream) => stream.abandoned(),
            Self::Socket(channel) => channel.abandoned(),
        }
    }

    /// Resolves when the client wants no more of this channel.
    pub(crate) async fn gone(&self) {
        match self {
            Self::Spdy(stream) => stream.gone().await,
            Self::Socket(channel) => channel.gone().await,
        }
    }
}

/// The channels of an exec or attach.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    pub(crate) error: Option<Output>,
    pub(crate) resize: Option<Input>,
    /// Whether the end is told as JSON (v4 and later), or only failures, as text.
    pub(crate) json_status: bool,
    /// The client is gone.
    pub(crate) closed: CancellationToken,
}
