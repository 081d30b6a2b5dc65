#![forbid(unsafe_code)]
//! What the daemon and `gantry-monitor` say to each other, and the exit records between them.
//!
//! One message is one `SOCK_SEQPACKET` packet holding one JSON document of at most [`MAX_MESSAGE`]
//! bytes; descriptors travel beside it. The daemon numbers its requests; the answer repeats the
//! number; events carry [`EVENT`]. Whatever is large (bundles, process files) goes through files of
//! the pod's directory. docs/monitor.md tells the whole story.

mod client;
mod message;
mod record;

pub use client::{Client, ClientError, Incoming, decode, encode};
pub use message::{
    AttachRequest, ContainerState, EVENT, Envelope, ErrorKind, Event, ExecEnd, ExecRequest, Failure, Hello,
    IdMap, MAX_SESSIONS, Namespaces, Process, Reply, Request, Session, Setup, StartRequest, Started,
    UserNamespace,
};
pub use record::{EXIT_FILE, ExitRecord, RecordError};

/// Version of the protocol and of the records; the first thing either side checks.
pub const VERSION: u32 = 3;

/// Longest message in bytes, either way.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Name of the monitor's socket in the pod's directory.
pub const SOCKET: &str = "monitor.sock";
