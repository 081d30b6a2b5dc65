//! The undo journal: before something is made, how to unmake it is on disk.
//!
//! A journal belongs to one sandbox or container and lives in its directory (`undo.json`). Creation
//! pushes the inverse of each step before it takes it; a failure, a removal or a restart runs the
//! inverses from the last to the first. An inverse that fails stays owed and is tried again. Every
//! inverse succeeds when there is nothing to undo, so it does not matter whether the step was taken.

use crate::error::io_error;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the journal in the directory of its object.
pub(crate) const FILE: &str = "undo.json";

/// The inverse of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Undo {
    /// Remove a directory that is not the object's own (its log directory).
    RemoveDir(PathBuf),
    /// End the container that is the pod's sandbox, where its runtime has a kernel of its own.
    StopSandbox,
    /// Stop the pod's monitor, and with it the pause child and its namespaces.
    StopMonitor,
    /// Kill what runs in the pod's scope, and have systemd stop it.
    StopScope(String),
    /// Give back the pod's network attachment.
    DetachNetwork,
    /// Remove the pin of the pod's network namespace.
    UnpinNetwork(PathBuf),
    /// Detach what is mounted on a path.
    Unmount(PathBuf),
    /// Kill what runs in a cgroup and remove it.
    RemoveCgroup(String),
    /// Remove a cgroup that only held others, when it is empty.
    RemoveEmptyCgroup(String),
    /// Give up a container's writable layer and its lease on the image.
    RemoveSnapshot(String),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    steps: Vec<Undo>,
}

/// Steps to undo, newest last.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    steps: Vec<Undo>,
}

impl Journal {
    /// An empty journal in `dir`; nothing is written until the first push.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join(FILE), steps: Vec::new() }
    }

    /// The journal of `dir`; empty when there is none.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let steps = match std::fs::read(&path) {
            Ok(bytes) => {
                let stored: Stored = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::internal(&e).context(format!("undo journal {}", path.display())))?;
                stored.steps
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        Ok(Self { path, steps })
    }

    /// Promises `step` on disk; only then may what it undoes be done.
    pub(crate) fn push(&mut self, step: Undo) -> Result<()> {
        #[cfg(debug_assertions)]
        let point = crate::fault::PUSH.before();
        self.steps.push(step);
        let stored = self.store();
        #[cfg(debug_assertions)]
        point.after();
        stored
    }

    /// Forgets `step` once it is undone. A journal that cannot be rewritten (full disk) keeps it;
    /// undoing twice does no harm.
    pub(crate) fn done(&mut self, step: &Undo) {
        #[cfg(debug_assertions)]
        let point = crate::fault::UNDO.before();
        self.steps.retain(|s| s != step);
        // What stays on disk is at worst undone once more.
        let _stale = self.store();
        #[cfg(debug_assertions)]
        point.after();
    }

    /// Steps that are still owed, newest first.
    pub(crate) fn owed(&self) -> Vec<Undo> {
        self.steps.iter().rev().cloned().collect()
    }

    fn store(&self) -> Result<()> {
        crate::record::write_json(&self.path, &Stored { steps: self.steps.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_survives_and_comes_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::load(dir.path()).unwrap();
        journal.push(Undo::StopMonitor).unwrap();
        journal.push(Undo::DetachNetwork).unwrap();
        journal.push(Undo::Unmount("/m".into())).unwrap();
        let mut journal = Journal::load(dir.path()).unwrap();
        assert_eq!(journal.owed(), [Undo::Unmount("/m".into()), Undo::DetachNetwork, Undo::StopMonitor]);
        journal.done(&Undo::DetachNetwork);
        assert_eq!(Journal::load(dir.path()).unwrap().owed().len(), 2);
    }

    #[test]
    fn a_damaged_journal_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Journal::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("undo.json"), "{error}");
    }
}
