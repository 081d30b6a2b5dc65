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
    /// There is no network for pods now; there may be one later.
    NotReady,
    /// A plugin asked to be called again later (CNI error code 11).
    TryAgain,
    /// A plugin did not end in time and was killed.
    TimedOut,
    /// A system call, netlink message, nft or a plugin failed.
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

    /// A call on a file that failed; a full disk is [`ErrorKind::Exhausted`].
    pub(crate) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let full =
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let kind = if full { ErrorKind::Exhausted } else { ErrorKind::Failed };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// For programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
