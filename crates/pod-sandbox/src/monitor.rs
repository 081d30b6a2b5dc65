//! The daemon's side of one pod's monitor: spawn or dial it, ask it, hear from it, see it die.

use crate::error::Kind;
use crate::flight::lock;
use crate::{Error, Result};
use gantry_monitor_api::{
    Client, EVENT, ErrorKind, Event, Failure, Hello, MAX_MESSAGE, Reply, Request, Setup, VERSION, decode,
    encode,
};
use gantry_sys::watched::Watched;
use gantry_sys::{pidfd, seqpacket};
use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::oneshot;

/// How long a monitor may take for what is not an OCI runtime's work.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What a monitor tells of its own accord.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Something happened in the pod.
    Event(Event),
    /// The connection ended: the monitor died, or it dropped us for not reading.
    Disconnected,
}

/// A connection to a monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: Arc<Watched>,
    pending: Arc<Mutex<Pending>>,
    next: AtomicU64,
    process: pidfd::Process,
}

#[derive(Debug, Default)]
struct Pending {
    closed: bool,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
}

impl Monitor {
    /// Takes over the socket of a monitor that was just spawned and has it make the pause child.
    pub(crate) async fn set_up(
        client: Client,
        pid: i32,
        setup: Setup,
        notices: impl Fn(Notice) + Send + 'static,
    ) -> Result<(Arc<Self>, Hello)> {
        let process = pidfd::Process::open(pid)?;
        let monitor = Self::attach(client, process, notices)?;
        let hello = monitor.greet(Request::Setup(setup)).await?;
        Ok((monitor, hello))
    }

    /// Dials the monitor that listens in `pod_dir` and learns what it holds.
    pub(crate) async fn connect(
        pod_dir: &Path,
        notices: impl Fn(Notice) + Send + 'static,
    ) -> Result<(Arc<Self>, Hello)> {
        let client = Client::connect(pod_dir)?;
        let pid = seqpacket::peer_pid(client.as_fd())?;
        let monitor = Self::attach(client, pidfd::Process::open(pid)?, notices)?;
        let hello = monitor.greet(Request::Hello { version: VERSION }).await?;
        Ok((monitor, hello))
    }

    fn attach(
        client: Client,
        process: pidfd::Process,
        notices: impl Fn(Notice) + Send + 'static,
    ) -> Result<Arc<Self>> {
        seqpacket::set_nonblocking(client.as_fd())?;
        let socket = Arc::new(Watched::new(client.into(), Interest::READABLE | Interest::WRITABLE)?);
        let pending = Arc::<Mutex<Pending>>::default();
        tokio::spawn(listen(socket.clone(), pending.clone(), notices));
        Ok(Arc::new(Self { socket, pending, next: AtomicU64::new(EVENT + 1), process }))
    }

    async fn greet(&self, request: Request) -> Result<Hello> {
        match self.ask(&request, &[], ANSWER_LIMIT).await? {
            Reply::Hello(hello) if hello.version == VERSION => Ok(hello),
            Reply::Hello(hello) => Err(Error::new(
                Kind::FailedPrecondition,
                format!("monitor speaks version {}, this daemon speaks {VERSION}", hello.version),
            )),
            other => Err(unexpected(&request, other)),
        }
    }

    /// The monitor's process.
    pub(crate) fn process(&self) -> &pidfd::Process {
        &self.process
    }

    /// Asks for something whose answer is [`Reply::Done`].
    pub(crate) async fn order(&self, request: Request) -> Result<()> {
        match self.ask(&request, &[], ANSWER_LIMIT).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&request, other)),
        }
    }

    /// Asks, and waits at most `limit` for the answer. [`Reply::Failed`] becomes an error.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Reply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let packet = encode(id, request)?;
        let (tell, told) = oneshot::channel();
        {
            let mut pending = lock(&self.pending);
            if pending.closed {
                return Err(gone());
            }
            pending.waiting.insert(id, tell);
        }
        let exchange = async {
            let send = |socket: BorrowedFd<'_>| seqpacket::try_send(socket, &packet, fds);
            self.socket.io(Interest::WRITABLE, send).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())
        };
        let answer = tokio::time::timeout(limit, exchange).await;
        if !matches!(answer, Ok(Ok(_))) {
            lock(&self.pending).waiting.remove(&id);
        }
        match answer {
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                format!("monitor {} did not answer within {} s", self.process.pid(), limit.as_secs()),
            )),
            Ok(Err(e)) => Err(e),
            Ok(Ok(Reply::Failed(failure))) => Err(failed(failure)),
            Ok(Ok(reply)) => Ok(reply),
        }
    }
}

async fn listen(
    socket: Arc<Watched>,
    pending: Arc<Mutex<Pending>>,
    notices: impl Fn(Notice) + Send + 'static,
) {
    let mut buffer = vec![0; MAX_MESSAGE];
    // A message that cannot be understood ends the connection as the end of file does: what is known
    // of the pod can no longer be trusted, and dialling anew brings the whole state.
    while let Ok(Some((length, _))) =
        socket.io(Interest::READABLE, |fd| seqpacket::receive(fd, &mut buffer)).await
    {
        let Ok(message) = decode(&buffer[..length]) else { break };
        match message.body {
            Reply::Event(event) => notices(Notice::Event(event)),
            reply => {
                let waiting = lock(&pending).waiting.remove(&message.id);
                if let Some(waiting) = waiting {
                    // The asker may have given up.
                    let _late = waiting.send(reply);
                }
            }
        }
    }
    {
        let mut pending = lock(&pending);
        pending.closed = true;
        pending.waiting.clear();
    }
    notices(Notice::Disconnected);
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "the pod's monitor is gone")
}

fn failed(failure: Failure) -> Error {
    let kind = match failure.kind {
        ErrorKind::Version => Kind::FailedPrecondition,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::AlreadyExists,
        ErrorKind::Timeout => Kind::DeadlineExceeded,
        ErrorKind::Runtime | ErrorKind::Invalid | ErrorKind::System => Kind::Internal,
    };
    Error::new(kind, failure.message)
}

fn unexpected(request: &Request, reply: Reply) -> Error {
    Error::new(Kind::Internal, format!("monitor answered {reply:?} to {request:?}"))
}
