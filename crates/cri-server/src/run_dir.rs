//! The run directory: a tmpfs of our own, and the lock that keeps a second daemon out.

use gantry_pod_sandbox::{Error, Kind, Result};
use gantry_sys::mount;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Size of the tmpfs: records, bundles and logs of some thousand pods. Everybody may walk through, which
/// root of a pod with a user namespace must; nobody but root may read.
const OPTIONS: &str = "mode=0711,size=256m";

/// The run directory while a daemon uses it.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    /// Held as long as the daemon lives.
    _lock: File,
}

impl RunDir {
    /// Makes `path` a tmpfs of its own unless something is mounted there already (by an earlier daemon,
    /// or by the operator), and locks it.
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] when another daemon uses the directory.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |call: &str, e: std::io::Error| {
            Error::new(Kind::Internal, format!("{call} {}: {e}", path.display()))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| fail("create", e))?;
        let path = path.canonicalize().map_err(|e| fail("resolve", e))?;
        if !mount::is_mount_point(&path)? {
            mount::tmpfs(&path, OPTIONS, rustix::mount::MountFlags::empty())?;
        }
        let lock_path = path.join("daemon.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| fail("open lock in", e))?;
        // The kind of lock that a child between fork and exec does not hold: of a killed daemon it would
        // live on for a moment, and its successor would find the directory in use.
        rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let message = format!(
                "another gantry daemon uses {}; stop it, or give this one its own --run-dir and --root",
                path.display()
            );
            Error::new(Kind::FailedPrecondition, message)
        })?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no pod, running or not, has its records here.
    pub(crate) fn has_no_pods(&self) -> bool {
        std::fs::read_dir(self.path.join("pods")).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Takes the tmpfs away; for a daemon that ends and leaves no pod behind.
    pub(crate) fn close(self) -> Result<()> {
        mount::detach(&self.path)?;
        // Only if it is empty, which it is unless the operator put something below the mount.
        let _in_use = std::fs::remove_dir(&self.path);
        Ok(())
    }
}
