//! The error type of the store; cheap to clone, because calls that share work share its failure.

use std::io;
use std::sync::Arc;

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for the caller to map (the CRI server maps it to a gRPC code in one place).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The image reference, container id or another argument is not well formed.
    InvalidReference,
    /// No registry has it, or the store does not.
    NotFound,
    /// The registry wants (other) credentials.
    Unauthorized,
    /// The registry cannot be reached, answers with a server error, or stopped sending.
    Unavailable,
    /// Content is not what its digest says, or a layer is malformed or hostile.
    Corrupt,
    /// The disk or the quota is full.
    NoSpace,
    /// Something that lives still needs it.
    InUse,
    /// A call to the kernel failed.
    Io,
    /// A media type, digest algorithm, platform or tar feature that Gantry does not know.
    Unsupported,
}

/// A failed call of the store: the object, what happened, what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// See [`ErrorKind::InvalidReference`].
    #[error("invalid reference {reference:?}: {reason}")]
    InvalidReference {
        /// The argument as it was given.
        reference: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// See [`ErrorKind::NotFound`].
    #[error("{object} not found: {reason}")]
    NotFound {
        /// What was looked for.
        object: String,
        /// Where it was looked for.
        reason: String,
    },
    /// See [`ErrorKind::Unauthorized`].
    #[error("{object}: access denied: {reason}")]
    Unauthorized {
        /// What was asked for.
        object: String,
        /// What the registry or its token service answered.
        reason: String,
    },
    /// See [`ErrorKind::Unavailable`].
    #[error("{object}: registry unavailable: {reason}")]
    Unavailable {
        /// What was asked for.
        object: String,
        /// Which endpoints were tried and how each failed.
        reason: String,
    },
    /// See [`ErrorKind::Corrupt`].
    #[error("{object} is corrupt: {reason}")]
    Corrupt {
        /// The manifest, configuration, blob or record.
        object: String,
        /// How it deviates.
        reason: String,
    },
    /// See [`ErrorKind::NoSpace`].
    #[error("no space left for {object}: free some or remove images")]
    NoSpace {
        /// What was being written.
        object: String,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// See [`ErrorKind::InUse`].
    #[error("{object} is in use: {reason}")]
    InUse {
        /// What cannot be changed now.
        object: String,
        /// Who uses it.
        reason: String,
    },
    /// See [`ErrorKind::Io`].
    #[error("{object}: {call} failed")]
    Io {
        /// The file or directory.
        object: String,
        /// The failing call.
        call: &'static str,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// See [`ErrorKind::Unsupported`].
    #[error("{object} is not supported: {reason}")]
    Unsupported {
        /// The document or entry.
        object: String,
        /// The unknown thing.
        reason: String,
    },
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. } => ErrorKind::InvalidReference,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::Io { .. } => ErrorKind::Io,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }

    /// A failed call on a file; a full disk or quota becomes [`Error::NoSpace`].
    pub(crate) fn io(call: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        let object = object.into();
        let source = Arc::new(source);
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { object, source },
            _ => Self::Io { object, call, source },
        }
    }

    /// Content that is not what it should be.
    pub(crate) fn corrupt(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { object: object.into(), reason: reason.into() }
    }

    /// Something that Gantry does not know.
    pub(crate) fn unsupported(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { object: object.into(), reason: reason.into() }
    }

    /// An argument that is not well formed.
    pub(crate) fn invalid(reference: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidReference { reference: reference.into(), reason: reason.into() }
    }

    /// Something that is not there.
    pub(crate) fn not_found(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::NotFound { object: object.into(), reason: reason.into() }
    }
}
