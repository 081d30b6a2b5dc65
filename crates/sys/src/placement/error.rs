//! What can go wrong while a layer is placed, and whose fault it is.

use crate::Error;
use rustix::io::Errno;

/// Why an entry was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The entry depends on lower layers, and [`super::Placer::set_lower`] was not called yet.
    #[error("the entry depends on lower layers")]
    NeedsLower,
    /// The entry is hostile or malformed; the archive's author is to blame.
    #[error("entry {path:?} refused: {reason}")]
    Refused {
        /// Path of the entry as the archive has it.
        path: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Reading the entry's content failed.
    #[error("reading the content of an entry failed")]
    Content(#[source] std::io::Error),
    /// The machine is to blame.
    #[error(transparent)]
    System(#[from] Error),
}

impl PlaceError {
    /// An entry that must not be placed.
    pub(super) fn refused(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Refused { path: String::from_utf8_lossy(path).into_owned(), reason: reason.into() }
    }

    /// A failed call: errors that only an odd archive can cause are the archive's.
    pub(super) fn of(call: &'static str, path: &[u8], errno: Errno) -> Self {
        match errno {
            Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::MLINK
            | Errno::NOENT
            | Errno::EXIST => Self::refused(path, format!("{call}: {errno}")),
            _ => Self::System(Error::new(call, String::from_utf8_lossy(path), errno)),
        }
    }
}
