//! The two tasks of a connection: one reads frames and acts on them, one writes.

use super::frame::{self, Decoder, Fault, Frame};
use super::headers::Headers;
use super::session::{Entry, MAX_WINDOW, Out, PIECE, Shared, Stream};
use crate::queue::ByteQueue;
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) async fn read_all(
    shared: Arc<Shared>,
    mut io: impl AsyncRead + Unpin,
    offer: mpsc::Sender<Stream>,
) {
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

pub(super) async fn write_all(
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
