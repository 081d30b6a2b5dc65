//! [`ImageStore`]: the calls of this crate.

use crate::{Credentials, Error, Image, ImageId, Imported, ProgressSender, Realm, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;

/// Where a store lives and how much it accepts.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of `images/` and `containers/`; made if missing.
    pub root: PathBuf,
    /// Main registries.conf; its drop-ins are in the directory of the same name plus `.d`. `None` means
    /// `/etc/containers/registries.conf`. Files that are not there count as empty.
    pub registries_conf: Option<PathBuf>,
    /// Bounds on what is accepted.
    pub limits: Limits,
}

impl StoreConfig {
    /// A store below `root` with the system's registries.conf and default limits.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), registries_conf: None, limits: Limits::default() }
    }
}

/// Bounds on what a registry or an archive can make the store do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a manifest or index.
    pub manifest_bytes: u64,
    /// Bytes of an image configuration.
    pub config_bytes: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Uncompressed bytes of one layer.
    pub layer_bytes: u64,
    /// Layers of one pull that are fetched at the same time.
    pub parallel_layers: usize,
    /// Pulls that run at the same time; further ones wait.
    pub parallel_pulls: usize,
    /// How long a registry may stay silent before the attempt counts as failed.
    pub stall: Duration,
    /// How often a request that failed for a passing reason is sent again.
    pub retries: u32,
    /// Pause before the first retry; doubles with each further one.
    pub retry_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            layers: 256,
            layer_entries: 2_000_000,
            layer_bytes: 256 << 30,
            parallel_layers: 3,
            parallel_pulls: 8,
            stall: Duration::from_secs(60),
            retries: 3,
            retry_pause: Duration::from_millis(200),
        }
    }
}

/// A damaged record that was moved aside when the store opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it was.
    pub path: PathBuf,
    /// Where it is now.
    pub moved_to: PathBuf,
    /// Why it could not be used.
    pub reason: String,
}

/// Disk space that images take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of unpacked layers and documents.
    pub bytes: u64,
    /// Inodes of the same.
    pub inodes: u64,
    /// A directory on the filesystem that holds them.
    pub mountpoint: PathBuf,
}

/// What [`ImageStore::import`] reads.
#[derive(Debug)]
pub enum ImportSource {
    /// A seekable tar file, plain, gzip or zstd: an OCI image layout or a docker-archive.
    Archive(File),
    /// The directory of an OCI image layout.
    Directory(PathBuf),
}

/// The writable snapshot of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Image that the snapshot leases.
    pub image: ImageId,
    /// Layer directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// The container's own writable layer.
    pub upper: PathBuf,
    /// Scratch space of overlayfs.
    pub work: PathBuf,
}

/// The store; clones share one state.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<StoreConfig>,
}

fn later<T>() -> Result<T> {
    Err(Error::unsupported("image store", "this call follows"))
}

#[allow(clippy::unused_async, unused_variables)]
impl ImageStore {
    /// Opens the store below `config.root`, and says which records it had to move aside.
    pub fn open(config: StoreConfig) -> Result<(Self, Vec<Quarantined>)> {
        Ok((Self { inner: Arc::new(config) }, Vec::new()))
    }

    /// Pulls `reference` into `realm`.
    pub async fn pull(
        &self,
        realm: Realm,
        reference: &str,
        credentials: Option<Credentials>,
        progress: ProgressSender,
    ) -> Result<ImageId> {
        later()
    }

    /// Copies a stream into an unnamed file on the store's disk, for [`ImageStore::import`].
    pub async fn spool(&self, reader: impl AsyncRead + Send + Unpin) -> Result<File> {
        later()
    }

    /// Imports every image of an archive; `name` replaces the archive's names when it holds one image.
    pub async fn import(
        &self,
        realm: Realm,
        name: Option<String>,
        source: ImportSource,
    ) -> Result<Vec<Imported>> {
        later()
    }

    /// Finds an image by id, unique id prefix, tag or digest reference.
    pub fn get(&self, realm: Realm, name_or_id: &str) -> Option<Image> {
        None
    }

    /// All images of a realm, sorted by id.
    pub fn list(&self, realm: Realm) -> Vec<Image> {
        Vec::new()
    }

    /// Removes every name that `realm` has for the image; `false` when there is no such image.
    pub fn remove(&self, realm: Realm, name_or_id: &str) -> Result<bool> {
        later()
    }

    /// Space taken, from memory.
    pub fn usage(&self) -> Usage {
        Usage { bytes: 0, inodes: 0, mountpoint: self.inner.root.clone() }
    }

    /// Makes the writable snapshot of a container and leases the image for it.
    pub fn prepare(&self, realm: Realm, container_id: &str, image: &ImageId) -> Result<Snapshot> {
        later()
    }

    /// The snapshot of a container, if it has one.
    pub fn snapshot(&self, container_id: &str) -> Option<Snapshot> {
        None
    }

    /// Mounts the snapshot of a container on `target`, in the caller's mount namespace.
    pub fn mount(&self, container_id: &str, target: &Path) -> Result<()> {
        later()
    }

    /// Detaches whatever is mounted on `target`; succeeds when nothing is.
    pub fn unmount(&self, target: &Path) -> Result<()> {
        later()
    }

    /// Deletes the writable layer of a container and releases its lease; succeeds when there is none.
    pub fn remove_snapshot(&self, container_id: &str) -> Result<()> {
        later()
    }

    /// Container ids that have a snapshot, sorted.
    pub fn snapshots(&self) -> Vec<String> {
        Vec::new()
    }
}
