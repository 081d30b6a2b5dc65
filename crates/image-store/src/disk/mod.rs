//! The store's directories: where things are, how they appear whole and how they go away.

pub(crate) mod records;
pub(crate) mod trash;

use crate::digest::Digest;
use crate::{Error, Realm, Result};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use trash::Trash;

/// Number of the layer that has no entries; images without layers are mounted over it.
pub(crate) const EMPTY_LAYER: u64 = 0;

/// Paths of one store, and its trash.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    next: AtomicU64,
    pub(crate) trash: Arc<Trash>,
}

impl Disk {
    /// Makes the directories that are missing.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root =
            std::path::absolute(root).map_err(|e| Error::io("getcwd", root.display().to_string(), e))?;
        let trash = Trash::new(root.join("images/staging/trash"));
        let disk = Self { root, next: AtomicU64::new(0), trash: Arc::new(trash) };
        make_dir(&disk.root, 0o711)?;
        for dir in [disk.images(), disk.containers()] {
            make_dir(&dir, 0o700)?;
        }
        let below = ["manifests", "configs", "refs", "layers", "staging", "staging/trash", "quarantine"];
        for name in below {
            make_dir(&disk.images().join(name), 0o700)?;
        }
        for realm in Realm::ALL {
            make_dir(&disk.refs(realm), 0o700)?;
        }
        make_dir(&disk.layer(EMPTY_LAYER), 0o700)?;
        make_dir(&disk.layer_fs(EMPTY_LAYER), 0o755)?;
        Ok(disk)
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub(crate) fn refs(&self, realm: Realm) -> PathBuf {
        self.images().join("refs").join(realm.as_str())
    }

    /// File of one name; names may be longer than a file name can be.
    pub(crate) fn reference(&self, realm: Realm, name: &str) -> PathBuf {
        self.refs(realm).join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub(crate) fn manifest(&self, digest: &Digest) -> PathBuf {
        self.images().join("manifests").join(digest.hex())
    }

    pub(crate) fn config(&self, digest: &Digest) -> PathBuf {
        self.images().join("configs").join(digest.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.images().join("layers")
    }

    pub(crate) fn layer(&self, number: u64) -> PathBuf {
        self.layers().join(number.to_string())
    }

    pub(crate) fn layer_fs(&self, number: u64) -> PathBuf {
        self.layer(number).join("fs")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.images().join("staging")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.images().join("quarantine")
    }

    /// A path in staging that nothing else uses.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.staging().join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A new, empty directory in staging.
    pub(crate) fn stage_dir(&self) -> Result<Staged> {
        let path = self.fresh();
        make_dir(&path, 0o700)?;
        Ok(Staged::new(path, Arc::clone(&self.trash)))
    }

    /// A new file in staging with these bytes, not synced yet.
    pub(crate) fn stage_file(&self, bytes: &[u8]) -> Result<Staged> {
        let path = self.fresh();
        let staged = Staged::new(path, Arc::clone(&self.trash));
        let object = || staged.path.display().to_string();
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged.path)
            .map_err(|e| Error::io("open", object(), e))?;
        file.write_all(bytes).map_err(|e| Error::io("write", object(), e))?;
        Ok(staged)
    }

    /// An unnamed file on the store's disk; it is gone when it is closed.
    pub(crate) fn unnamed_file(&self) -> Result<File> {
        let path = self.fresh();
        let object = || path.display().to_string();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io("open", object(), e))?;
        std::fs::remove_file(&path).map_err(|e| Error::io("unlink", object(), e))?;
        Ok(file)
    }

    /// Makes everything written so far survive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        let path = self.staging();
        let object = || path.display().to_string();
        let dir = File::open(&path).map_err(|e| Error::io("open", object(), e))?;
        rustix::fs::syncfs(&dir).map_err(|e| Error::io("syncfs", object(), e.into()))
    }
}

/// Something in staging; discarded unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    trash: Arc<Trash>,
    published: bool,
}

impl Staged {
    fn new(path: PathBuf, trash: Arc<Trash>) -> Self {
        trash.begin();
        Self { path, trash, published: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a staged file survive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        let file = File::open(&self.path).and_then(|f| f.sync_all());
        file.map_err(|e| Error::io("fsync", self.path.display().to_string(), e))
    }

    /// Moves it to where it belongs, replacing a file that is there.
    pub(crate) fn publish(mut self, to: &Path) -> Result<()> {
        std::fs::rename(&self.path, to).map_err(|e| Error::io("rename", to.display().to_string(), e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            self.trash.discard(&self.path);
        }
        self.trash.end();
    }
}

/// Makes a directory, with its parents; one that is there stays as it is.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.map_err(|e| Error::io("mkdir", path.display().to_string(), e))
}
