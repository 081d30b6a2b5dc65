//! Kubernetes channels over WebSocket: the first byte of a message, or its first character where the rest is
//! base64, is the number of the channel.

mod tunnel;

pub(crate) use tunnel::Tunnel;

use crate::activity::Activity;
use crate::queue::ByteQueue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Largest message that is taken; clients send at most 32 KiB and a byte.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages that wait for the socket.
const QUEUE: usize = 4;
/// Number that says in v5 that the channel of the next byte is closed.
const CLOSE_CHANNEL: u8 = 255;
/// How long the last messages may take, and then the peer to close.
const LINGER: Duration = Duration::from_secs(10);

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coding {
    /// Text messages, base64 after the channel's digit.
    pub(crate) base64: bool,
    /// Channels can be closed one by one.
    pub(crate) v5: bool,
    /// The client is told, too, when nothing more will come on a channel. Kubernetes' clients expect that of none.
    pub(crate) tells_ends: bool,
}

/// Our side of a WebSocket whose handshake is done.
pub(crate) async fn open<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(32 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// A WebSocket with channels. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Connection {
    coding: Coding,
    queues: Vec<Option<Arc<ByteQueue>>>,
    out: mpsc::Sender<Out>,
    closed: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 2],
}

#[derive(Debug)]
enum Out {
    Message(Message),
    Close(oneshot::Sender<()>),
}

/// What comes on one channel.
#[derive(Debug)]
pub(crate) struct Receiver {
    queue: Arc<ByteQueue>,
}

/// What goes out on one channel.
#[derive(Debug)]
pub(crate) struct Sender {
    channel: u8,
    coding: Coding,
    out: mpsc::Sender<Out>,
    closed: CancellationToken,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone")
}

impl Connection {
    /// Serves channels over `socket`: of each, whether the client may send on it. At most `limit` bytes of
    /// each wait for their reader.
    pub(crate) fn start<T>(
        socket: WebSocketStream<T>,
        coding: Coding,
        channels: &[bool],
        limit: usize,
        activity: Activity,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let queue = |readable: &bool| readable.then(|| Arc::new(ByteQueue::new(limit)));
        let queues: Vec<_> = channels.iter().map(queue).collect();
        let closed = CancellationToken::new();
        let (out, out_queue) = mpsc::channel(QUEUE);
        let (sink, stream) = socket.split();
        let reader = read_all(stream, coding, queues.clone(), closed.clone(), activity.clone());
        let writer = write_all(sink, out_queue, closed.clone(), activity);
        let tasks = [tokio::spawn(reader), tokio::spawn(writer)].map(AbortOnDropHandle::new);
        Self { coding, queues, out, closed, _tasks: tasks }
    }

    /// The receiving side of channel `number`, if clients may send on it.
    pub(crate) fn receiver(&self, number: usize) -> Option<Receiver> {
        let queue = self.queues.get(number)?.clone()?;
        Some(Receiver { queue })
    }

    /// Throws away what the client sends on channel `number`.
    pub(crate) fn ignore(&self, number: usize) {
        if let Some(Some(queue)) = self.queues.get(number) {
            queue.abort();
        }
    }

    /// The sending side of channel `number`.
    pub(crate) fn sender(&self, number: u8) -> Sender {
        Sender { channel: number, coding: self.coding, out: self.out.clone(), closed: self.closed.clone() }
    }

    /// Resolves when the peer is gone.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Sends what waits and says goodbye; at most ten seconds each for that and for the answer.
    pub(crate) async fn finish(self) {
        let (tell, told) = oneshot::channel();
        let flushed = async {
            if self.out.send(Out::Close(tell)).await.is_ok() {
                // The writer going away means the same.
                let _flushed = told.await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(LINGER, flushed) => {}
            () = self.closed.cancelled() => {}
        }
        let _gone = tokio::time::timeout(LINGER, self.closed.cancelled()).await;
    }
}

impl Receiver {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.queue.pop().await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.queue.abort();
    }
}

impl Sender {
    /// A buffer that begins with the channel's number.
    pub(crate) fn buffer(&self, size: usize) -> BytesMut {
        let mut buffer = BytesMut::with_capacity(size + 1);
        buffer.extend_from_slice(&[self.channel]);
        buffer
    }

    /// Sends a buffer that [`Sender::buffer`] made; an empty one is a message, too.
    pub(crate) async fn send(&mut self, buffer: BytesMut) -> io::Result<()> {
        let message = if self.coding.base64 {
            let mut text = String::new();
            text.push(char::from(b'0' + self.channel));
            BASE64.encode_string(&buffer[1..], &mut text);
            Message::Text(text.into())
        } else {
            Message::Binary(buffer.freeze())
        };
        tokio::select! {
            sent = self.out.send(Out::Message(message)) => sent.map_err(|_| gone()),
            () = self.closed.cancelled() => Err(gone()),
        }
    }

    /// Says that nothing more will come, where the coding has words for it; otherwise a channel ends with the
    /// connection.
    pub(crate) async fn finish(self) -> io::Result<()> {
        if !self.coding.tells_ends {
            return Ok(());
        }
        let message = Message::Binary(Bytes::copy_from_slice(&[CLOSE_CHANNEL, self.channel]));
        tokio::select! {
            sent = self.out.send(Out::Message(message)) => sent.map_err(|_| gone()),
            () = self.closed.cancelled() => Err(gone()),
        }
    }

    /// Cancelled when the client is gone.
    pub(crate) fn abandoned(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Resolves when the client is gone.
    pub(crate) async fn gone(&self) {
        self.closed.cancelled().await;
    }
}

async fn read_all<S>(
    mut stream: S,
    coding: Coding,
    queues: Vec<Option<Arc<ByteQueue>>>,
    closed: CancellationToken,
    activity: Activity,
) where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        activity.touch();
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match take(bytes, coding) {
            Taken::Data(channel, bytes) => {
                // Channels that are unknown, or not the client's, are ignored.
                if let Some(Some(queue)) = queues.get(usize::from(channel))
                    && !bytes.is_empty()
                {
                    queue.push(bytes).await;
                }
            }
            Taken::Closed(channel) => {
                if let Some(Some(queue)) = queues.get(usize::from(channel)) {
                    queue.end();
                }
            }
            Taken::Nothing => {}
            Taken::Nonsense => {
                tracing::debug!("a client sends a channel message that is not base64");
                break;
            }
        }
    }
    // Ended by the client, or broken: tungstenite has answered a close frame where there was one.
    closed.cancel();
    queues.iter().flatten().for_each(|queue| queue.end());
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Data(u8, Bytes),
    Closed(u8),
    Nothing,
    Nonsense,
}

fn take(mut bytes: Bytes, coding: Coding) -> Taken {
    let Ok(channel) = bytes.try_get_u8() else { return Taken::Nothing };
    if coding.base64 {
        let Some(channel) = channel.checked_sub(b'0') else { return Taken::Nonsense };
        return match BASE64.decode(&bytes) {
            Ok(plain) => Taken::Data(channel, plain.into()),
            Err(_) => Taken::Nonsense,
        };
    }
    if coding.v5 && channel == CLOSE_CHANNEL {
        return bytes.first().map_or(Taken::Nothing, |channel| Taken::Closed(*channel));
    }
    Taken::Data(channel, bytes)
}

async fn write_all<S>(
    mut sink: S,
    mut queue: mpsc::Receiver<Out>,
    closed: CancellationToken,
    activity: Activity,
) where
    S: futures::Sink<Message> + Unpin,
{
    while let Some(out) = queue.recv().await {
        let sent = match out {
            Out::Message(message) => sink.send(message).await.is_ok(),
            Out::Close(tell) => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
                let sent = sink.send(Message::Close(Some(frame))).await.is_ok();
                // Who asked may have stopped waiting.
                let _heard = tell.send(());
                sent
            }
        };
        if !sent {
            closed.cancel();
            return;
        }
        activity.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Coding = Coding { base64: false, v5: false, tells_ends: false };
    const TEXT: Coding = Coding { base64: true, v5: false, tells_ends: false };
    const V5: Coding = Coding { base64: false, v5: true, tells_ends: false };

    #[test]
    fn messages_are_taken_apart() {
        let bytes = Bytes::from_static;
        assert_eq!(take(bytes(b""), PLAIN), Taken::Nothing);
        assert_eq!(take(bytes(b"\x00abc"), PLAIN), Taken::Data(0, bytes(b"abc")));
        assert_eq!(take(bytes(b"\xff\x00"), PLAIN), Taken::Data(255, bytes(b"\0")));
        assert_eq!(take(bytes(b"\xff\x00"), V5), Taken::Closed(0));
        assert_eq!(take(bytes(b"\xff"), V5), Taken::Nothing);
        assert_eq!(take(bytes(b"4YWJj"), TEXT), Taken::Data(4, bytes(b"abc")));
        assert_eq!(take(bytes(b"4?"), TEXT), Taken::Nonsense);
        assert_eq!(take(bytes(b"\x01YWJj"), TEXT), Taken::Nonsense);
    }

    proptest! {
        #[test]
        fn any_message_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for coding in [PLAIN, TEXT, V5] {
                if let Taken::Data(_, data) = take(bytes.clone().into(), coding) {
                    prop_assert!(data.len() < bytes.len());
                }
            }
        }
    }
}
