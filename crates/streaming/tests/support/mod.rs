//! A server with processes of this machine behind it, and clients that speak to it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use gantry_streaming::spdy::frame::{Decoder, Encoder, Frame};
use gantry_streaming::spdy::headers::Headers;
use gantry_streaming::{
    AttachRequest, Config, Duplex, Endpoint, ExecRequest, Exit, ProcessFd, Session, Streaming,
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// Runs argv on this machine; the container's name is ignored.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    pub(crate) running: AtomicUsize,
    pub(crate) ended: Notify,
    pub(crate) sizes: std::sync::Mutex<Vec<(u16, u16)>>,
}

/// Told to when a session is dropped.
struct Guard {
    _kill: oneshot::Sender<()>,
}

/// An endpoint that others can look into.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fake(pub(crate) Arc<Processes>);

impl Endpoint for Fake {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Session, String>> {
        Box::pin(async move { self.start(&request) })
    }

    fn attach(&self, _request: AttachRequest) -> BoxFuture<'_, Result<Session, String>> {
        Box::pin(async { Err("nothing to attach to".to_owned()) })
    }

    fn port_forward(&self, _pod: &str, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>> {
        Box::pin(async move {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn Duplex>),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// A process group that ends when this is dropped: a shell's children outlive the shell.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ended_already = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Fake {
    fn start(&self, request: &ExecRequest) -> Result<Session, String> {
        let pipe = || std::io::pipe().unwrap();
        let (stdin_end, stdin) = pipe();
        let (stdout, stdout_end) = pipe();
        let (stderr, stderr_end) = pipe();
        let mut command = tokio::process::Command::new(&request.argv[0]);
        command.args(&request.argv[1..]).process_group(0).kill_on_drop(true);
        match request.stdin {
            true => command.stdin(stdin_end),
            false => command.stdin(Stdio::null()),
        };
        let child = command.stdout(stdout_end).stderr(stderr_end).spawn();
        drop(command);
        let mut child = child.map_err(|e| e.to_string())?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let ended = CancellationToken::new();
        let (kill, killed) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let (processes, token) = (self.0.clone(), ended.clone());
        processes.running.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let mut group = group;
            let code = tokio::select! {
                status = child.wait() => {
                    // It has been reaped: its number may be another's.
                    group.0 = None;
                    status.unwrap().code().unwrap_or(137)
                }
                _ = killed => {
                    drop(group);
                    child.wait().await.unwrap();
                    137
                }
            };
            token.cancel();
            processes.running.fetch_sub(1, Ordering::SeqCst);
            processes.ended.notify_waiters();
            let _client_gone = tell.send(code);
        });
        let reader = |fd: std::io::PipeReader| {
            let fd = ProcessFd::new(fd.into(), Interest::READABLE).unwrap().until(ended.clone());
            Box::new(fd) as gantry_streaming::Reader
        };
        let stdin = ProcessFd::new(stdin.into(), Interest::WRITABLE).unwrap();
        let sizes = self.0.clone();
        Ok(Session {
            stdin: request.stdin.then(|| Box::new(stdin) as gantry_streaming::Writer),
            stdout: request.stdout.then(|| reader(stdout)),
            stderr: request.stderr.then(|| reader(stderr)),
            resize: request.tty.then(|| {
                Box::new(move |w, h| sizes.sizes.lock().unwrap().push((w, h))) as gantry_streaming::Resize
            }),
            exit: Box::pin(async { Exit::Code(told.await.unwrap()) }),
            guard: Box::new(Guard { _kill: kill }),
        })
    }

    /// Waits until no process runs.
    pub(crate) async fn all_ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.0.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// A running server.
pub(crate) struct Served {
    pub(crate) streaming: Streaming,
    pub(crate) fake: Fake,
    stop: Option<oneshot::Sender<()>>,
}

impl Served {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(([127, 0, 0, 1], 0).into());
        change(&mut config);
        let fake = Fake::default();
        let (streaming, server) = Streaming::bind(config, Arc::new(fake.clone())).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.serve(async {
            let _dropped = stopped.await;
        }));
        Self { streaming, fake, stop: Some(stop) }
    }

    pub(crate) fn address(&self) -> String {
        let (_, address) = self.streaming.base_url().split_once("://").unwrap();
        address.to_owned()
    }

    pub(crate) fn exec(&self, stdin: bool, script: &str) -> String {
        let request = ExecRequest {
            container: "c".into(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            tty: false,
            stdin,
            stdout: true,
            stderr: true,
        };
        self.streaming.prepare_exec(request).unwrap()
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take();
    }
}

/// Everything after the authority of a URL.
pub(crate) fn path(url: &str) -> &str {
    let rest = url.split_once("://").unwrap().1;
    &rest[rest.find('/').unwrap()..]
}

/// Sends a request's head, reads the answer's; the connection and the answer.
pub(crate) async fn request(url: &str, method: &str, headers: &str) -> (TcpStream, String) {
    let address = url.split_once("://").unwrap().1.split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Window updates are small writes, one after the other.
    stream.set_nodelay(true).unwrap();
    let head = format!("{method} {} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n", path(url));
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    (stream, answer)
}

/// Reads up to the empty line, or to the end.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

/// A SPDY client that keeps what it has read by stream.
pub(crate) struct Spdy {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
    buffer: BytesMut,
    next: u32,
}

impl Spdy {
    pub(crate) async fn connect(url: &str, version: &str) -> Self {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {version}\r\nContent-Length: 0\r\n"
        );
        let (stream, answer) = request(url, "POST", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        // What Go's clients look for, and nothing that contradicts it.
        let answer = answer.to_ascii_lowercase();
        assert!(
            answer.contains("connection: upgrade\r\n") && answer.contains("upgrade: spdy/3.1\r\n"),
            "{answer}"
        );
        assert_eq!(answer.matches("connection:").count(), 1, "{answer}");
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        let encoder = Encoder::new().unwrap();
        Self { stream, decoder: Decoder::default(), encoder, buffer: BytesMut::new(), next: 1 }
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let bytes = self.encoder.frame(frame).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Opens a stream and waits for its answer.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.ask(headers).await;
        loop {
            match self.read().await {
                Some(Frame::SynReply { id: replied, .. }) if replied == id => return id,
                Some(Frame::SynReply { .. } | Frame::WindowUpdate { .. }) => {}
                other => panic!("no answer to stream {id}: {other:?}"),
            }
        }
    }

    /// Opens a stream and waits for nothing.
    pub(crate) async fn ask(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let pairs = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
        self.send(&Frame::SynStream { id, fin: false, headers: Headers(pairs) }).await;
        id
    }

    pub(crate) async fn kind(&mut self, kind: &str) -> u32 {
        self.open(&[("streamtype", kind)]).await
    }

    pub(crate) async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.send(&Frame::Data { id, fin, bytes: Bytes::copy_from_slice(bytes) }).await;
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            self.buffer.reserve(32 << 10);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    /// Reads streams to their ends; what came on each. Windows are opened as a client should.
    pub(crate) async fn collect<const N: usize>(&mut self, ids: [u32; N]) -> [Vec<u8>; N] {
        let mut data = [const { Vec::new() }; N];
        let mut open = N;
        while open > 0 {
            let frame = self.read().await.expect("the server closed before its streams had ended");
            let Frame::Data { id, fin, bytes } = frame else { continue };
            let index = ids.iter().position(|i| *i == id).expect("data of another stream");
            data[index].extend_from_slice(&bytes);
            if !bytes.is_empty() {
                let delta = bytes.len() as u32;
                self.send(&Frame::WindowUpdate { id: 0, delta }).await;
                self.send(&Frame::WindowUpdate { id, delta }).await;
            }
            open -= usize::from(fin);
        }
        data
    }
}
