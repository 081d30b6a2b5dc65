//! Opening a store: sweep what was unfinished, read the records, move damaged ones aside.

use crate::content::document;
use crate::disk::records::{self, Layer, Lease, Ref};
use crate::disk::{Disk, EMPTY_LAYER};
use crate::state::{Holder, ImageEntry, State};
use crate::{Error, Limits, Quarantined, Realm, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Stores that this process has open: the lock of a file keeps other processes out, not this one.
static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A store that is open in this process and in no other.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// Takes the store for this process; it is given back with the value, or when the process ends.
pub(crate) fn lock(disk: &Disk) -> Result<Lock> {
    let path = disk.images().join("lock");
    let object = || path.display().to_string();
    let in_use = || Error::InUse {
        object: format!("image store {}", disk.images().display()),
        reason: "another process has it open; give each daemon a root of its own".into(),
    };
    if !OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
        return Err(in_use());
    }
    let taken = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Error::io("open", object(), e))
        // Of the kind that belongs to the process: a child between fork and exec holds none of a killed
        // daemon.
        .and_then(|file| match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK | Errno::ACCESS) => Err(in_use()),
            Err(e) => Err(Error::io("lock", object(), e.into())),
        });
    match taken {
        Ok(file) => Ok(Lock { path, _file: file }),
        Err(error) => {
            OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
            Err(error)
        }
    }
}

/// Throws away unfinished work of an earlier run, and what an earlier run threw away.
pub(crate) fn sweep(disk: &Disk) -> Result<()> {
    for path in entries(&disk.staging())? {
        if !path.ends_with("trash") {
            disk.trash.discard(&path);
        }
    }
    disk.trash.sweep();
    Ok(())
}

/// Reads everything.
pub(crate) fn read(disk: &Disk, limits: &Limits) -> Result<(State, Vec<Quarantined>)> {
    let mut reader = Reader { disk, limits, state: State::default(), damaged: Vec::new() };
    reader.layers()?;
    for realm in Realm::ALL {
        reader.refs(realm)?;
    }
    reader.leases()?;
    reader.documents()?;
    Ok((reader.state, reader.damaged))
}

struct Reader<'a> {
    disk: &'a Disk,
    limits: &'a Limits,
    state: State,
    damaged: Vec<Quarantined>,
}

impl Reader<'_> {
    fn layers(&mut self) -> Result<()> {
        for path in entries(&self.disk.layers())? {
            let number = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u64>().ok());
            let Some(number) = number else {
                self.quarantine(&path, "layer directories are named by numbers")?;
                continue;
            };
            if number == EMPTY_LAYER {
                continue;
            }
            self.state.skip_number(number);
            match records::read::<Layer>(&path.join("layer.json")) {
                Ok(Some(layer)) => self.state.add_layer(number, layer),
                Ok(None) => self.quarantine(&path, "the layer has no record")?,
                Err(e) => self.quarantine(&path, &e.to_string())?,
            }
        }
        Ok(())
    }

    fn refs(&mut self, realm: Realm) -> Result<()> {
        for path in entries(&self.disk.refs(realm))? {
            match self.reference(realm, &path) {
                Ok(Some(found)) => {
                    self.state.refs.insert((realm, found.name.clone()), found);
                }
                Ok(None) => {}
                Err(e) => self.quarantine(&path, &e.to_string())?,
            }
        }
        Ok(())
    }

    /// Reads a name, and the image that it leads to unless that was read for another name.
    fn reference(&mut self, realm: Realm, path: &Path) -> Result<Option<Ref>> {
        let Some(found) = records::read::<Ref>(path)? else { return Ok(None) };
        if self.disk.reference(realm, &found.name) != path {
            return Err(Error::corrupt(path.display().to_string(), "its content belongs to another name"));
        }
        if self.state.images.contains_key(&found.image) {
            return Ok(Some(found));
        }
        let limit = self.limits.config_bytes;
        let bytes = records::read_document(&self.disk.config(&found.image), &found.image, limit)?
            .ok_or_else(|| Error::corrupt(&found.name, "the image's configuration is missing"))?;
        let limit = self.limits.manifest_bytes;
        records::read_document(&self.disk.manifest(&found.manifest), &found.manifest, limit)?
            .ok_or_else(|| Error::corrupt(&found.name, "the image's manifest is missing"))?;
        let config = document::parse_config(&found.image, &bytes)?;
        let layers = self.state.stack(&config.diff_ids).map_err(|missing| {
            Error::corrupt(&found.name, format!("layer {missing} is missing; pull the image again"))
        })?;
        let entry = ImageEntry::new(config, layers);
        self.state.images.insert(found.image.clone(), Arc::new(entry));
        Ok(Some(found))
    }

    fn leases(&mut self) -> Result<()> {
        for path in entries(&self.disk.containers())? {
            let Some(id) = path.file_name().and_then(|n| n.to_str()) else {
                self.quarantine(&path, "the name is no container id")?;
                continue;
            };
            let holder = match records::read::<Lease>(&path.join("lease.json")) {
                Ok(Some(lease)) => Holder::Leased(lease),
                // Not moved: a container may be running on it.
                result => {
                    let reason = match result {
                        Err(e) => e.to_string(),
                        Ok(_) => "the snapshot has no lease.json".to_owned(),
                    };
                    self.damaged.push(Quarantined { path: path.clone(), moved_to: path.clone(), reason });
                    Holder::Unreadable
                }
            };
            self.state.snapshots.insert(id.to_owned(), holder);
        }
        Ok(())
    }

    /// Deletes documents that no name leads to; a crash between two renames leaves such.
    fn documents(&mut self) -> Result<()> {
        let (mut manifests, mut configs) = (HashSet::new(), HashSet::new());
        for name in self.state.refs.values() {
            manifests.insert(self.disk.manifest(&name.manifest));
            manifests.extend(name.index.as_ref().map(|d| self.disk.manifest(d)));
            configs.insert(self.disk.config(&name.image));
        }
        for (kind, used) in [("manifests", manifests), ("configs", configs)] {
            for path in entries(&self.disk.images().join(kind))? {
                if !used.contains(&path) {
                    self.disk.trash.discard(&path);
                }
            }
        }
        Ok(())
    }

    fn quarantine(&mut self, path: &Path, reason: &str) -> Result<()> {
        let kind = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let base = format!("{kind}-{name}");
        let free = (0..u32::MAX).map(|n| self.disk.quarantine().join(format!("{base}.{n}")));
        let moved_to = free
            .into_iter()
            .find(|p| std::fs::symlink_metadata(p).is_err())
            .ok_or_else(|| Error::corrupt(base.clone(), "quarantine is full"))?;
        std::fs::rename(path, &moved_to).map_err(|e| Error::io("rename", path.display().to_string(), e))?;
        tracing::warn!(path = %path.display(), moved_to = %moved_to.display(), reason, "damaged record");
        self.damaged.push(Quarantined { path: path.to_owned(), moved_to, reason: reason.to_owned() });
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", dir.display().to_string(), e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}
