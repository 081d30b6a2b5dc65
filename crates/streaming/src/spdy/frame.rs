//! Frames of SPDY/3.1 and their bytes. Pure: nothing here reads, writes or waits.

use super::headers::{Deflater, Headers, Inflater};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Most bytes of a control frame. The largest that the Kubernetes protocols send has some hundred.
pub const MAX_CONTROL: usize = 16 << 10;

/// Status of RST_STREAM: the other side broke the protocol.
pub const RST_PROTOCOL_ERROR: u32 = 1;
/// Status of RST_STREAM: a frame for a stream that is not there.
pub const RST_INVALID_STREAM: u32 = 2;
/// Status of RST_STREAM: the stream is refused before anything was done with it.
pub const RST_REFUSED_STREAM: u32 = 3;
/// Status of RST_STREAM: the stream is not wanted any more.
pub const RST_CANCEL: u32 = 5;
/// Status of RST_STREAM: the window was exceeded or made too large.
pub const RST_FLOW_CONTROL_ERROR: u32 = 7;

/// Status of GOAWAY: the end.
pub const GOAWAY_OK: u32 = 0;
/// Status of GOAWAY: the other side broke the protocol.
pub const GOAWAY_PROTOCOL_ERROR: u32 = 1;
/// Status of GOAWAY: this side failed.
pub const GOAWAY_INTERNAL_ERROR: u32 = 2;

const VERSION: u16 = 3;
const HEADER: usize = 8;
const CONTROL: u32 = 1 << 31;
const ID: u32 = CONTROL - 1;
const FLAG_FIN: u8 = 1;
const SETTINGS_INITIAL_WINDOW: u32 = 7;

mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("spdy: {reason}")]
pub struct Fault {
    /// Status for GOAWAY.
    pub status: u32,
    /// What is wrong.
    pub reason: &'static str,
}

impl Fault {
    pub(crate) fn protocol(reason: &'static str) -> Self {
        Self { status: GOAWAY_PROTOCOL_ERROR, reason }
    }

    pub(crate) fn internal(reason: &'static str) -> Self {
        Self { status: GOAWAY_INTERNAL_ERROR, reason }
    }
}

/// A frame, or a piece of one: data is handed on as it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    SynStream {
        /// Its number.
        id: u32,
        /// The sender will send no data.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// The other side's answer to a new stream.
    SynReply {
        /// The stream.
        id: u32,
        /// The sender will send no data.
        fin: bool,
        /// The answer.
        headers: Headers,
    },
    /// The end of a stream in both directions.
    Reset {
        /// The stream.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Settings; only the initial window matters here.
    Settings {
        /// `SETTINGS_INITIAL_WINDOW_SIZE`, if it is among them.
        initial_window: Option<u32>,
    },
    /// Asks for the same frame back.
    Ping {
        /// Odd from clients, even from servers.
        id: u32,
    },
    /// No more streams.
    GoAway {
        /// The last stream that was taken on.
        last: u32,
        /// Why.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// The sender will send no more.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// More data may be sent.
    WindowUpdate {
        /// The stream, or 0 for the connection.
        id: u32,
        /// How many bytes more.
        delta: u32,
    },
    /// A piece of a stream's data.
    Data {
        /// The stream.
        id: u32,
        /// The sender will send no more after this piece.
        fin: bool,
        /// The data; may be empty.
        bytes: Bytes,
    },
}

/// What follows the header of a frame that has not come completely.
#[derive(Debug, Clone, Copy)]
enum Rest {
    /// The header of the next frame.
    Nothing,
    /// So many bytes of data, of this stream.
    Data { id: u32, fin: bool, left: usize },
    /// So many bytes that nobody wants.
    Skip(usize),
}

/// Makes frames of bytes. Holds no more than one control frame.
#[derive(Debug)]
pub struct Decoder {
    inflater: Inflater,
    rest: Rest,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflater: Inflater::new(), rest: Rest::Nothing }
    }
}

impl Decoder {
    /// Takes the next frame or piece of data off `input`; `None` until more has come. After a fault
    /// nothing that follows can be understood.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Fault> {
        loop {
            match self.rest {
                Rest::Data { id, fin, left } => {
                    if input.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    let bytes = input.split_to(left.min(input.len())).freeze();
                    let left = left - bytes.len();
                    self.rest = if left == 0 { Rest::Nothing } else { Rest::Data { id, fin, left } };
                    return Ok(Some(Frame::Data { id, fin: fin && left == 0, bytes }));
                }
                Rest::Skip(left) => {
                    let skipped = left.min(input.len());
                    input.advance(skipped);
                    if skipped < left {
                        self.rest = Rest::Skip(left - skipped);
                        return Ok(None);
                    }
                    self.rest = Rest::Nothing;
                }
                Rest::Nothing => {
                    let Some(mut header) = input.get(..HEADER) else { return Ok(None) };
                    let (first, second) = (header.get_u32(), header.get_u32());
                    let (flags, length) = ((second >> 24) as u8, (second & 0xff_ffff) as usize);
                    if first & CONTROL == 0 {
                        if first == 0 {
                            return Err(Fault::protocol("data for stream 0"));
                        }
                        input.advance(HEADER);
                        self.rest = Rest::Data { id: first, fin: flags & FLAG_FIN != 0, left: length };
                        continue;
                    }
                    let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
                    if version != VERSION {
                        return Err(Fault::protocol("a control frame is not of version 3"));
                    }
                    if length > MAX_CONTROL {
                        return Err(Fault::protocol("a control frame has more than 16 KiB"));
                    }
                    if !(kind::SYN_STREAM..=kind::WINDOW_UPDATE).contains(&kind) || kind == 5 {
                        // Unknown kinds are to be ignored (2.2.1).
                        input.advance(HEADER);
                        self.rest = Rest::Skip(length);
                        continue;
                    }
                    if input.len() < HEADER + length {
                        input.reserve(HEADER + length - input.len());
                        return Ok(None);
                    }
                    input.advance(HEADER);
                    let body = input.split_to(length);
                    return self.control(kind, flags, &body).map(Some);
                }
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> Result<Frame, Fault> {
        let fin = flags & FLAG_FIN != 0;
        let short = |_| Fault::protocol("a control frame is too short");
        let first = body.try_get_u32().map_err(short)?;
        let id = first & ID;
        Ok(match kind {
            kind::SYN_STREAM => {
                // Associated stream, priority, slot: of no use here.
                body.try_get_u32().map_err(short)?;
                body.try_get_u16().map_err(short)?;
                Frame::SynStream { id, fin, headers: self.inflater.block(body)? }
            }
            kind::SYN_REPLY => Frame::SynReply { id, fin, headers: self.inflater.block(body)? },
            kind::HEADERS => Frame::Headers { id, fin, headers: self.inflater.block(body)? },
            kind::RST_STREAM => Frame::Reset { id, status: body.try_get_u32().map_err(short)? },
            kind::PING => Frame::Ping { id: first },
            kind::GOAWAY => Frame::GoAway { last: id, status: body.try_get_u32().map_err(short)? },
            kind::WINDOW_UPDATE => Frame::WindowUpdate { id, delta: body.try_get_u32().map_err(short)? & ID },
            _ => {
                let mut initial_window = None;
                if body.len() != (first as usize).saturating_mul(8) {
                    return Err(Fault::protocol("SETTINGS of another length than its entries have"));
                }
                while let (Ok(id), Ok(value)) = (body.try_get_u32(), body.try_get_u32()) {
                    if id & 0xff_ffff == SETTINGS_INITIAL_WINDOW {
                        initial_window = Some(value & ID);
                    }
                }
                Frame::Settings { initial_window }
            }
        })
    }
}

/// Makes bytes of frames.
#[derive(Debug)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// A new connection's encoder. Fails only if zlib does.
    pub fn new() -> Result<Self, Fault> {
        Ok(Self { deflater: Deflater::new()? })
    }

    /// The bytes of a frame. Those with headers must be sent in the order of these calls.
    pub fn frame(&mut self, frame: &Frame) -> Result<Bytes, Fault> {
        let mut out = BytesMut::new();
        match frame {
            Frame::SynStream { id, fin, headers } => {
                control(&mut out, kind::SYN_STREAM, *fin);
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                self.deflater.block(headers, &mut out)?;
            }
            Frame::SynReply { id, fin, headers } => {
                control(&mut out, kind::SYN_REPLY, *fin);
                out.put_u32(*id);
                self.deflater.block(headers, &mut out)?;
            }
            Frame::Headers { id, fin, headers } => {
                control(&mut out, kind::HEADERS, *fin);
                out.put_u32(*id);
                self.deflater.block(headers, &mut out)?;
            }
            Frame::Reset { id, status } => words(&mut out, kind::RST_STREAM, &[*id, *status]),
            Frame::Ping { id } => words(&mut out, kind::PING, &[*id]),
            Frame::GoAway { last, status } => words(&mut out, kind::GOAWAY, &[*last, *status]),
            Frame::WindowUpdate { id, delta } => words(&mut out, kind::WINDOW_UPDATE, &[*id, *delta]),
            Frame::Settings { initial_window } => match initial_window {
                Some(window) => words(&mut out, kind::SETTINGS, &[1, SETTINGS_INITIAL_WINDOW, *window]),
                None => words(&mut out, kind::SETTINGS, &[0]),
            },
            Frame::Data { id, fin, bytes } => {
                out.put_slice(&data_header(*id, *fin, bytes.len()));
                out.put_slice(bytes);
                return Ok(out.freeze());
            }
        }
        let length = (out.len() - HEADER) as u32;
        out[5..HEADER].copy_from_slice(&length.to_be_bytes()[1..]);
        Ok(out.freeze())
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    // The length is filled in when it is known.
    out.put_u32(if fin { u32::from(FLAG_FIN) << 24 } else { 0 });
}

fn words(out: &mut BytesMut, kind: u16, words: &[u32]) {
    control(out, kind, false);
    words.iter().for_each(|word| out.put_u32(*word));
}

/// The header in front of `length` bytes of data (less than 16 MiB).
pub(crate) fn data_header(id: u32, fin: bool, length: usize) -> [u8; HEADER] {
    debug_assert!(length < 1 << 24);
    let flags = if fin { u64::from(FLAG_FIN) } else { 0 };
    (u64::from(id & ID) << 32 | flags << 24 | (length as u64 & 0xff_ffff)).to_be_bytes()
}
