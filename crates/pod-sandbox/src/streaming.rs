//! The streaming server's endpoint: commands, containers and ports of this node's pods.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{Kind, io_error};
use crate::exec::{ExecFiles, Running, kill, launch};
use crate::flight::{detached, lock};
use crate::monitor::Monitor;
use crate::record::{ContainerState, PodState};
use crate::{Error, Realm, Result};
use futures::future::BoxFuture;
use gantry_monitor_api::{self as api, Reply, Request};
use gantry_streaming::{
    AttachRequest, Duplex, Endpoint, ExecRequest, Exit, ProcessFd, Reader, Resize, Session, Writer,
};
use gantry_sys::{netns, seqpacket};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

/// How long a monitor may take to attach.
const ATTACH_LIMIT: Duration = Duration::from_secs(20);

/// How long a dialled port may take to answer; on loopback it is there or refuses.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Output that waits for an attached client before the monitor gives the client up (the kernel's default
/// for `fs.pipe-max-size`).
const ATTACH_BUFFER: usize = 1 << 20;

/// How long after the end of its output the end of a container is waited for.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of a command whose client goes away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It is killed with everything that it started and that can be told to be its own.
    #[default]
    Kill,
    /// It sees the end of its input and a closed output (with a terminal: a hang-up), and goes on if it can.
    Leave,
}

/// Runs what streaming clients ask for in the engine's pods.
#[derive(Debug)]
pub struct PodEndpoint {
    inner: Arc<Inner>,
}

impl Engine {
    /// The endpoint for the streaming server.
    pub fn endpoint(&self) -> PodEndpoint {
        PodEndpoint { inner: self.inner.clone() }
    }

    /// Names the container of an exec completely; it must run.
    pub fn exec_target(&self, realm: Realm, id: &str) -> Result<String> {
        Ok(self.running(realm, id)?.id.clone())
    }

    /// Names the container of an attach completely; it must run, and have or not have a terminal as `tty` says.
    pub fn attach_target(&self, realm: Realm, id: &str, tty: bool) -> Result<String> {
        let container = self.running(realm, id)?;
        let has = container.record().config.tty;
        if has != tty {
            let message = format!("container {}: tty is {tty} but must be {has}", container.id);
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        Ok(container.id.clone())
    }

    /// Names the sandbox of a port-forward completely; it must be ready.
    pub fn port_forward_target(&self, realm: Realm, id: &str) -> Result<String> {
        let pod = self.inner.pod(realm, id)?;
        if !pod.is_ready() {
            return Err(Error::new(Kind::FailedPrecondition, format!("pod sandbox {} is not ready", pod.id)));
        }
        Ok(pod.id.clone())
    }

    fn running(&self, realm: Realm, id: &str) -> Result<Arc<Container>> {
        let container = self.inner.container(realm, id)?;
        let state = container.record().state;
        if state != ContainerState::Running {
            let message = format!("container {} does not run: it is {state:?}", container.id).to_lowercase();
            return Err(Error::new(Kind::FailedPrecondition, message));
        }
        Ok(container)
    }
}

impl Endpoint for PodEndpoint {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, std::result::Result<Session, String>> {
        let inner = self.inner.clone();
        // Goes on if the client leaves meanwhile; the session is dropped then, which is a disconnection.
        let work = detached(async move { exec(&inner, request).await });
        Box::pin(async { work.await.map_err(|e| told("Exec", &e)) })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, std::result::Result<Session, String>> {
        let inner = self.inner.clone();
        Box::pin(async move { attach(&inner, request).await.map_err(|e| told("Attach", &e)) })
    }

    fn port_forward(
        &self,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, std::result::Result<Box<dyn Duplex>, String>> {
        let (inner, pod) = (self.inner.clone(), pod.to_owned());
        Box::pin(async move { dial(&inner, &pod, port).await.map_err(|e| told("PortForward", &e)) })
    }
}

/// The words for the client; logged here, once.
fn told(what: &'static str, error: &Error) -> String {
    tracing::info!(what, %error, "streaming request failed");
    error.to_string()
}

impl Inner {
    fn container_by_id(&self, id: &str) -> Result<Arc<Container>> {
        let found = lock(&self.state).containers.get(id).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("no container {id}")))
    }
}

/// A standard stream: the process's end, and ours if the client has it.
struct Stream {
    theirs: OwnedFd,
    ours: Option<OwnedFd>,
}

fn stream(wanted: bool, to_process: bool) -> Result<Stream> {
    if !wanted {
        let null = Path::new("/dev/null");
        let file = File::options().read(to_process).write(!to_process).open(null);
        return Ok(Stream { theirs: file.map_err(io_error("open", null))?.into(), ours: None });
    }
    let (reader, writer) = std::io::pipe().map_err(|e| Error::internal(&e).context("make a pipe"))?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    Ok(match to_process {
        true => Stream { theirs: reader, ours: Some(writer) },
        false => Stream { theirs: writer, ours: Some(reader) },
    })
}

fn watch(fd: OwnedFd, interest: Interest) -> Result<ProcessFd> {
    ProcessFd::new(fd, interest).map_err(|e| Error::internal(&e).context("watch a standard stream"))
}

fn reader(fd: Option<OwnedFd>, ended: &CancellationToken) -> Result<Option<Reader>> {
    let Some(fd) = fd else { return Ok(None) };
    Ok(Some(Box::new(watch(fd, Interest::READABLE)?.until(ended.clone()))))
}

fn writer(fd: Option<OwnedFd>) -> Result<Option<Writer>> {
    let Some(fd) = fd else { return Ok(None) };
    Ok(Some(Box::new(watch(fd, Interest::WRITABLE)?)))
}

fn resizer(terminal: ProcessFd) -> Resize {
    Box::new(move |columns, rows| {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = rustix::termios::tcsetwinsize(terminal.get(), size) {
            tracing::debug!(%error, "a terminal cannot be resized");
        }
    })
}

async fn exec(inner: &Arc<Inner>, request: ExecRequest) -> Result<Session> {
    let container = inner.container_by_id(&request.container)?;
    // A terminal takes the place of all three; the runtime itself still has standard streams.
    let pipes = !request.tty;
    let stdin = stream(request.stdin && pipes, true)?;
    let stdout = stream(request.stdout && pipes, false)?;
    let stderr = stream(request.stderr && pipes, false)?;
    let fds = [stdin.theirs.as_fd(), stdout.theirs.as_fd(), stderr.theirs.as_fd()];
    let (running, terminal) = launch(inner, &container, &request.argv, fds, request.tty).await?;
    let Running { monitor, exec_id, exited, expected, files } = running;
    let ended = CancellationToken::new();
    let guard = ExecGuard {
        inner: inner.clone(),
        container: container.clone(),
        monitor,
        exec_id,
        files: Some(files),
        ended: ended.clone(),
    };
    let token = ended.clone();
    let exit = async move {
        let _expected = expected;
        let code = exited.await;
        token.cancel();
        match code {
            Ok(code) => Exit::Code(code),
            Err(_) => Exit::Failed("the pod's monitor went away before it told the command's end".into()),
        }
    };
    // Spawned, because the readers end by it whoever waits.
    let exit = tokio::spawn(exit);
    let exit = async { exit.await.unwrap_or_else(|e| Exit::Failed(e.to_string())) };
    let mut session = Session {
        stdin: writer(stdin.ours)?,
        stdout: reader(stdout.ours, &ended)?,
        stderr: reader(stderr.ours, &ended)?,
        resize: None,
        exit: Box::pin(exit),
        guard: Box::new(guard),
    };
    if let Some(terminal) = terminal {
        let terminal = watch(terminal, Interest::READABLE | Interest::WRITABLE)?;
        session.stdin = request.stdin.then(|| Box::new(terminal.share()) as Writer);
        session.resize = Some(resizer(terminal.share()));
        session.stdout = Some(Box::new(terminal.until(ended)));
    }
    Ok(session)
}

/// Kills a command whose client has gone before its end.
struct ExecGuard {
    inner: Arc<Inner>,
    container: Arc<Container>,
    monitor: Arc<Monitor>,
    exec_id: String,
    files: Option<ExecFiles>,
    ended: CancellationToken,
}

impl Drop for ExecGuard {
    fn drop(&mut self) {
        if self.ended.is_cancelled() || self.inner.exec_on_disconnect == OnDisconnect::Leave {
            return;
        }
        let Some(files) = self.files.take() else { return };
        let (inner, container) = (self.inner.clone(), self.container.clone());
        let (monitor, exec_id) = (self.monitor.clone(), std::mem::take(&mut self.exec_id));
        tokio::spawn(async move {
            match kill(&inner, &container, &monitor, exec_id, &files).await {
                Ok(()) => tracing::info!("the client of an exec went away; the command was killed"),
                Err(error) => tracing::warn!(%error, "a command whose client went away cannot be killed"),
            }
        });
    }
}

async fn attach(inner: &Arc<Inner>, request: AttachRequest) -> Result<Session> {
    let container = inner.container_by_id(&request.container)?;
    let (has_stdin, stdin_once, tty) = {
        let record = container.record();
        (record.config.stdin, record.config.stdin_once, record.config.tty)
    };
    let monitor = container
        .pod
        .monitor()
        .filter(|_| container.record().state == ContainerState::Running)
        .ok_or_else(|| Error::new(Kind::FailedPrecondition, "the container does not run"))?;
    let (hand_over, theirs) = seqpacket::pair()?;
    let stdout = tapped(request.stdout)?;
    let stderr = tapped(request.stderr && !tty)?;
    let taps = [&stdout, &stderr].map(|s| s.as_ref().map(|(_, theirs)| theirs.as_fd()));
    let wanted = api::AttachRequest {
        container_id: container.id.clone(),
        stdout: stdout.is_some(),
        stderr: stderr.is_some(),
    };
    let fds: Vec<_> = std::iter::once(theirs.as_fd()).chain(taps.into_iter().flatten()).collect();
    match monitor.ask(&Request::Attach(wanted), &fds, ATTACH_LIMIT).await? {
        Reply::Done => {}
        other => return Err(Error::new(Kind::Internal, format!("monitor answered {other:?} to an attach"))),
    }
    drop(fds);
    drop(theirs);
    seqpacket::set_nonblocking(hand_over.as_fd())?;
    // Sent before the answer.
    let mut word = [0; 16];
    let input = seqpacket::receive(hand_over.as_fd(), &mut word)?.and_then(|(_, fds)| fds.into_iter().next());

    let eof = CancellationToken::new();
    let outputs = [stdout, stderr].map(|s| s.map(|(ours, _)| ours));
    let [stdout, stderr] = outputs.map(|fd| {
        let open = |fd| Ok::<_, Error>(Tap { fd: watch(fd, Interest::READABLE)?, eof: eof.clone() });
        fd.map(open).transpose()
    });
    let mut session = Session {
        stdin: None,
        stdout: stdout?.map(|tap| Box::new(tap) as Reader),
        stderr: stderr?.map(|tap| Box::new(tap) as Reader),
        resize: None,
        exit: Box::pin(attached_end(container.clone(), eof)),
        guard: Box::new(()),
    };
    if let Some(input) = input {
        let interest = if tty { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
        let input = watch(input, interest)?;
        if tty {
            session.resize = Some(resizer(input.share()));
        }
        if request.stdin && has_stdin {
            let once = (stdin_once && !tty).then(|| (monitor, container.id.clone()));
            session.stdin = Some(Box::new(Input { fd: input, once }));
        }
    }
    Ok(session)
}

/// A pipe for a container's output: our end, the monitor's.
fn tapped(wanted: bool) -> Result<Option<(OwnedFd, OwnedFd)>> {
    if !wanted {
        return Ok(None);
    }
    let (reader, writer) = std::io::pipe().map_err(|e| Error::internal(&e).context("make a pipe"))?;
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(&writer, ATTACH_BUFFER) {
        tracing::debug!(%error, "a pipe for attaching stays small");
    }
    Ok(Some((reader.into(), writer.into())))
}

/// The container's end; or that of its output, if the monitor gave the client up.
async fn attached_end(container: Arc<Container>, eof: CancellationToken) -> Exit {
    tokio::select! {
        () = container.wait_exited() => return Exit::Code(0),
        () = eof.cancelled() => {}
    }
    // The end of the output is seen before that of the container, which closed it.
    match tokio::time::timeout(END_LIMIT, container.wait_exited()).await {
        Ok(()) => Exit::Code(0),
        Err(_) => {
            Exit::Failed("the container goes on, but its output was closed or was not read in time".into())
        }
    }
}

/// Output of a container that tells when it ends.
struct Tap {
    fd: ProcessFd,
    eof: CancellationToken,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.fd).poll_read(context, buffer);
        if polled.is_ready() && buffer.filled().len() == before {
            self.eof.cancel();
        }
        polled
    }
}

/// Standard input of a container. With `stdin_once`, the end of the first client's is the container's.
struct Input {
    fd: ProcessFd,
    once: Option<(Arc<Monitor>, String)>,
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.fd).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let Some((monitor, container_id)) = self.once.take() else { return };
        tokio::spawn(async move {
            if let Err(error) = monitor.order(Request::CloseStdin { container_id }).await {
                tracing::warn!(%error, "standard input of a container cannot be closed");
            }
        });
    }
}

async fn dial(inner: &Arc<Inner>, pod: &str, port: u16) -> Result<Box<dyn Duplex>> {
    let pod = lock(&inner.state).pods.get(pod).cloned();
    let pod = pod.filter(|p| p.record().state == PodState::Ready);
    let pod = pod.ok_or_else(|| Error::new(Kind::NotFound, "the pod sandbox is gone or not ready"))?;
    let pause =
        pod.record().pause.ok_or_else(|| Error::new(Kind::Internal, "the sandbox has no pause process"))?;
    let path = crate::pod::namespace_path(pause.pid, "net");
    let namespace = File::open(&path).map_err(io_error("open", &path))?;
    // Opened before the look: if it is still the same process, the namespace is the pod's.
    gantry_sys::pidfd::Process::open_exact(pause.pid, pause.start_time)?;
    let made = tokio::task::spawn_blocking(move || {
        netns::run_inside(namespace.into(), || [TcpSocket::new_v4(), TcpSocket::new_v6()])
    });
    let [v4, v6] = made.await.map_err(|e| Error::internal(&e))??;
    let mut refused = None;
    for (socket, address) in [(v4, format!("127.0.0.1:{port}")), (v6, format!("[::1]:{port}"))] {
        let failed =
            |e: &dyn std::fmt::Display| Error::new(Kind::Unavailable, format!("connect to {address}: {e}"));
        let connected = match (socket, address.parse()) {
            (Ok(socket), Ok(to)) => tokio::time::timeout(DIAL_LIMIT, socket.connect(to)).await,
            (Err(e), _) => {
                // A host without IPv6.
                refused.get_or_insert(failed(&e));
                continue;
            }
            (_, Err(e)) => return Err(failed(&e)),
        };
        match connected {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return Ok(Box::new(stream));
            }
            Ok(Err(e)) => refused.get_or_insert(failed(&e)),
            Err(_) => refused.get_or_insert(failed(&"no answer in time")),
        };
    }
    Err(refused.unwrap_or_else(|| Error::new(Kind::Internal, "no address was tried")))
}
