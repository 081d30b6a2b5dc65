//! Exec and port-forward over SPDY, as kubectl and crictl do them, and by clients that behave badly.

mod support;

use gantry_streaming::PortForwardRequest;
use gantry_streaming::spdy::frame::Frame;
use support::{Served, Spdy, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn exec(server: &Served, stdin: bool, script: &str, version: &str) -> (Spdy, [u32; 4]) {
    let mut client = Spdy::connect(&server.exec(stdin, script), version).await;
    let error = client.kind("error").await;
    let input = if stdin { client.kind("stdin").await } else { 0 };
    let output = client.kind("stdout").await;
    let errors = client.kind("stderr").await;
    (client, [error, input, output, errors])
}

#[tokio::test]
async fn output_exit_code_and_stdin_go_through() {
    let server = Served::start(|_| {}).await;
    let (mut client, [error, stdin, stdout, stderr]) =
        exec(&server, true, "cat; echo bad >&2; exit 7", "v4.channel.k8s.io").await;
    client.data(stdin, b"some\0bytes\xff", false).await;
    client.data(stdin, b" more", true).await;
    let [status, out, err] = client.collect([error, stdout, stderr]).await;
    assert_eq!((&out[..], &err[..]), (&b"some\0bytes\xff more"[..], &b"bad\n"[..]));
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    server.fake.all_ended().await;
}

#[tokio::test]
async fn old_versions_tell_failures_as_text() {
    let server = Served::start(|_| {}).await;
    for version in ["v2.channel.k8s.io", "v3.channel.k8s.io"] {
        let (mut client, [error, _, stdout, stderr]) =
            exec(&server, false, "echo out; exit 3", version).await;
        let [status, out, _] = client.collect([error, stdout, stderr]).await;
        assert_eq!(out, b"out\n");
        assert!(String::from_utf8(status).unwrap().ends_with("exit status 3"));
        let (mut client, [error, _, stdout, stderr]) = exec(&server, false, "true", version).await;
        assert_eq!(client.collect([error, stdout, stderr]).await[0], b"");
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_is_told_as_such() {
    let server = Served::start(|_| {}).await;
    let mut exec = gantry_streaming::ExecRequest {
        container: "c".into(),
        argv: vec!["/nonexistent".into()],
        tty: false,
        stdin: false,
        stdout: true,
        stderr: false,
    };
    let mut client =
        Spdy::connect(&server.streaming.prepare_exec(exec.clone()).unwrap(), "v4.channel.k8s.io").await;
    let (error, stdout) = (client.kind("error").await, client.kind("stdout").await);
    let [status, _] = client.collect([error, stdout]).await;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!((&status["code"], &status["status"]), (&500.into(), &"Failure".into()));
    exec.argv.clear();
    server.streaming.prepare_exec(exec).unwrap_err();
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_session() {
    let server = Served::start(|_| {}).await;
    let (client, _) = exec(&server, true, "sleep 1000 & wait", "v4.channel.k8s.io").await;
    drop(client);
    server.fake.all_ended().await;
}

#[tokio::test]
async fn large_output_comes_whole_whether_or_not_windows_are_kept() {
    let server = Served::start(|_| {}).await;
    for windows in [false, true] {
        let (mut client, [error, _, stdout, stderr]) =
            exec(&server, false, "head -c 4000000 /dev/zero", "v4.channel.k8s.io").await;
        if windows {
            client.send(&Frame::Settings { initial_window: Some(1000) }).await;
            let [_, out, _] = client.collect([error, stdout, stderr]).await;
            assert_eq!(out.len(), 4_000_000);
            continue;
        }
        // As Go's clients: not a word about windows.
        let (mut total, mut open) = (0, 3);
        while open > 0 {
            if let Frame::Data { bytes, fin, .. } = client.read().await.unwrap() {
                total += bytes.len();
                open -= usize::from(fin);
            }
        }
        assert!(total >= 4_000_000);
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_process_and_costs_little() {
    let server = Served::start(|_| {}).await;
    // The process writes a line for each 64 KiB that went, to a file that tells how far it came.
    let dir = tempfile::tempdir().unwrap();
    let progress = dir.path().join("progress");
    let script = format!(
        "i=0; while [ $i -lt 4000 ]; do head -c 65536 /dev/zero || exit 1; echo >>{}; i=$((i+1)); done",
        progress.display()
    );
    let (mut client, [_, _, stdout, _]) = exec(&server, false, &script, "v4.channel.k8s.io").await;
    client.send(&Frame::Settings { initial_window: Some(1 << 20) }).await;
    // The windows: 64 KiB for the connection at first. Grown by 1 MiB, and then never again.
    client.send(&Frame::WindowUpdate { id: 0, delta: 1 << 20 }).await;
    let mut got = 0;
    while got < 1 << 20 {
        if let Frame::Data { bytes, id, .. } = client.read().await.unwrap() {
            assert_eq!(id, stdout);
            got += bytes.len();
        }
    }
    // A pong comes behind everything that the windows allow: no more data than that was sent.
    client.send(&Frame::Ping { id: 77 }).await;
    loop {
        match client.read().await.unwrap() {
            Frame::Data { bytes, .. } => got += bytes.len(),
            Frame::Ping { id: 77 } => break,
            _ => {}
        }
    }
    assert!(got <= (1 << 20) + (64 << 10) + (64 << 10), "{got}");
    let written = std::fs::read(&progress).unwrap().len() * 65536;
    // Windows, one pipe of 64 KiB, one buffer: far from the 256 MiB that it would write.
    assert!(written < 4 << 20, "{written} bytes were taken from the process");
    drop(client);
    server.fake.all_ended().await;
}

#[tokio::test]
async fn input_that_nobody_reads_waits_with_the_client() {
    let server = Served::start(|_| {}).await;
    let (client, [_, stdin, _, _]) = exec(&server, true, "sleep 1000 & wait", "v4.channel.k8s.io").await;
    // Go's clients keep to no window: they fill what the sockets take and then wait.
    let chunk = vec![0; 1 << 20];
    let mut sent = 0_usize;
    client.stream.set_nodelay(true).unwrap();
    let frame = |n: usize| (u64::from(stdin) << 32 | n as u64).to_be_bytes();
    'sending: loop {
        let mut bytes = frame(chunk.len()).to_vec();
        bytes.extend_from_slice(&chunk);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.stream.writable().await.unwrap();
            match client.stream.try_write(rest) {
                Ok(n) => {
                    sent += n;
                    rest = &rest[n..];
                }
                Err(_) => {
                    // Full: as much as the sockets and the bounded queue hold.
                    let wait = std::time::Duration::from_millis(500);
                    if tokio::time::timeout(wait, client.stream.writable()).await.is_err() {
                        break 'sending;
                    }
                }
            }
        }
        assert!(sent < 64 << 20, "the server takes what nobody reads");
    }
}

#[tokio::test]
async fn resize_reaches_the_terminal_in_pieces_of_any_size() {
    let server = Served::start(|_| {}).await;
    let request = gantry_streaming::ExecRequest {
        container: "c".into(),
        argv: ["sh", "-c", "read line"].map(str::to_owned).to_vec(),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut client =
        Spdy::connect(&server.streaming.prepare_exec(request).unwrap(), "v4.channel.k8s.io").await;
    let error = client.kind("error").await;
    let (stdin, stdout, resize) =
        (client.kind("stdin").await, client.kind("stdout").await, client.kind("resize").await);
    client.data(resize, br#"{"Width":80,"Height":24}{"Width":10"#, false).await;
    client.data(resize, br#"0,"Height":30}"#, false).await;
    // Answered when what came before has been dealt with by the reader; the command waits for a line.
    client.data(resize, b"nonsense", true).await;
    while server.fake.0.sizes.lock().unwrap().last() != Some(&(100, 30)) {
        tokio::task::yield_now().await;
    }
    client.data(stdin, b"x\n", true).await;
    let [status, _] = client.collect([error, stdout]).await;
    assert!(String::from_utf8(status).unwrap().contains("Success"));
}

#[tokio::test]
async fn peers_that_break_the_protocol_are_told_and_dropped() {
    let server = Served::start(|_| {}).await;
    let window = |id, delta| Frame::WindowUpdate { id, delta };
    // Frames that a conforming encoder does not make, as bytes.
    let frames: [(&str, Vec<u8>); 5] = [
        ("version 2", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        ("16 MiB of headers", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("no zlib", vec![0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]),
        ("data for stream 0", vec![0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("short settings", vec![0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 9]),
    ];
    for (what, bytes) in frames {
        let mut client = Spdy::connect(&server.exec(false, "true"), "v4.channel.k8s.io").await;
        client.stream.write_all(&bytes).await.unwrap();
        assert!(matches!(client.read().await, Some(Frame::GoAway { status: 1, .. })), "{what}");
        assert_eq!(client.read().await, None, "{what}");
    }
    for (what, frame) in [("connection overflow", window(0, 0x7fff_ffff)), ("grown by nothing", window(0, 0))]
    {
        let mut client = Spdy::connect(&server.exec(false, "true"), "v4.channel.k8s.io").await;
        client.send(&frame).await;
        assert!(matches!(client.read().await, Some(Frame::GoAway { status: 1, .. })), "{what}");
    }
    let (mut client, [_, _, stdout, _]) =
        exec(&server, false, "sleep 1000 & wait", "v4.channel.k8s.io").await;
    client.send(&window(stdout, 0x7fff_ffff)).await;
    assert_eq!(client.read().await, Some(Frame::Reset { id: stdout, status: 7 }));
}

#[tokio::test]
async fn a_client_that_floods_and_reads_nothing_is_dropped() {
    let server = Served::start(|_| {}).await;
    let mut client = Spdy::connect(&server.exec(false, "true"), "v4.channel.k8s.io").await;
    let mut pings = Vec::new();
    (0..1000).for_each(|_| pings.extend_from_slice(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]));
    // It ends with an error because the server has closed, after what the sockets hold.
    for sent in 0.. {
        assert!(sent < 100_000, "the flood was not ended");
        if client.stream.write_all(&pings).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn streams_that_are_not_asked_for_are_refused() {
    let server = Served::start(|_| {}).await;
    let mut client = Spdy::connect(&server.exec(false, "echo x"), "v4.channel.k8s.io").await;
    for kind in ["stdin", "resize", "nonsense"] {
        let id = client.ask(&[("streamtype", kind)]).await;
        assert_eq!(client.read().await, Some(Frame::Reset { id, status: 3 }), "{kind}");
    }
    let error = client.kind("error").await;
    let (stdout, stderr) = (client.kind("stdout").await, client.kind("stderr").await);
    assert_eq!(client.collect([error, stdout, stderr]).await[1], b"x\n");
}

#[tokio::test]
async fn clients_that_open_no_streams_are_ended() {
    let server = Served::start(|c| c.stream_creation = std::time::Duration::from_millis(50)).await;
    let mut client = Spdy::connect(&server.exec(false, "true"), "v4.channel.k8s.io").await;
    assert_eq!(client.read().await, None);
}

#[tokio::test]
async fn idle_connections_are_ended() {
    let server = Served::start(|c| c.idle = std::time::Duration::from_millis(50)).await;
    let (mut client, _) = exec(&server, false, "sleep 1000 & wait", "v4.channel.k8s.io").await;
    while client.read().await.is_some() {}
    server.fake.all_ended().await;
}

#[tokio::test]
async fn the_end_of_the_server_ends_its_clients() {
    let mut server = Served::start(|_| {}).await;
    let (mut client, _) = exec(&server, false, "sleep 1000 & wait", "v4.channel.k8s.io").await;
    server.stop();
    while client.read().await.is_some() {}
    server.fake.all_ended().await;
}

async fn forward(server: &Served) -> Spdy {
    let request = PortForwardRequest { pod: "p".into(), ports: Vec::new() };
    let url = server.streaming.prepare_port_forward(request).unwrap();
    Spdy::connect(&url, "portforward.k8s.io").await
}

async fn pair(client: &mut Spdy, port: u16, request: &str) -> (u32, u32) {
    let port = port.to_string();
    let headers = |kind| [("port", port.as_str()), ("requestid", request), ("streamtype", kind)];
    let error = client.open(&headers("error")).await;
    client.data(error, b"", true).await;
    (error, client.open(&headers("data")).await)
}

#[tokio::test]
async fn ports_are_forwarded_with_half_close_and_many_at_once() {
    let server = Served::start(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // Answers only after the client's end of file.
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.reverse();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    let mut client = forward(&server).await;
    let first = pair(&mut client, port, "0").await;
    let second = pair(&mut client, port, "1").await;
    client.data(first.1, b"abc", true).await;
    client.data(second.1, b"12345", true).await;
    let [e1, d1, e2, d2] = client.collect([first.0, first.1, second.0, second.1]).await;
    assert_eq!((&e1[..], &d1[..], &e2[..], &d2[..]), (&b""[..], &b"cba"[..], &b""[..], &b"54321"[..]));
}

#[tokio::test]
async fn a_refused_port_is_told_on_the_error_stream() {
    let server = Served::start(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut client = forward(&server).await;
    let (error, _) = pair(&mut client, port, "0").await;
    let [text] = client.collect([error]).await;
    assert!(String::from_utf8(text).unwrap().contains("refused"));
    // The connection is as good as before.
    client.send(&Frame::Ping { id: 1 }).await;
    while client.read().await.unwrap() != (Frame::Ping { id: 1 }) {}
}

#[tokio::test]
async fn wrong_and_used_tokens_and_broken_handshakes_are_answered() {
    let server = Served::start(|_| {}).await;
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let v4 = "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    let base = server.streaming.base_url().to_owned();
    for (what, url, method, headers, status) in [
        ("wrong token", format!("{base}/exec/AAAAAAAAAAAAAAAAAAAAAA"), "POST", format!("{spdy}{v4}"), 404),
        ("no path", format!("{base}/"), "GET", String::new(), 404),
        ("no version", server.exec(false, "true"), "POST", spdy.to_owned(), 400),
        ("no upgrade", server.exec(false, "true"), "GET", v4.to_owned(), 400),
        (
            "unknown version",
            server.exec(false, "true"),
            "POST",
            format!("{spdy}X-Stream-Protocol-Version: v9\r\n"),
            403,
        ),
        ("method", server.exec(false, "true"), "PUT", format!("{spdy}{v4}"), 405),
        ("head of 64 KiB", server.exec(false, "true"), "GET", format!("X: {}\r\n", "x".repeat(65536)), 431),
    ] {
        let (mut stream, answer) = request(&url, method, &headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        let mut rest = Vec::new();
        // Reset or closed: it is over.
        let _over = stream.read_to_end(&mut rest).await;
    }
    let mut old = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let url = server.exec(false, "true");
    let head = format!("POST {} HTTP/1.0\r\nHost: x\r\n{spdy}{v4}\r\n", support::path(&url));
    old.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 505 "), "{answer}");
    let url = server.exec(false, "true");
    let _first = Spdy::connect(&url, "v4.channel.k8s.io").await;
    let (_, answer) = request(&url, "POST", &format!("{spdy}{v4}")).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_ended_and_too_many_are_told() {
    let server = Served::start(|c| {
        c.header_read = std::time::Duration::from_millis(100);
        c.max_connections = 1;
    })
    .await;
    let mut slow = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(b"GET /exec/x HTTP/1.1\r\nHost:").await.unwrap();
    let mut second = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
}
