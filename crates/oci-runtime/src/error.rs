//! What can go wrong, in one line that names the object, the failing call and what to do.

use std::path::{Path, PathBuf};

/// Why a command failed. The text goes to standard error and to the log, chain included.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The identifier cannot be a container's.
    #[error("container id {id:?} {why}")]
    Id {
        /// The identifier.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No container of that name. The words are the ones that callers of runc look for.
    #[error("container {0:?} does not exist")]
    Unknown(String),
    /// The identifier is taken.
    #[error("container with given ID already exists: {0:?}; delete it first or choose another")]
    Exists(String),
    /// A signal for a container whose process has ended. The words are runc's.
    #[error("container not running: {0:?}")]
    NotRunning(String),
    /// The container's state does not allow the command.
    #[error("container {id:?} is {state}, {what}")]
    State {
        /// The container.
        id: String,
        /// Its state.
        state: &'static str,
        /// What would be allowed.
        what: &'static str,
    },
    /// The bundle asks for something that would be left out or done wrongly.
    #[error("{what} is not supported by the embedded runtime; {instead}")]
    Unsupported {
        /// The field or feature.
        what: String,
        /// What works.
        instead: &'static str,
    },
    /// The configuration contradicts itself or the OCI runtime specification.
    #[error("config: {0}")]
    Invalid(String),
    /// Bad arguments on the command line.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("{call} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("parse {path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A seccomp profile cannot be enforced as it is written.
    #[error("seccomp profile: {0}")]
    Seccomp(String),
    /// libcontainer could not make or enter the container.
    #[error("{doing} container {id:?}: {why}")]
    Container {
        /// What was being done (`create`, `exec in`, `start`).
        doing: &'static str,
        /// The container.
        id: String,
        /// The reason, with the first thing that the container's processes said about it.
        why: String,
    },
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] gantry_sys::Error),
    /// A control group could not be read, emptied or removed.
    #[error(transparent)]
    Cgroup(#[from] gantry_cgroup::Error),
}

/// Result of this program's parts.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file in an I/O error, for `map_err`.
pub(crate) fn file(call: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { call, path, source }
}

/// A feature that this runtime refuses rather than does halfway.
pub(crate) fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into(), instead: "use a handler with runc or crun for this pod" }
}
