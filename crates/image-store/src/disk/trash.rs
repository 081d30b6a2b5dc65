//! Deletion that callers do not wait for: what goes is renamed at once and deleted by a thread.

use gantry_sys::tree;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A directory whose entries are garbage.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    /// Things in staging that somebody works on.
    active: usize,
    /// Whether there is garbage that the thread did not see yet.
    dirty: bool,
    /// Whether the thread runs.
    running: bool,
}

impl Trash {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, next: AtomicU64::new(0), work: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody starts to work in staging.
    pub(crate) fn begin(&self) {
        self.lock().active += 1;
    }

    /// Somebody has ended to work in staging.
    pub(crate) fn end(&self) {
        self.lock().active -= 1;
        self.changed.notify_all();
    }

    /// Takes `path` away at once and deletes it later; what is not there is fine.
    ///
    /// On a disk so full that a directory entry cannot be made, it is deleted in place instead.
    pub(crate) fn discard(self: &Arc<Self>, path: &Path) {
        // Names of an earlier run may still be there.
        for _ in 0..1024 {
            let target = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            match rustix::fs::renameat_with(
                rustix::fs::CWD,
                path,
                rustix::fs::CWD,
                &target,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => return self.sweep(),
                Err(rustix::io::Errno::NOENT) => return,
                Err(rustix::io::Errno::EXIST) => {}
                Err(_) => break,
            }
        }
        if let Err(error) = tree::remove(path) {
            tracing::warn!(path = %path.display(), %error, "garbage stays until the next start");
        }
    }

    /// Deletes what is in the trash, on a thread that ends with the work.
    pub(crate) fn sweep(self: &Arc<Self>) {
        let mut work = self.lock();
        work.dirty = true;
        if work.running {
            return;
        }
        work.running = true;
        drop(work);
        let trash = Arc::clone(self);
        let thread = std::thread::Builder::new().name("image-trash".into()).stack_size(256 << 10);
        if let Err(error) = thread.spawn(move || trash.empty()) {
            tracing::warn!(%error, "no thread to delete garbage: it stays until the next deletion");
            self.lock().running = false;
        }
    }

    fn empty(&self) {
        loop {
            let mut work = self.lock();
            if !work.dirty {
                work.running = false;
                drop(work);
                self.changed.notify_all();
                return;
            }
            work.dirty = false;
            drop(work);
            if let Err(error) = tree::remove_contents(&self.dir) {
                tracing::warn!(path = %self.dir.display(), %error, "garbage stays until the next deletion");
            }
        }
    }

    /// Returns once nobody works in staging and the trash is empty.
    pub(crate) fn settle(&self) {
        let mut work = self.lock();
        while work.active > 0 || work.running {
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
