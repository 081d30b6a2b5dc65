//! A SPDY connection from the server's side: its streams, its windows, its end.
//!
//! One task reads and one writes. What a stream receives waits in a queue with a bound; the reader waits when
//! it is full, so that a peer that does not keep to the window meets TCP's. What is sent waits in a short
//! channel that all streams share, and for the peer's windows.
//!
//! **Windows.** Go's SPDY library, which every Kubernetes client uses, neither keeps to windows nor ever sends
//! WINDOW_UPDATE; a server that insisted would stop after 64 KiB. So windows towards the peer are counted from
//! the start and kept to as soon as the peer has shown that it knows them, by SETTINGS with an initial window
//! or by a first WINDOW_UPDATE. Windows towards us are kept up for peers that want them.

use super::frame::{self, Encoder, Fault, Frame, data_header};
use super::headers::Headers;
use super::tasks::{read_all, write_all};
use crate::activity::Activity;
use crate::queue::ByteQueue;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Initial window of a stream and of the connection (2.6.8).
const WINDOW: i64 = 64 << 10;
/// Largest window.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Received bytes after which the window is opened again.
const UPDATE_AFTER: u32 = 32 << 10;
/// Most bytes of one data frame.
pub(super) const PIECE: usize = 32 << 10;
/// Data frames that wait for the socket, of all streams together.
const DATA_QUEUE: usize = 4;
/// Control frames that wait for the socket; a peer that makes us answer more and reads none is dropped.
const CONTROL_QUEUE: usize = 256;
/// How long the last frames may take, and then the peer to close.
const LINGER: Duration = Duration::from_secs(10);

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most streams at a time; more are refused one by one.
    pub(crate) streams: usize,
    /// Received bytes of a stream that wait for its reader.
    pub(crate) queue: usize,
}

/// A connection. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Stream>,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) state: Mutex<State>,
    pub(super) control: mpsc::Sender<Bytes>,
    pub(super) data: mpsc::Sender<Out>,
    /// Windows towards the peer have grown, or a stream was reset.
    pub(super) grown: Notify,
    /// There are window updates to send.
    pub(super) owed: Notify,
    /// The peer is gone, or is to be treated so.
    pub(super) closed: CancellationToken,
    /// Send what is queued as control frames and close.
    pub(super) ending: CancellationToken,
    pub(super) activity: Activity,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) encoder: Encoder,
    pub(super) streams: HashMap<u32, Entry>,
    pub(super) last_id: u32,
    pub(super) going_away: bool,
    /// The peer has shown that it knows windows.
    pub(super) keeps_windows: bool,
    pub(super) window: i64,
    pub(super) initial_window: i64,
    /// Received and consumed bytes of the connection that were not told yet.
    pub(super) consumed: u32,
    /// Updates to send, by stream; 0 is the connection.
    pub(super) updates: HashMap<u32, u32>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) queue: Arc<ByteQueue>,
    pub(super) window: i64,
    pub(super) consumed: u32,
    pub(super) sent_fin: bool,
    pub(super) received_fin: bool,
    pub(super) unwanted: bool,
    pub(super) reset: CancellationToken,
}

#[derive(Debug)]
pub(super) enum Out {
    Frame([u8; 8], Bytes),
    Control(Bytes),
    Flushed(oneshot::Sender<()>),
}

/// A stream that the peer has opened and that is not answered yet.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) id: u32,
    pub(crate) headers: Headers,
    pub(super) queue: Arc<ByteQueue>,
    pub(super) reset: CancellationToken,
    pub(super) shared: Arc<Shared>,
}

/// The sending half of a stream. Dropped without [`Sender::finish`] it resets the stream.
#[derive(Debug)]
pub(crate) struct Sender {
    id: u32,
    reset: CancellationToken,
    shared: Arc<Shared>,
    finished: bool,
}

/// The receiving half of a stream. Once it is dropped, what comes is thrown away.
#[derive(Debug)]
pub(crate) struct Receiver {
    id: u32,
    queue: Arc<ByteQueue>,
    shared: Arc<Shared>,
    /// Bytes that were given out and are taken as consumed with the next call.
    given: u32,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone or has reset the stream")
}

impl Connection {
    /// Takes over `io`, on which only frames follow.
    pub(crate) fn start<T>(io: T, limits: Limits, activity: Activity) -> Result<Self, Fault>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (control, control_out) = mpsc::channel(CONTROL_QUEUE);
        let (data, data_out) = mpsc::channel(DATA_QUEUE);
        let (offer, incoming) = mpsc::channel(limits.streams.max(1));
        let state = State {
            encoder: Encoder::new()?,
            streams: HashMap::new(),
            last_id: 0,
            going_away: false,
            keeps_windows: false,
            window: WINDOW,
            initial_window: WINDOW,
            consumed: 0,
            updates: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            limits,
            state: Mutex::new(state),
            control,
            data,
            grown: Notify::new(),
            owed: Notify::new(),
            closed: CancellationToken::new(),
            ending: CancellationToken::new(),
            activity,
        });
        let (read, write) = tokio::io::split(io);
        let reader = tokio::spawn(read_all(shared.clone(), read, offer));
        let ending = shared.ending.clone();
        let late = async move {
            ending.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        let writer = write_all(shared.clone(), write, control_out, data_out);
        // It outlives the connection for its last words, but not for long.
        tokio::spawn(async move {
            tokio::select! {
                () = writer => {}
                () = late => {}
            }
        });
        Ok(Self { shared, incoming, _reader: AbortOnDropHandle::new(reader) })
    }

    /// The next stream that the peer opens; `None` when there will be none.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        tokio::select! {
            stream = self.incoming.recv() => stream,
            () = self.shared.closed.cancelled() => None,
        }
    }

    /// Resolves when the peer is gone.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Sends what waits, and leaves it to the peer to close: who closes with unread input destroys what the
    /// peer has not read yet. At most ten seconds each.
    pub(crate) async fn finish(self) {
        let (tell, told) = oneshot::channel();
        let flushed = async {
            if self.shared.data.send(Out::Flushed(tell)).await.is_ok() {
                // The writer going away means the same.
                let _flushed = told.await;
            }
        };
        let flush = async { tokio::time::timeout(LINGER, flushed).await.is_ok() };
        let done = tokio::select! {
            done = flush => done,
            () = self.shared.closed.cancelled() => false,
        };
        if done {
            let _gone = tokio::time::timeout(LINGER, self.shared.closed.cancelled()).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.ending.cancel();
        self.shared.close();
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        for entry in self.state().streams.values() {
            entry.reset.cancel();
            entry.queue.end();
        }
    }

    /// Queues a control frame; a peer that does not read its answers is given up.
    pub(super) fn control(&self, frame: &Frame) -> Result<(), Fault> {
        let mut state = self.state();
        let bytes = state.encoder.frame(frame)?;
        // Under the lock, so that header blocks go out in the order of their compression.
        self.control.try_send(bytes).map_err(|_| Fault::protocol("the answers are not read"))
    }

    /// Ends a stream both ways and says so, if the queue has room: a peer that sends on is told again.
    pub(super) fn reset(&self, id: u32, status: u32) {
        if let Some(entry) = self.state().streams.remove(&id) {
            entry.reset.cancel();
            entry.queue.end();
        }
        let _told_again = self.control(&Frame::Reset { id, status });
    }

    /// Counts bytes as consumed, so that the peer may send as many more.
    pub(super) fn consumed(&self, id: u32, bytes: u32) {
        let mut state = self.state();
        let state = &mut *state;
        state.consumed += bytes;
        if state.consumed >= UPDATE_AFTER {
            *state.updates.entry(0).or_default() += std::mem::take(&mut state.consumed);
        }
        if let Some(entry) = state.streams.get_mut(&id).filter(|e| !e.received_fin) {
            entry.consumed += bytes;
            if entry.consumed >= UPDATE_AFTER {
                *state.updates.entry(id).or_default() += std::mem::take(&mut entry.consumed);
            }
        }
        if !state.updates.is_empty() {
            self.owed.notify_one();
        }
    }

    /// How many of `wanted` bytes may be sent on stream `id` now.
    fn reserve(&self, id: u32, wanted: usize) -> io::Result<usize> {
        let mut state = self.state();
        let state = &mut *state;
        let entry = state.streams.get_mut(&id).ok_or_else(gone)?;
        let wanted = wanted.min(PIECE) as i64;
        let granted = match state.keeps_windows {
            true => wanted.min(entry.window).min(state.window).max(0),
            false => wanted,
        };
        entry.window -= granted;
        state.window -= granted;
        Ok(granted as usize)
    }
}

impl Stream {
    /// The number that the peer gave it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Answers that the stream is taken on.
    pub(crate) fn accept(self) -> Result<(Sender, Receiver), Fault> {
        let Self { id, queue, reset, shared, .. } = self;
        shared.control(&Frame::SynReply { id, fin: false, headers: Headers::default() })?;
        let sender = Sender { id, reset, shared: shared.clone(), finished: false };
        Ok((sender, Receiver { id, queue, shared, given: 0 }))
    }

    /// Refuses the stream.
    pub(crate) fn refuse(self) {
        self.shared.reset(self.id, frame::RST_REFUSED_STREAM);
    }
}

impl Sender {
    /// Sends `bytes`, as windows and the socket allow.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            // Before the look at the windows, so that growing in between is not missed.
            let grown = self.shared.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            match self.shared.reserve(self.id, bytes.len())? {
                0 => tokio::select! {
                    () = grown => {}
                    () = self.reset.cancelled() => return Err(gone()),
                    () = self.shared.closed.cancelled() => return Err(gone()),
                },
                n => {
                    let piece = bytes.split_to(n);
                    self.out(Out::Frame(data_header(self.id, false, n), piece)).await?;
                }
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.finished = true;
        self.out(Out::Frame(data_header(self.id, true, 0), Bytes::new())).await?;
        let reset = {
            let mut state = self.shared.state();
            let Some(entry) = state.streams.get_mut(&self.id) else { return Ok(()) };
            entry.sent_fin = true;
            let (over, unwanted) = (entry.received_fin, entry.unwanted);
            if over || unwanted {
                state.streams.remove(&self.id);
            }
            let status = frame::RST_CANCEL;
            (unwanted && !over).then(|| state.encoder.frame(&Frame::Reset { id: self.id, status }))
        };
        match reset {
            // Behind the data, which a reset would else overtake.
            Some(Ok(bytes)) => self.out(Out::Control(bytes)).await,
            _ => Ok(()),
        }
    }

    /// Ends the stream both ways.
    pub(crate) fn reset(mut self) {
        self.finished = true;
        self.shared.reset(self.id, frame::RST_CANCEL);
    }

    /// Leaves the stream open without ever sending on it; it ends with the connection.
    pub(crate) fn leave(mut self) {
        self.finished = true;
    }

    /// Cancelled when the peer has reset the stream.
    pub(crate) fn abandoned(&self) -> CancellationToken {
        self.reset.clone()
    }

    /// Resolves when the peer has reset the stream or is gone.
    pub(crate) async fn gone(&self) {
        tokio::select! {
            () = self.reset.cancelled() => {}
            () = self.shared.closed.cancelled() => {}
        }
    }

    async fn out(&self, out: Out) -> io::Result<()> {
        tokio::select! {
            sent = self.shared.data.send(out) => sent.map_err(|_| gone()),
            () = self.reset.cancelled() => Err(gone()),
            () = self.shared.closed.cancelled() => Err(gone()),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished && !self.shared.closed.is_cancelled() {
            self.shared.reset(self.id, frame::RST_CANCEL);
        }
    }
}

impl Receiver {
    /// The next piece; `None` when the peer has finished, has reset the stream, or is gone. The piece before
    /// counts as consumed.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if self.given > 0 {
            self.shared.consumed(self.id, std::mem::take(&mut self.given));
        }
        let piece = self.queue.pop().await?;
        self.given = piece.len() as u32;
        Some(piece)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let left = self.queue.abort() as u32 + self.given;
        self.shared.consumed(self.id, left);
        let mut state = self.shared.state();
        if let Some(entry) = state.streams.get_mut(&self.id) {
            entry.unwanted = true;
            if entry.sent_fin {
                state.streams.remove(&self.id);
            }
        }
    }
}
