//! One client of the monitor: a daemon. Never waited for: what it does not read is kept up to a bound,
//! then it is dropped; it dials anew and learns the state.

use gantry_monitor_api::{EVENT, Envelope, Event, MAX_MESSAGE, Reply, Request};
use gantry_sys::seqpacket;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most bytes of messages that wait for a reader: some hundred events, or a few answers to `Hello`.
const MAX_QUEUE: usize = 4 * MAX_MESSAGE;

/// A connection; gone connections are told by the `bool`s and `Result`s of its calls.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    queue: VecDeque<Vec<u8>>,
    /// Bytes in the queue.
    queued: usize,
    /// It said hello (or set the pod up) and hears events.
    pub(crate) subscribed: bool,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Received {
    /// A request, with its number and descriptors.
    Request(u64, Request, Vec<OwnedFd>),
    /// A message that makes no sense; the reason.
    Nonsense(String),
    /// All that has come so far was read.
    Nothing,
    /// The end of the connection.
    End,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> gantry_sys::Result<Self> {
        seqpacket::set_nonblocking(socket.as_fd())?;
        Ok(Self { socket, queue: VecDeque::new(), queued: 0, subscribed: false })
    }

    pub(crate) fn receive(&mut self) -> Received {
        // As long as the message, not as the longest one: every page that is touched once stays the pod's.
        let mut buffer = match waiting_length(self.socket.as_fd()) {
            Ok(length) => vec![0; length.clamp(1, MAX_MESSAGE)],
            Err(Errno::AGAIN) => return Received::Nothing,
            Err(_) => return Received::End,
        };
        match seqpacket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(Some((length, fds))) => match serde_json::from_slice::<Envelope<Request>>(&buffer[..length]) {
                Ok(message) => Received::Request(message.id, message.body, fds),
                Err(e) => Received::Nonsense(e.to_string()),
            },
            Ok(None) => Received::End,
            Err(e) if e.errno() == Errno::AGAIN => Received::Nothing,
            Err(e) if e.errno() == Errno::MSGSIZE => Received::Nonsense(e.to_string()),
            Err(_) => Received::End,
        }
    }

    /// Sends or queues; `false` when the connection is to be dropped.
    pub(crate) fn say(&mut self, id: u64, body: Reply) -> bool {
        let Ok(bytes) = serde_json::to_vec(&Envelope { id, body }) else { return false };
        self.queued += bytes.len();
        self.queue.push_back(bytes);
        self.flush() && self.queued <= MAX_QUEUE
    }

    pub(crate) fn tell(&mut self, event: &Event) -> bool {
        !self.subscribed || self.say(EVENT, Reply::Event(event.clone()))
    }

    /// Sends what is queued as far as the reader takes it; `false` when it is gone.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(bytes) = self.queue.front() {
            match seqpacket::try_send(self.socket.as_fd(), bytes, &[]) {
                Ok(()) => {
                    self.queued -= bytes.len();
                    self.queue.pop_front();
                }
                Err(e) if e.errno() == Errno::AGAIN => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether it must be told when it can be written to.
    pub(crate) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }
}

/// Length of the message that waits on `socket`; 0 at the end of the connection.
pub(crate) fn waiting_length(socket: BorrowedFd<'_>) -> Result<usize, Errno> {
    use rustix::net::RecvFlags;
    let mut nothing = [0u8; 0];
    rustix::net::recv(socket, &mut nothing, RecvFlags::PEEK | RecvFlags::TRUNC).map(|(_, length)| length)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
