//! The one error type of this crate: a failed call, with the arguments it was given.

use rustix::io::Errno;

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed system call: its name, its arguments as text, and what the kernel answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call}({args}): {errno}")]
pub struct Error {
    call: &'static str,
    args: String,
    errno: Errno,
}

impl Error {
    /// Describes the failure of `call` with `args`.
    pub fn new(call: &'static str, args: impl Into<String>, errno: Errno) -> Self {
        Self { call, args: args.into(), errno }
    }

    /// As [`Error::new`], from a standard library error; one without an errno becomes `EIO`.
    pub fn from_io(call: &'static str, args: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(call, args, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// Name of the failed call.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// What the kernel answered.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = std::io::Error::from(error.errno).kind();
        Self::new(kind, error)
    }
}
