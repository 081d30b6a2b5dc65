//! The daemon's end of a monitor's socket: blocking, one packet at a time.

use crate::{Envelope, MAX_MESSAGE, Reply, Request, SOCKET};
use gantry_sys::seqpacket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// One message from the monitor: the number of the request it answers, and the answer.
pub type Incoming = Envelope<Reply>;

/// Why talking to a monitor failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] gantry_sys::Error),
    /// A message could not be written or understood.
    #[error("message of the monitor protocol: {0}")]
    Message(#[from] serde_json::Error),
}

/// A connection to a monitor. Sending and receiving may happen on different threads.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Connects to the monitor that listens in `pod_dir`.
    pub fn connect(pod_dir: &Path) -> Result<Self, ClientError> {
        Ok(Self { socket: seqpacket::connect(pod_dir, SOCKET)? })
    }

    /// Takes over a connected socket (the one given to a new monitor as its standard input).
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends a request under a number of the caller's choice, with descriptors.
    pub fn send(&self, id: u64, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        Ok(seqpacket::send(self.socket.as_fd(), &encode(id, request)?, fds)?)
    }

    /// Waits for the next message; `None` when the monitor is gone.
    pub fn receive(&self) -> Result<Option<Incoming>, ClientError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let Some((n, _)) = seqpacket::receive(self.socket.as_fd(), &mut buffer)? else { return Ok(None) };
        decode(&buffer[..n]).map(Some)
    }
}

impl From<Client> for OwnedFd {
    /// The connected socket, for a caller that waits on it in its own way; see [`encode`] and [`decode`].
    fn from(client: Client) -> Self {
        client.socket
    }
}

/// The packet that asks `request` under the number `id`.
pub fn encode(id: u64, request: &Request) -> Result<Vec<u8>, ClientError> {
    Ok(serde_json::to_vec(&Envelope { id, body: request })?)
}

/// What a packet from the monitor says.
pub fn decode(packet: &[u8]) -> Result<Incoming, ClientError> {
    Ok(serde_json::from_slice(packet)?)
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
