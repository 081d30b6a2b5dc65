//! Exec and port-forward over WebSocket: every subprotocol, and clients that behave badly.

mod support;

use futures::{SinkExt as _, StreamExt as _};
use gantry_streaming::PortForwardRequest;
use support::{Served, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn connect(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let offer =
        if protocol.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {protocol}\r\n") };
    let (stream, answer) = request(url, "GET", &format!("{UPGRADE}{offer}")).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // The answer to the key of RFC 6455, 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    assert_eq!(answer.to_ascii_lowercase().contains("sec-websocket-protocol"), !protocol.is_empty());
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

/// Everything until the server's goodbye, by channel.
async fn collect(socket: &mut WebSocketStream<TcpStream>, base64: bool) -> [Vec<u8>; 5] {
    let mut channels = [const { Vec::new() }; 5];
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) if !base64 => {
                channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
            }
            Some(Ok(Message::Text(text))) if base64 => {
                use base64::Engine as _;
                let bytes = base64::engine::general_purpose::STANDARD.decode(&text.as_bytes()[1..]).unwrap();
                channels[usize::from(text.as_bytes()[0] - b'0')].extend_from_slice(&bytes);
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 1000);
                return channels;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn every_subprotocol_carries_input_outputs_and_the_end() {
    let server = Served::start(|_| {}).await;
    for (protocol, base64, json) in [
        ("", false, false),
        ("channel.k8s.io", false, false),
        ("base64.channel.k8s.io", true, false),
        ("v4.channel.k8s.io", false, true),
        ("v4.base64.channel.k8s.io", true, true),
        ("v5.channel.k8s.io", false, true),
    ] {
        let mut socket =
            connect(&server.exec(true, "read line; echo $line; echo bad >&2; exit 4"), protocol).await;
        let input = match base64 {
            true => Message::Text("0aGVsbG8K".into()),
            false => Message::Binary(b"\0hello\n"[..].into()),
        };
        // Unknown channels are ignored.
        socket.send(Message::Binary(vec![b'9', b'Y', b'W', b'J', b'j'].into())).await.unwrap();
        socket.send(input).await.unwrap();
        let [_, out, err, status, _] = collect(&mut socket, base64).await;
        assert_eq!((&out[..], &err[..]), (&b"hello\n"[..], &b"bad\n"[..]), "{protocol}");
        let status = String::from_utf8(status).unwrap();
        match json {
            true => assert!(status.contains("\"message\":\"4\""), "{protocol}: {status}"),
            false => assert!(status.ends_with("exit status 4"), "{protocol}: {status}"),
        }
    }
    server.fake.all_ended().await;
}

#[tokio::test]
async fn v5_closes_input_alone() {
    let server = Served::start(|_| {}).await;
    let mut socket = connect(&server.exec(true, "cat"), "v5.channel.k8s.io").await;
    socket.send(Message::Binary(b"\0abc"[..].into())).await.unwrap();
    socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let [_, out, _, status, _] = collect(&mut socket, false).await;
    assert_eq!(out, b"abc");
    assert!(String::from_utf8(status).unwrap().contains("Success"));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_session() {
    let server = Served::start(|_| {}).await;
    let socket = connect(&server.exec(true, "sleep 1000 & wait"), "v5.channel.k8s.io").await;
    drop(socket);
    server.fake.all_ended().await;
    let mut polite = connect(&server.exec(true, "sleep 1000 & wait"), "v4.channel.k8s.io").await;
    polite.close(None).await.unwrap();
    server.fake.all_ended().await;
}

#[tokio::test]
async fn broken_messages_and_handshakes_end_the_connection() {
    let server = Served::start(|_| {}).await;
    let mut socket = connect(&server.exec(true, "sleep 1000 & wait"), "base64.channel.k8s.io").await;
    socket.send(Message::Text("0?".into())).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    // A frame of 4 GiB is announced; an unmasked frame; a reserved opcode.
    for bytes in
        [&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0x82, 1, 0], &[0x8f, 0x80, 0, 0, 0, 0]]
    {
        let (mut stream, _) = request(
            &server.exec(true, "sleep 1000 & wait"),
            "GET",
            &format!("{UPGRADE}Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"),
        )
        .await;
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        // Closed or reset: it is over.
        let _over = stream.read_to_end(&mut rest).await;
    }
    server.fake.all_ended().await;
    for (headers, status) in [
        (format!("{UPGRADE}Sec-WebSocket-Protocol: chat\r\n"), 403),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n".to_owned(), 400),
        (UPGRADE.replace("13", "8"), 400),
    ] {
        let (_, answer) = request(&server.exec(false, "true"), "GET", &headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _client_gone = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn ports_are_forwarded_by_channels() {
    let server = Served::start(|_| {}).await;
    let port = echo().await;
    let request = PortForwardRequest { pod: "p".into(), ports: vec![port] };
    let by_request = server.streaming.prepare_port_forward(request).unwrap();
    let request = PortForwardRequest { pod: "p".into(), ports: Vec::new() };
    let by_url = server.streaming.prepare_port_forward(request).unwrap() + &format!("?port={port}");
    for (url, protocol) in [(by_request, "v4.channel.k8s.io"), (by_url, "")] {
        let mut socket = connect(&url, protocol).await;
        let [low, high] = port.to_le_bytes();
        for channel in [0, 1] {
            let first = socket.next().await.unwrap().unwrap();
            assert_eq!(first, Message::Binary(vec![channel, low, high].into()));
        }
        socket.send(Message::Binary(b"\0ping"[..].into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Binary(b"\0ping"[..].into()));
    }
}

#[tokio::test]
async fn v5_closes_each_direction_of_a_port_by_itself() {
    let server = Served::start(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = PortForwardRequest { pod: "p".into(), ports: vec![port] };
    let mut socket =
        connect(&server.streaming.prepare_port_forward(request).unwrap(), "v5.channel.k8s.io").await;
    let (mut pod, _) = listener.accept().await.unwrap();
    for _ in 0..2 {
        socket.next().await.unwrap().unwrap();
    }
    // The pod ends first, and still hears.
    pod.write_all(b"bye").await.unwrap();
    pod.shutdown().await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Binary(b"\0bye"[..].into()));
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Binary(b"\xff\0"[..].into()));
    socket.send(Message::Binary(b"\0more"[..].into())).await.unwrap();
    socket.send(Message::Binary(b"\xff\0"[..].into())).await.unwrap();
    let mut heard = String::new();
    pod.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "more");
    while let Some(Ok(message)) = socket.next().await {
        assert!(!matches!(message, Message::Binary(ref bytes) if bytes[0] == 0), "{message:?}");
    }
}

#[tokio::test]
async fn ports_are_forwarded_by_spdy_in_a_tunnel() {
    use gantry_streaming::spdy::frame::{Decoder, Encoder, Frame};
    use gantry_streaming::spdy::headers::Headers;
    let server = Served::start(|_| {}).await;
    let port = echo().await.to_string();
    let request = PortForwardRequest { pod: "p".into(), ports: Vec::new() };
    let url = server.streaming.prepare_port_forward(request).unwrap();
    let mut socket = connect(&url, "SPDY/3.1+portforward.k8s.io").await;
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::default());
    for (id, kind) in [(1, "error"), (3, "data")] {
        let headers = Headers::from([("port", port.as_str()), ("requestid", "0"), ("streamtype", kind)]);
        let bytes = encoder.frame(&Frame::SynStream { id, fin: false, headers }).unwrap();
        socket.send(Message::Binary(bytes)).await.unwrap();
    }
    let bytes = encoder.frame(&Frame::Data { id: 3, fin: true, bytes: "hello".into() }).unwrap();
    socket.send(Message::Binary(bytes)).await.unwrap();
    let (mut input, mut got, mut open) = (bytes::BytesMut::new(), Vec::new(), 2);
    while open > 0 {
        let Some(Ok(Message::Binary(bytes))) = socket.next().await else { panic!("ended") };
        input.extend_from_slice(&bytes);
        while let Some(frame) = decoder.next(&mut input).unwrap() {
            if let Frame::Data { bytes, fin, .. } = frame {
                got.extend_from_slice(&bytes);
                open -= i32::from(fin);
            }
        }
    }
    assert_eq!(got, b"hello");
}
