//! What is fuzzed: the SPDY codec, a SPDY session, WebSocket channels, and the server from the first byte on.

use super::{converse, fuzz, runtime};
use crate::activity::Activity;
use crate::endpoint::{AttachRequest, Duplex, Endpoint, ExecRequest, Exit, PortForwardRequest, Session};
use crate::server::{Config, Shared, answer};
use crate::spdy::frame::{Decoder, Encoder, Frame};
use crate::spdy::headers::{Headers, MAX_HEADER_BYTES, MAX_HEADERS};
use crate::spdy::{Connection, Limits};
use crate::tokens::Request;
use crate::websocket::{self, Coding};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A conversation of a client's frames.
fn spdy(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::new().unwrap();
    frames.iter().flat_map(|frame| encoder.frame(frame).unwrap()).collect()
}

fn open(id: u32, headers: Headers) -> Frame {
    Frame::SynStream { id, fin: false, headers }
}

fn data(id: u32, fin: bool, bytes: &'static [u8]) -> Frame {
    Frame::Data { id, fin, bytes: Bytes::from_static(bytes) }
}

fn kind(name: &str) -> Headers {
    Headers::from([("streamtype", name)])
}

fn spdy_corpus() -> Vec<Vec<u8>> {
    let port = |kind: &str| Headers::from([("streamtype", kind), ("port", "80"), ("requestid", "0")]);
    vec![
        spdy(&[
            open(1, kind("error")),
            open(3, kind("stdin")),
            open(5, kind("stdout")),
            open(7, kind("stderr")),
            data(3, false, b"some input"),
            data(3, true, b""),
        ]),
        spdy(&[
            Frame::Settings { initial_window: Some(65_536) },
            open(1, kind("error")),
            open(3, kind("stdout")),
            open(5, kind("resize")),
            data(5, false, br#"{"Width":80,"Height":24}"#),
            Frame::WindowUpdate { id: 3, delta: 1 << 16 },
            Frame::WindowUpdate { id: 0, delta: 1 << 16 },
            Frame::Ping { id: 1 },
            Frame::Reset { id: 5, status: 5 },
            Frame::GoAway { last: 0, status: 0 },
        ]),
        spdy(&[
            open(1, port("error")),
            data(1, true, b""),
            open(3, port("data")),
            data(3, false, &[b'x'; 3000]),
            Frame::Headers { id: 3, fin: false, headers: kind("more") },
            Frame::SynReply { id: 3, fin: true, headers: Headers::default() },
            data(3, true, b"end"),
        ]),
    ]
}

#[test]
fn spdy_frames() {
    fuzz("spdy frames and headers", &spdy_corpus(), |input, random| {
        let whole = decode(input, || input.len());
        let pieces = decode(input, || random.below(40) + 1);
        assert_eq!(whole, pieces, "frames depend on how the bytes are cut");
        for frame in &whole.0 {
            if let Frame::SynStream { headers, .. }
            | Frame::SynReply { headers, .. }
            | Frame::Headers { headers, .. } = frame
            {
                let size: usize = headers.0.iter().map(|(n, v)| n.len() + v.len()).sum();
                assert!(headers.0.len() <= MAX_HEADERS && size <= MAX_HEADER_BYTES);
            }
        }
        // What was understood can be said, and is understood as the same; headers that fill the bound may
        // not fit any more once they are compressed anew.
        let said = spdy(&whole.0);
        let again = decode(&said, || said.len());
        assert!(again.0 == whole.0 || again.1, "frames change when they are said again");
    });
}

/// Frames with the pieces of their data joined, and whether they ended in a fault.
fn decode(input: &[u8], mut size: impl FnMut() -> usize) -> (Vec<Frame>, bool) {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::<Frame>::new());
    let mut rest = input;
    // Whether the last frame is data that goes on.
    let mut joins = false;
    loop {
        match decoder.next(&mut buffer) {
            Ok(Some(Frame::Data { id, fin, bytes })) => {
                match frames.last_mut() {
                    Some(Frame::Data { id: last, fin: ends, bytes: before }) if joins && *last == id => {
                        *before = [&before[..], &bytes[..]].concat().into();
                        *ends = fin;
                    }
                    _ => frames.push(Frame::Data { id, fin, bytes }),
                }
                // Adjacent frames of one stream are joined, too: where one ends cannot be told from here.
                joins = !fin;
            }
            Ok(Some(frame)) => {
                joins = false;
                frames.push(frame);
            }
            Ok(None) if rest.is_empty() => return (frames, false),
            Ok(None) => {
                let (piece, more) = rest.split_at(size().clamp(1, rest.len()));
                buffer.extend_from_slice(piece);
                rest = more;
            }
            Err(_) => return (frames, true),
        }
    }
}

#[test]
fn spdy_session() {
    let runtime = runtime();
    fuzz("spdy session", &spdy_corpus(), |input, random| {
        let input: Arc<[u8]> = input.into();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(16 << 10);
            let limits = Limits { streams: 8, queue: 4096 };
            let mut connection = Connection::start(near, limits, Activity::new()).unwrap();
            let serving = tokio::spawn(async move {
                let mut tasks = tokio::task::JoinSet::new();
                while let Some(stream) = connection.accept().await {
                    if stream.headers.get("streamtype") == Some("error") {
                        stream.refuse();
                        continue;
                    }
                    let Ok((mut sender, mut receiver)) = stream.accept() else { break };
                    tasks.spawn(async move {
                        while let Some(bytes) = receiver.next().await {
                            if sender.send(bytes).await.is_err() {
                                return;
                            }
                        }
                        let _gone = sender.finish().await;
                    });
                }
                tasks.shutdown().await;
                connection.finish().await;
            });
            converse(far, input, random).await;
            serving.await.unwrap();
        });
    });
}

/// A message as clients send them: masked, here with zeros.
fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn socket_corpus() -> Vec<Vec<u8>> {
    let close = [0x03, 0xe8];
    vec![
        [message(2, b"\0input"), message(2, b"\xff\0"), message(8, &close)].concat(),
        [message(2, b"\x04{\"Width\":80,\"Height\":24}"), message(9, b"ping"), message(2, &[0; 3000])]
            .concat(),
        [message(1, b"0aW5wdXQ="), message(1, b"4e30="), message(8, b"")].concat(),
        // In two fragments, with a ping between.
        [vec![0x02, 0x82, 0, 0, 0, 0, 0, b'a'], message(9, b""), vec![0x80, 0x81, 0, 0, 0, 0, b'b']].concat(),
    ]
}

#[test]
fn websocket_channels() {
    let runtime = runtime();
    fuzz("websocket channels", &socket_corpus(), |input, random| {
        let coding = Coding { base64: random.below(3) == 0, v5: random.below(2) == 0, tells_ends: false };
        let input: Arc<[u8]> = input.into();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(16 << 10);
            let serving = tokio::spawn(async move {
                let socket = websocket::open(near).await;
                let channels = [true, false, false, false, true];
                let connection =
                    websocket::Connection::start(socket, coding, &channels, 4096, Activity::new());
                let (mut input, mut output) = (connection.receiver(0).unwrap(), connection.sender(1));
                connection.ignore(4);
                while let Some(bytes) = input.next().await {
                    let mut buffer = output.buffer(bytes.len());
                    buffer.extend_from_slice(&bytes);
                    if output.send(buffer).await.is_err() {
                        break;
                    }
                }
                connection.finish().await;
            });
            converse(far, input, random).await;
            serving.await.unwrap();
        });
    });
}

/// Nothing can be run, attached to or dialled.
struct Refuses;

impl Endpoint for Refuses {
    fn exec(&self, _request: ExecRequest) -> BoxFuture<'_, Result<Session, String>> {
        let exit = Box::pin(async { Exit::Code(0) });
        let session =
            Session { stdin: None, stdout: None, stderr: None, resize: None, exit, guard: Box::new(()) };
        Box::pin(async { Ok(session) })
    }

    fn attach(&self, _request: AttachRequest) -> BoxFuture<'_, Result<Session, String>> {
        Box::pin(async { Err("nothing to attach to".to_owned()) })
    }

    fn port_forward(&self, _pod: &str, _port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>> {
        Box::pin(async { Err("refused".to_owned()) })
    }
}

/// Stands in the corpus for a token that is good.
const TOKEN: &str = "AAAAAAAAAAAAAAAAAAAAAA";

fn http_corpus() -> Vec<Vec<u8>> {
    let spdy = |kind: &str, protocol: &str, frames: &[u8]| {
        let head = format!(
            "POST /{kind}/{TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
        );
        [head.as_bytes(), frames].concat()
    };
    let socket = |kind: &str, protocol: &str, messages: &[u8]| {
        let head = format!(
            "GET /{kind}/{TOKEN}?port=80 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        [head.as_bytes(), messages].concat()
    };
    let (frames, messages) = (spdy_corpus(), socket_corpus());
    vec![
        spdy("exec", "v4.channel.k8s.io", &frames[0]),
        spdy("attach", "v4.channel.k8s.io, channel.k8s.io", &frames[1]),
        spdy("portforward", "portforward.k8s.io", &frames[2]),
        socket("exec", "v5.channel.k8s.io", &messages[0]),
        socket("attach", "v4.base64.channel.k8s.io", &messages[2]),
        socket("portforward", "v4.channel.k8s.io", &messages[1]),
        socket("portforward", "SPDY/3.1+portforward.k8s.io", &message(2, &frames[2][..100])),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ]
}

#[test]
fn http_handshakes() {
    let runtime = runtime();
    fuzz("http handshakes", &http_corpus(), |input, random| {
        runtime.block_on(async {
            let shared = Arc::new(Shared::with(Config::new(([127, 0, 0, 1], 0).into()), Arc::new(Refuses)));
            let (near, far) = tokio::io::duplex(16 << 10);
            let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let input: Arc<[u8]> = with_token(&shared, input).into();
            let inner = shared.clone();
            let serving = tokio::spawn(async move {
                let limit = inner.config.header_read;
                answer(inner, limit, near, Arc::new(permit)).await;
            });
            let said = converse(far, input, random).await;
            serving.await.unwrap();
            // One of HTTP/1.0 is told so in its own words, and never upgraded.
            let known = said.is_empty() || said.starts_with(b"HTTP/1.1 ") || said.starts_with(b"HTTP/1.0 ");
            let shown = String::from_utf8_lossy(&said);
            assert!(known && !said.starts_with(b"HTTP/1.0 101"), "{shown}");
            // The sessions end with their connection.
            shared.sessions.close();
            let ended = tokio::time::timeout(super::HANGS, shared.sessions.wait()).await;
            assert!(ended.is_ok(), "a session outlives its connection");
        });
    });
}

/// The input with tokens that are good where the corpus has its own.
fn with_token(shared: &Shared, input: &[u8]) -> Vec<u8> {
    let exec = ExecRequest {
        container: "c".into(),
        argv: vec!["x".into()],
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let attach = AttachRequest { container: "c".into(), tty: true, stdin: true, stdout: true, stderr: false };
    let forward = PortForwardRequest { pod: "p".into(), ports: Vec::new() };
    let mut input = input.to_vec();
    for request in [Request::Exec(exec), Request::Attach(attach), Request::PortForward(forward)] {
        let path = format!("/{}/{TOKEN}", request.path());
        let token = shared.tokens.put(request).unwrap();
        if let Some(at) = input.windows(path.len()).position(|w| w == path.as_bytes()) {
            let end = at + path.len();
            input[end - TOKEN.len()..end].copy_from_slice(token.as_bytes());
        }
    }
    input
}
