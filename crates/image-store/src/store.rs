//! [`ImageStore`]: the calls of this crate.

use crate::digest::Digest;
use crate::disk::Disk;
use crate::flight::Flights;
use crate::layer::LayerHandle;
use crate::names::registries::{self, Registries};
use crate::progress::LayerNews;
use crate::publish::{Complete, Publisher};
use crate::pull::run_blocking;
use crate::registry::Transports;
use crate::snapshot::Owners;
use crate::state::Shared;
use crate::{Credentials, Error, Image, ImageId, Imported, Progress, ProgressSender, Realm, Result};
use crate::{open, snapshot};
use gantry_stage::Stage;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument as _;

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

    fn registries_path(&self) -> PathBuf {
        self.registries_conf.clone().unwrap_or_else(|| registries::DEFAULT_PATH.into())
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

/// A damaged record that was found when the store opened. It was moved aside, unless a container may be
/// running on it: then it is where it was.
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
    /// Bytes of unpacked layers.
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
    inner: Arc<Inner>,
}

/// What clones share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) disk: Arc<Disk>,
    pub(crate) shared: Shared,
    pub(crate) publisher: Publisher,
    pub(crate) transports: Transports,
    /// As last read, to complete short names without reading files.
    registries: Mutex<Registries>,
    pub(crate) pulls: Semaphore,
    pub(crate) images: Flights<Arc<Complete>, watch::Sender<Progress>>,
    pub(crate) layers: Flights<Arc<LayerHandle>, LayerNews>,
    /// Keeps other processes out while it is open.
    _lock: open::Lock,
}

impl Inner {
    /// Reads registries.conf as it is now.
    pub(crate) async fn load_registries(self: &Arc<Self>) -> Result<Registries> {
        let path = self.config.registries_path();
        let registries = run_blocking(move || Registries::load(&path)).await?;
        *self.registries.lock().unwrap_or_else(PoisonError::into_inner) = registries.clone();
        Ok(registries)
    }

    fn find(&self, realm: Realm, name_or_id: &str) -> Option<Digest> {
        let search = self.registries.lock().unwrap_or_else(PoisonError::into_inner).search.clone();
        self.shared.lock().find(realm, name_or_id, &search)
    }
}

impl ImageStore {
    /// Opens the store below `config.root`, and says which records it had to move aside.
    ///
    /// Unfinished work of an earlier run is thrown away. A damaged record costs the name or image that
    /// it describes, never the store. A container's lease that cannot be read stays where it is, and no
    /// layer is deleted until that container's snapshot is removed.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] when another process has the store open; [`Error::Io`] and [`Error::NoSpace`]
    /// when its directories cannot be made or read. Blocks on the disk: not for an async task.
    pub fn open(config: StoreConfig) -> Result<(Self, Vec<Quarantined>)> {
        let disk = Arc::new(Disk::new(&config.root)?);
        let lock = open::lock(&disk)?;
        open::sweep(&disk)?;
        let (state, damaged) = open::read(&disk, &config.limits)?;
        let shared = Shared::default();
        *shared.lock() = state;
        let registries = Registries::load(&config.registries_path()).unwrap_or_else(|error| {
            tracing::warn!(%error, "pulls fail until this is repaired");
            Registries::default()
        });
        let publisher = Publisher::new(Arc::clone(&disk), shared.clone());
        publisher.collect();
        let inner = Inner {
            pulls: Semaphore::new(config.limits.parallel_pulls.max(1)),
            config,
            disk,
            shared,
            publisher,
            transports: Transports::default(),
            registries: Mutex::new(registries),
            images: Flights::default(),
            layers: Flights::default(),
            _lock: lock,
        };
        Ok((Self { inner: Arc::new(inner) }, damaged))
    }

    /// Pulls `reference` into `realm` and gives the image's id. Must be called within a tokio runtime.
    ///
    /// The reference is resolved at the registry each time, with the caller's own credentials; content
    /// that is in the store is not fetched again. Concurrent calls share the work. The pull goes on when
    /// the returned future is dropped: a client that asks again finds it further on, or done.
    ///
    /// # Errors
    ///
    /// Any kind but [`Error::InUse`]. Nothing of a failed pull is seen in the store.
    pub async fn pull(
        &self,
        realm: Realm,
        reference: &str,
        credentials: Option<Credentials>,
        progress: ProgressSender,
    ) -> Result<ImageId> {
        let inner = Arc::clone(&self.inner);
        let reference = reference.to_owned();
        detached(crate::pull::pull(inner, realm, reference, credentials, progress)).await
    }

    /// Copies a stream into an unnamed file on the store's disk, for [`ImageStore::import`]. The file
    /// takes no space any more once it is closed.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::Io`], and [`Error::Corrupt`] for a stream longer than
    /// [`Limits::layer_bytes`].
    pub async fn spool(&self, reader: impl AsyncRead + Send + Unpin) -> Result<File> {
        let _receiving = Stage::ImportSpool.begin();
        let inner = Arc::clone(&self.inner);
        let file = run_blocking(move || inner.disk.unnamed_file()).await?;
        let mut file = tokio::fs::File::from_std(file);
        let limit = self.inner.config.limits.layer_bytes;
        let failed = |e| Error::io("write", "uploaded archive", e);
        let copied = tokio::io::copy(&mut reader.take(limit + 1), &mut file).await.map_err(failed)?;
        file.flush().await.map_err(failed)?;
        if copied > limit {
            return Err(Error::corrupt("uploaded archive", format!("it is larger than {limit} bytes")));
        }
        Ok(file.into_std().await)
    }

    /// Imports every image of an archive into `realm`. Must be called within a tokio runtime.
    ///
    /// `name`, a tag reference, replaces the archive's own names; the archive must hold one image then.
    /// Names that are no tag references are left out; an image without any is found by its id. The
    /// import goes on when the returned future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] and [`Error::Unsupported`] for the archive, [`Error::InvalidReference`] for the
    /// name, [`Error::NoSpace`], [`Error::Io`]. Images before the failing one stay.
    pub async fn import(
        &self,
        realm: Realm,
        name: Option<String>,
        source: ImportSource,
    ) -> Result<Vec<Imported>> {
        detached(crate::import::import(Arc::clone(&self.inner), realm, name, source)).await
    }

    /// Finds an image by id (with or without `sha256:`), tag or digest reference, or by a prefix of at
    /// least four digits that only one id of the realm has. Short names are completed.
    pub fn get(&self, realm: Realm, name_or_id: &str) -> Option<Image> {
        let id = self.inner.find(realm, name_or_id)?;
        self.inner.shared.lock().image(realm, &id)
    }

    /// All images of a realm, sorted by id.
    pub fn list(&self, realm: Realm) -> Vec<Image> {
        self.inner.shared.lock().images(realm)
    }

    /// Removes every name that `realm` has for the image; `false` when there is no such image.
    ///
    /// Content that the other realm, a container or a running pull needs stays. The rest is deleted in
    /// the background. Needs no disk space.
    pub fn remove(&self, realm: Realm, name_or_id: &str) -> Result<bool> {
        match self.inner.find(realm, name_or_id) {
            Some(id) => {
                let _removing = Stage::RemoveImage.begin();
                self.inner.publisher.remove(realm, &id)
            }
            None => Ok(false),
        }
    }

    /// Space that published layers take, from memory. Files count in whole blocks of 4 KiB.
    pub fn usage(&self) -> Usage {
        let state = self.inner.shared.lock();
        let sum = |f: fn(&crate::disk::records::Layer) -> u64| state.layers.values().map(f).sum();
        Usage { bytes: sum(|l| l.bytes), inodes: sum(|l| l.inodes), mountpoint: self.inner.disk.images() }
    }

    /// At most `max` images of a realm with ids behind `after`, sorted by id: a list of any length in parts.
    pub fn list_after(&self, realm: Realm, after: &str, max: usize) -> Vec<Image> {
        self.inner.shared.lock().images_after(realm, after, max)
    }

    /// A directory on the filesystem that holds the writable layers: that of [`ImageStore::usage`], where
    /// both are on one.
    pub fn layers_mountpoint(&self) -> PathBuf {
        use std::os::unix::fs::MetadataExt as _;
        let (images, containers) = (self.inner.disk.images(), self.inner.disk.containers());
        let device = |path: &PathBuf| std::fs::metadata(path).ok().map(|m| m.dev());
        if device(&images) == device(&containers) { images } else { containers }
    }

    /// Makes the writable snapshot of a container and leases the image's layers for it, also over
    /// restarts, until [`ImageStore::remove_snapshot`]. The same call again gives the same snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidReference`] for an id that is no plain name, [`Error::NotFound`] when the realm
    /// does not have the image, [`Error::InUse`] when the container has a snapshot of another one,
    /// [`Error::Corrupt`] when its lease cannot be read, [`Error::NoSpace`], [`Error::Io`].
    pub fn prepare(&self, realm: Realm, container_id: &str, image: &ImageId) -> Result<Snapshot> {
        snapshot::prepare(&self.inner.publisher, realm, container_id, image)
    }

    /// The snapshot of a container, if it has one.
    pub fn snapshot(&self, container_id: &str) -> Option<Snapshot> {
        snapshot::get(&self.inner.publisher, container_id)
    }

    /// Mounts the snapshot of a container on the directory `target`, in the caller's mount namespace.
    /// A target that has an overlay mounted on it stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] without a snapshot, [`Error::Corrupt`] when its lease cannot be read,
    /// [`Error::Io`] when the kernel refuses.
    pub fn mount(&self, container_id: &str, target: &Path) -> Result<()> {
        self.mount_as(container_id, target, None, None)
    }

    /// As [`ImageStore::mount`], with the owners of the image's files mapped as `owners` says; what the
    /// container writes has the host's ids.
    ///
    /// # Errors
    ///
    /// Those of `mount`; `EINVAL` on a filesystem that cannot map owners.
    pub fn mount_mapped(&self, container_id: &str, target: &Path, owners: &Owners<'_>) -> Result<()> {
        self.mount_as(container_id, target, Some(owners), None)
    }

    /// As [`ImageStore::mount`], with mapped `owners` (as [`ImageStore::mount_mapped`]) and with the SELinux
    /// label `context` on every file, each if given. A kernel without SELinux refuses a label.
    ///
    /// # Errors
    ///
    /// Those of both.
    pub fn mount_as(
        &self,
        container_id: &str,
        target: &Path,
        owners: Option<&Owners<'_>>,
        context: Option<&str>,
    ) -> Result<()> {
        snapshot::mount(&self.inner.publisher, container_id, target, owners, context)
    }

    /// Detaches whatever is mounted on `target`; succeeds when nothing is.
    pub fn unmount(&self, target: &Path) -> Result<()> {
        gantry_sys::mount::detach(target)
            .map_err(|e| Error::io("umount", target.display().to_string(), e.into()))
    }

    /// Deletes the writable layer of a container, in the background, and releases its lease; succeeds
    /// when there is none. Unmount it first. Needs no disk space.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidReference`] for an id that is no plain name.
    pub fn remove_snapshot(&self, container_id: &str) -> Result<()> {
        snapshot::remove(&self.inner.publisher, container_id)
    }

    /// Container ids that have a snapshot, readable or not, sorted.
    pub fn snapshots(&self) -> Vec<String> {
        self.inner.shared.lock().snapshots.keys().cloned().collect()
    }

    /// Returns once no pull or import has unfinished files on disk and everything that was removed is
    /// deleted. Blocks: not for an async task.
    pub fn settle(&self) {
        self.inner.disk.trash.settle();
    }
}

/// Runs a call as a task of its own, so that a caller that goes away does not break it off.
async fn detached<T: Send + 'static>(call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(call.in_current_span()).await.unwrap_or_else(|e| Err(crate::flight::broken(&e)))
}
