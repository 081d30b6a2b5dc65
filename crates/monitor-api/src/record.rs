//! The exit record: how a container ended, on disk before anybody is told.

use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Name of the exit record in a container's bundle.
pub const EXIT_FILE: &str = "exit.json";

/// How a container's init process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`crate::VERSION`] of the writer.
    pub version: u32,
    /// Id of the container.
    pub container_id: String,
    /// Exit status, or 128 plus the signal's number.
    pub exit_code: i32,
    /// Signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The kernel's OOM killer struck inside the container and the process was killed.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// Nanoseconds since the epoch, never before `started_at` even if the clock was set back.
    pub finished_at: i64,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("exit record {path}: {source}", path = path.display())]
pub struct RecordError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl ExitRecord {
    /// Writes the record into `bundle` under a temporary name and renames it: it is there whole or not at all.
    pub fn write(&self, bundle: &Path) -> Result<(), RecordError> {
        let path = bundle.join(EXIT_FILE);
        let temporary = bundle.join(".exit.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| RecordError { path: path.clone(), source })
    }

    /// Reads the record of `bundle`; `None` when there is none.
    pub fn read(bundle: &Path) -> Result<Option<Self>, RecordError> {
        let path = bundle.join(EXIT_FILE);
        let error = |source| RecordError { path: path.clone(), source };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| error(e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let dir = std::env::temp_dir().join(format!("gantry-exit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(ExitRecord::read(&dir).unwrap(), None);
        let record = ExitRecord {
            version: crate::VERSION,
            container_id: "c".into(),
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            started_at: 1,
            finished_at: 2,
        };
        record.write(&dir).unwrap();
        assert_eq!(ExitRecord::read(&dir).unwrap(), Some(record));
        std::fs::write(dir.join(EXIT_FILE), b"{half").unwrap();
        let error = ExitRecord::read(&dir).unwrap_err().to_string();
        assert!(error.contains("exit.json"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
