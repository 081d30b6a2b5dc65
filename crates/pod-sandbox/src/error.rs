//! What can go wrong with a pod, in kinds that a program can act on and words that a person can.

use std::fmt;

/// Kinds of failure; the server maps each to one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request makes no sense as it stands; retrying it does not help.
    InvalidArgument,
    /// No sandbox, container or image of that name.
    NotFound,
    /// The name is taken by something with another configuration.
    AlreadyExists,
    /// The object is not in a state that allows it.
    FailedPrecondition,
    /// Disk, addresses, ports or another resource are used up.
    ResourceExhausted,
    /// Something that Gantry depends on does not answer; retry later.
    Unavailable,
    /// It took longer than it may.
    DeadlineExceeded,
    /// The credentials are missing or wrong.
    Unauthenticated,
    /// A system call or the OCI runtime failed.
    Internal,
}

/// A failed operation: its kind, and the object, the failing call and the reason in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with its message: lower case, no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// For programs.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Says what was being done when it happened, in front of what is known already.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }

    /// [`Kind::Internal`] (or [`Kind::ResourceExhausted`] for a full disk) from any error, with its causes.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let kind = if is_disk_full(error) { Kind::ResourceExhausted } else { Kind::Internal };
        Self::new(kind, chain(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<gantry_sys::Error> for Error {
    fn from(error: gantry_sys::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<gantry_cgroup::Error> for Error {
    fn from(error: gantry_cgroup::Error) -> Self {
        let kind = match &error {
            gantry_cgroup::Error::Path(_) | gantry_cgroup::Error::NotASetting { .. } => Kind::InvalidArgument,
            gantry_cgroup::Error::NoController { .. } | gantry_cgroup::Error::BelowUsage { .. } => {
                Kind::FailedPrecondition
            }
            // The kernel's word on a value that makes no sense to it.
            gantry_cgroup::Error::File { call: "write", source, .. }
                if source.kind() == std::io::ErrorKind::InvalidInput =>
            {
                Kind::InvalidArgument
            }
            error if is_disk_full(error) => Kind::ResourceExhausted,
            _ => Kind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<gantry_systemd::Error> for Error {
    fn from(error: gantry_systemd::Error) -> Self {
        use gantry_systemd::Error as Systemd;
        let kind = match &error {
            Systemd::Slice(_) | Systemd::NoProperty(_) | Systemd::BadLimit { .. } => Kind::InvalidArgument,
            Systemd::Unreachable(_) | Systemd::Broken { .. } => Kind::Unavailable,
            Systemd::Silent { .. } => Kind::DeadlineExceeded,
            Systemd::Refused { .. } | Systemd::Job { .. } => Kind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<gantry_image_store::Error> for Error {
    fn from(error: gantry_image_store::Error) -> Self {
        use gantry_image_store::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::InvalidReference => Kind::InvalidArgument,
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Unauthorized => Kind::Unauthenticated,
            ErrorKind::Unavailable => Kind::Unavailable,
            ErrorKind::NoSpace => Kind::ResourceExhausted,
            ErrorKind::InUse | ErrorKind::Unsupported => Kind::FailedPrecondition,
            ErrorKind::Corrupt | ErrorKind::Io => Kind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<gantry_netns::Error> for Error {
    fn from(error: gantry_netns::Error) -> Self {
        use gantry_netns::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::Invalid => Kind::InvalidArgument,
            ErrorKind::PortInUse => Kind::FailedPrecondition,
            ErrorKind::Exhausted => Kind::ResourceExhausted,
            ErrorKind::Missing => Kind::FailedPrecondition,
            ErrorKind::NotReady | ErrorKind::TryAgain => Kind::Unavailable,
            ErrorKind::TimedOut => Kind::DeadlineExceeded,
            ErrorKind::Failed => Kind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<gantry_monitor_api::ClientError> for Error {
    fn from(error: gantry_monitor_api::ClientError) -> Self {
        Self::new(Kind::Unavailable, chain(&error))
    }
}

/// The messages of an error and its causes; a cause that the message repeats is left out.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustix::io::Errno;
    let mut next = Some(error);
    while let Some(e) = next {
        let full = |errno: Errno| errno == Errno::NOSPC || errno == Errno::DQUOT;
        if e.downcast_ref::<gantry_sys::Error>().is_some_and(|e| full(e.errno()))
            || e.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error).is_some_and(full)
        {
            return true;
        }
        next = e.source();
    }
    false
}

/// An [`Error`] from a failed call on a path.
pub(crate) fn io_error(call: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let what = format!("{call} {}", path.display());
    move |e| Error::internal(&e).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let full = std::io::Error::from_raw_os_error(28);
        let denied = std::io::Error::from_raw_os_error(13);
        let path = std::path::Path::new("/x");
        assert_eq!(io_error("write", path)(full).kind(), Kind::ResourceExhausted);
        let denied = io_error("write", path)(denied);
        assert_eq!(denied.kind(), Kind::Internal);
        assert!(denied.to_string().starts_with("write /x: "), "{denied}");
        let sys = gantry_sys::Error::new("mount", "a", rustix::io::Errno::NOSPC);
        assert_eq!(Error::from(sys).context("pod p").kind(), Kind::ResourceExhausted);
    }
}
