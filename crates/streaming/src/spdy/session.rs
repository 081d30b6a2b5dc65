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

use super::frame::{self, Decoder, Encoder, Fault, Frame, data_header};
use super::headers::Headers;
use crate::activity::Activity;
use crate::queue::ByteQueue;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Initial window of a stream and of the connection (2.6.8).
const WINDOW: i64 = 64 << 10;
/// Largest window.
const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Received bytes after which the window is opened again.
const UPDATE_AFTER: u32 = 32 << 10;
/// Most bytes of one data frame.
const PIECE: usize = 32 << 10;
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
struct Shared {
    limits: Limits,
    state: Mutex<State>,
    control: mpsc::Sender<Bytes>,
    data: mpsc::Sender<Out>,
    /// Windows towards the peer have grown, or a stream was reset.
    grown: Notify,
    /// There are window updates to send.
    owed: Notify,
    /// The peer is gone, or is to be treated so.
    closed: CancellationToken,
    /// Send what is queued as control frames and close.
    ending: CancellationToken,
    activity: Activity,
}

#[derive(Debug)]
struct State {
    encoder: Encoder,
    streams: HashMap<u32, Entry>,
    last_id: u32,
    going_away: bool,
    /// The peer has shown that it knows windows.
    keeps_windows: bool,
    window: i64,
    initial_window: i64,
    /// Received and consumed bytes of the connection that were not told yet.
    consumed: u32,
    /// Updates to send, by stream; 0 is the connection.
    updates: HashMap<u32, u32>,
}

#[derive(Debug)]
struct Entry {
    queue: Arc<ByteQueue>,
    window: i64,
    consumed: u32,
    sent_fin: bool,
    received_fin: bool,
    unwanted: bool,
    reset: CancellationToken,
}

#[derive(Debug)]
enum Out {
    Frame([u8; 8], Bytes),
    Control(Bytes),
    Flushed(oneshot::Sender<()>),
}

/// A stream that the peer has opened and that is not answered yet.
#[derive(Debug)]
pub(crate) struct Stream {
    id: u32,
    pub(crate) headers: Headers,
    queue: Arc<ByteQueue>,
    reset: CancellationToken,
    shared: Arc<Shared>,
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
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.closed.cancel();
        for entry in self.state().streams.values() {
            entry.reset.cancel();
            entry.queue.end();
        }
    }

    /// Queues a control frame; a peer that does not read its answers is given up.
    fn control(&self, frame: &Frame) -> Result<(), Fault> {
        let mut state = self.state();
        let bytes = state.encoder.frame(frame)?;
        // Under the lock, so that header blocks go out in the order of their compression.
        self.control.try_send(bytes).map_err(|_| Fault::protocol("the answers are not read"))
    }

    /// Ends a stream both ways and says so, if the queue has room: a peer that sends on is told again.
    fn reset(&self, id: u32, status: u32) {
        if let Some(entry) = self.state().streams.remove(&id) {
            entry.reset.cancel();
            entry.queue.end();
        }
        let _told_again = self.control(&Frame::Reset { id, status });
    }

    /// Counts bytes as consumed, so that the peer may send as many more.
    fn consumed(&self, id: u32, bytes: u32) {
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

async fn read_all(shared: Arc<Shared>, mut io: impl AsyncRead + Unpin, offer: mpsc::Sender<Stream>) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(PIECE);
    let fault = loop {
        match decoder.next(&mut buffer) {
            Ok(Some(frame)) => {
                if let Err(fault) = receive(&shared, frame, &offer).await {
                    break fault;
                }
            }
            Ok(None) => {
                buffer.reserve(PIECE / 2);
                match io.read_buf(&mut buffer).await {
                    Ok(n) if n > 0 => shared.activity.touch(),
                    // The end, or a connection that broke: the peer is gone.
                    Ok(_) | Err(_) => return shared.close(),
                }
            }
            Err(fault) => break fault,
        }
    };
    tracing::debug!(reason = fault.reason, "a client broke the protocol");
    let last = shared.state().last_id;
    let _full = shared.control(&Frame::GoAway { last, status: fault.status });
    shared.ending.cancel();
    shared.close();
}

async fn receive(shared: &Arc<Shared>, frame: Frame, offer: &mpsc::Sender<Stream>) -> Result<(), Fault> {
    match frame {
        Frame::SynStream { id, fin, headers } => opened(shared, id, fin, headers, offer)?,
        Frame::Data { id, fin, bytes } => data(shared, id, fin, bytes).await,
        Frame::Reset { id, .. } => {
            if let Some(entry) = shared.state().streams.remove(&id) {
                entry.reset.cancel();
                entry.queue.end();
            }
        }
        // A client answers streams that a server opens; this one opens none.
        Frame::SynReply { id, .. } => shared.reset(id, frame::RST_PROTOCOL_ERROR),
        Frame::Headers { id, fin, .. } => {
            if fin {
                finished(shared, id);
            }
        }
        // Even numbers would be answers to ours, and we ask nothing.
        Frame::Ping { id } if id % 2 == 1 => shared.control(&Frame::Ping { id })?,
        Frame::Ping { .. } => {}
        Frame::GoAway { .. } => shared.state().going_away = true,
        Frame::Settings { initial_window: None } => {}
        Frame::Settings { initial_window: Some(window) } => {
            let mut state = shared.state();
            let change = i64::from(window) - state.initial_window;
            state.initial_window = i64::from(window);
            state.keeps_windows = true;
            for entry in state.streams.values_mut() {
                entry.window += change;
            }
            drop(state);
            shared.grown.notify_waiters();
        }
        Frame::WindowUpdate { id, delta } => grow(shared, id, i64::from(delta))?,
    }
    Ok(())
}

fn opened(
    shared: &Arc<Shared>,
    id: u32,
    fin: bool,
    headers: Headers,
    offer: &mpsc::Sender<Stream>,
) -> Result<(), Fault> {
    let queue = Arc::new(ByteQueue::new(shared.limits.queue));
    let reset = CancellationToken::new();
    {
        let mut state = shared.state();
        if id % 2 == 0 || id <= state.last_id {
            return Err(Fault::protocol("the number of a new stream is even or not above the last"));
        }
        state.last_id = id;
        if state.streams.len() >= shared.limits.streams || state.going_away {
            drop(state);
            shared.reset(id, frame::RST_REFUSED_STREAM);
            return Ok(());
        }
        let entry = Entry {
            queue: queue.clone(),
            window: state.initial_window,
            consumed: 0,
            sent_fin: false,
            received_fin: fin,
            unwanted: false,
            reset: reset.clone(),
        };
        state.streams.insert(id, entry);
    }
    if fin {
        queue.end();
    }
    let stream = Stream { id, headers, queue, reset, shared: shared.clone() };
    if let Err(error) = offer.try_send(stream) {
        error.into_inner().refuse();
    }
    Ok(())
}

async fn data(shared: &Shared, id: u32, fin: bool, bytes: Bytes) {
    let found = {
        let state = shared.state();
        let open = state.streams.get(&id).filter(|e| !e.received_fin);
        open.map(|e| (e.queue.clone(), e.unwanted, e.reset.clone()))
    };
    let length = bytes.len() as u32;
    match found {
        Some((queue, false, reset)) if length > 0 => tokio::select! {
            () = queue.push(bytes) => {}
            () = reset.cancelled() => {}
        },
        Some(_) => shared.consumed(id, length),
        None => {
            shared.consumed(id, length);
            if length > 0 {
                shared.reset(id, frame::RST_INVALID_STREAM);
            }
        }
    }
    if fin {
        finished(shared, id);
    }
}

/// The peer will send no more on this stream.
fn finished(shared: &Shared, id: u32) {
    let mut state = shared.state();
    if let Some(entry) = state.streams.get_mut(&id) {
        entry.received_fin = true;
        entry.queue.end();
        if entry.sent_fin {
            state.streams.remove(&id);
        }
    }
}

fn grow(shared: &Shared, id: u32, delta: i64) -> Result<(), Fault> {
    let broken = {
        let mut state = shared.state();
        state.keeps_windows = true;
        if id == 0 {
            state.window += delta;
            if state.window > MAX_WINDOW || delta == 0 {
                return Err(Fault::protocol(
                    "the connection's window is grown by nothing or beyond 2^31 - 1",
                ));
            }
            None
        } else if let Some(entry) = state.streams.get_mut(&id) {
            entry.window += delta;
            match (delta, entry.window) {
                (0, _) => Some(frame::RST_PROTOCOL_ERROR),
                (_, window) if window > MAX_WINDOW => Some(frame::RST_FLOW_CONTROL_ERROR),
                _ => None,
            }
        } else {
            // A stream that has ended meanwhile.
            None
        }
    };
    if let Some(status) = broken {
        shared.reset(id, status);
    }
    shared.grown.notify_waiters();
    Ok(())
}

async fn write_all(
    shared: Arc<Shared>,
    mut io: impl AsyncWrite + Unpin,
    mut control: mpsc::Receiver<Bytes>,
    mut data: mpsc::Receiver<Out>,
) {
    loop {
        let next = tokio::select! {
            biased;
            Some(bytes) = control.recv() => Out::Control(bytes),
            () = shared.ending.cancelled() => break,
            () = shared.owed.notified() => match updates(&shared) {
                Some(bytes) => Out::Control(bytes),
                None => continue,
            },
            Some(out) = data.recv() => out,
            else => break,
        };
        let more = !control.is_empty() || !data.is_empty();
        if write_one(&mut io, next, more).await.is_err() {
            break;
        }
        shared.activity.touch();
    }
    // The connection is over, however this ends.
    let _over = io.shutdown().await;
    shared.close();
}

async fn write_one(io: &mut (impl AsyncWrite + Unpin), out: Out, more: bool) -> io::Result<()> {
    match out {
        Out::Frame(header, bytes) => io.write_all_buf(&mut Buf::chain(header.as_slice(), bytes)).await?,
        Out::Control(bytes) => io.write_all(&bytes).await?,
        Out::Flushed(tell) => {
            io.flush().await?;
            // Who asked may have stopped waiting.
            let _heard = tell.send(());
            return Ok(());
        }
    }
    if more { Ok(()) } else { io.flush().await }
}

fn updates(shared: &Shared) -> Option<Bytes> {
    let mut state = shared.state();
    let updates = std::mem::take(&mut state.updates);
    let mut out = BytesMut::new();
    for (id, delta) in updates {
        if id == 0 || state.streams.contains_key(&id) {
            out.extend_from_slice(&state.encoder.frame(&Frame::WindowUpdate { id, delta }).ok()?);
        }
    }
    (!out.is_empty()).then(|| out.freeze())
}
