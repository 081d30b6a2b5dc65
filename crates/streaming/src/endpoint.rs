//! What stands behind the streams: whoever has the containers implements [`Endpoint`].

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where what a client types goes to.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Where what a client sees comes from.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container, as the endpoint names it.
    pub container: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// On a terminal; `stderr` is false then.
    pub tty: bool,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error.
    pub stderr: bool,
}

/// The main process of a container, to be looked at and typed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container, as the endpoint names it.
    pub container: String,
    /// It has a terminal; `stderr` is false then.
    pub tty: bool,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error.
    pub stderr: bool,
}

/// Connections into a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// The pod, as the endpoint names it.
    pub pod: String,
    /// Ports for WebSocket clients, which name none themselves; empty otherwise.
    pub ports: Vec<u16>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The command's exit status, or 128 plus a signal's number. An attached client gets 0 at the
    /// container's end, as from other runtimes.
    Code(i32),
    /// It could not be found out; the text is for the client.
    Failed(String),
}

/// Sets the size of a terminal: columns, rows.
pub type Resize = Box<dyn FnMut(u16, u16) + Send>;

/// A command or container that a client is connected to.
///
/// Descriptors can be put in as they are ([`crate::ProcessFd`]): what is read from them goes to the socket
/// from the buffer that it was read into, and nothing is read while the client does not take it.
///
/// Dropping the session is how the endpoint learns that the client is gone; whether the process then goes
/// on, is the endpoint's business.
pub struct Session {
    /// Standard input, if asked for. Dropped at the client's end of file.
    pub stdin: Option<Writer>,
    /// Standard output or the terminal's. Must end when the process has ended and what it wrote is read.
    pub stdout: Option<Reader>,
    /// Standard error. Ends as `stdout` does.
    pub stderr: Option<Reader>,
    /// Sets the terminal's size, if there is one.
    pub resize: Option<Resize>,
    /// Resolves at the end of the process.
    pub exit: BoxFuture<'static, Exit>,
    /// Whatever is to be dropped when the client is gone or has been told the end.
    pub guard: Box<dyn Send>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection to a port.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Runs commands, attaches, dials. Errors are texts for the client.
///
/// The futures are dropped when the client goes away meanwhile.
pub trait Endpoint: Send + Sync + 'static {
    /// Runs a command.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Session, String>>;

    /// Attaches to a container's main process.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Session, String>>;

    /// Dials a port on the pod's loopback. Shutting down the writing side must leave the reading side.
    fn port_forward(&self, pod: &str, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>>;
}
