//! The error type of networks.

/// Kinds of failure, for the caller to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// Another pod has the host port.
    PortInUse,
    /// No address, subnet or link name is left.
    Exhausted,
    /// A program or kernel feature is missing.
    Missing,
    /// A system call, netlink message or nft failed.
    Failed,
}

/// A failed operation on a network: the object, the failing call, the reason.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A call that failed on an object.
    pub(crate) fn failed(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, format!("{what}: {why}"))
    }

    /// For programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
