//! How a complete image appears in a realm, and how it goes: whole or not at all.
//!
//! Everything is written to staging and synced once; then layers, documents and names are renamed into
//! place, in this order, so that a name never leads to something that is not there. The filesystem's
//! journal keeps the order of renames over a power cut.

use crate::content::document::Config;
use crate::digest::Digest;
use crate::disk::records::{self, Ref};
use crate::disk::{Disk, Staged};
use crate::flight::Flight;
use crate::layer::LayerHandle;
use crate::names::reference::Reference;
use crate::state::{Garbage, ImageEntry, Shared, State};
use crate::{Error, ImageId, Realm, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A complete image that no realm names yet.
#[derive(Debug)]
pub(crate) struct Complete {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    pub(crate) config: Config,
    pub(crate) config_bytes: Vec<u8>,
    /// Digest and bytes of the manifest.
    pub(crate) manifest: (Digest, Vec<u8>),
    /// Lowest first.
    pub(crate) layers: Vec<Arc<LayerHandle>>,
    /// Where the layers came from: as long as these are held, other pulls join them.
    pub(crate) _flights: Vec<Flight<Arc<LayerHandle>>>,
}

/// Names that an image gets, and how they lead to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) tags: Vec<Reference>,
    pub(crate) digests: Vec<Reference>,
    /// Digest and bytes of the index that led to the manifest.
    pub(crate) index: Option<(Digest, Vec<u8>)>,
}

/// The part of the store that changes the disk.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) disk: Arc<Disk>,
    pub(crate) shared: Shared,
    /// Held by whoever changes records; never while waiting for a network.
    change: Mutex<()>,
}

impl Publisher {
    pub(crate) fn new(disk: Arc<Disk>, shared: Shared) -> Self {
        Self { disk, shared, change: Mutex::new(()) }
    }

    /// Runs `f` while nobody else changes records.
    pub(crate) fn exclusively<T>(&self, f: impl FnOnce() -> T) -> T {
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        f()
    }

    /// Publishes a complete image and names it.
    pub(crate) fn publish(&self, realm: Realm, image: &Complete, names: &Names) -> Result<ImageId> {
        let refs = refs(names, &image.id, &image.manifest.0);
        let mut documents: Vec<(Staged, PathBuf)> = Vec::new();
        for (digest, bytes) in [Some(&image.manifest), names.index.as_ref()].into_iter().flatten() {
            documents.push((self.disk.stage_file(bytes)?, self.disk.manifest(digest)));
        }
        documents.push((self.disk.stage_file(&image.config_bytes)?, self.disk.config(&image.id)));
        let staged_refs = self.stage_refs(realm, &refs)?;
        if image.layers.iter().any(|l| l.is_staged()) {
            self.disk.sync()?;
        } else {
            sync_each(documents.iter().map(|(s, _)| s).chain(staged_refs.iter().map(|(s, _)| s)))?;
        }
        let published = self.exclusively(|| {
            let numbers = image.layers.iter().map(|l| l.publish(&self.shared)).collect::<Result<Vec<_>>>()?;
            for (staged, path) in documents {
                staged.publish(&path)?;
            }
            let entry = Arc::new(ImageEntry::new(image.config.clone(), numbers));
            self.shared.lock().images.insert(image.id.clone(), entry);
            self.rename_refs(realm, refs, staged_refs)
        });
        if published.is_err() {
            self.collect();
        }
        published.map(|()| ImageId(image.id.to_string()))
    }

    /// Names an image that is in the store already; `None` when it has gone meanwhile.
    pub(crate) fn name(&self, realm: Realm, known: &Ref, names: &Names) -> Result<Option<ImageId>> {
        let refs = refs(names, &known.image, &known.manifest);
        let index = match &names.index {
            Some((digest, bytes)) => Some((self.disk.stage_file(bytes)?, self.disk.manifest(digest))),
            None => None,
        };
        let staged = self.stage_refs(realm, &refs)?;
        sync_each(index.iter().chain(&staged).map(|(s, _)| s))?;
        self.exclusively(|| {
            let state = self.shared.lock();
            let still = state.images.contains_key(&known.image) && state.uses_manifest(&known.manifest);
            drop(state);
            if !still {
                return Ok(None);
            }
            if let Some((index, path)) = index {
                index.publish(&path)?;
            }
            self.rename_refs(realm, refs, staged)?;
            Ok(Some(ImageId(known.image.to_string())))
        })
    }

    fn stage_refs(&self, realm: Realm, refs: &[Ref]) -> Result<Vec<(Staged, PathBuf)>> {
        let stage = |r: &Ref| -> Result<(Staged, PathBuf)> {
            let staged = self.disk.stage_file(&records::encode(r)?)?;
            Ok((staged, self.disk.reference(realm, &r.name)))
        };
        refs.iter().map(stage).collect()
    }

    fn rename_refs(&self, realm: Realm, refs: Vec<Ref>, staged: Vec<(Staged, PathBuf)>) -> Result<()> {
        for (entry, (staged, path)) in refs.into_iter().zip(staged) {
            staged.publish(&path)?;
            self.shared.lock().refs.insert((realm, entry.name.clone()), entry);
        }
        Ok(())
    }

    /// Removes every name of an image in a realm; `false` when it has none.
    pub(crate) fn remove(&self, realm: Realm, id: &Digest) -> Result<bool> {
        let removed = self.exclusively(|| {
            let mut names: Vec<Ref> =
                self.shared.lock().refs_of(realm).filter(|r| r.image == *id).cloned().collect();
            // The id goes last, so that an image that could be removed by half is still listed.
            names.sort_by_key(|r| r.name == id.as_str());
            for entry in &names {
                let path = self.disk.reference(realm, &entry.name);
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io("unlink", path.display().to_string(), e));
                    }
                    _ => {}
                }
                let mut state = self.shared.lock();
                state.refs.remove(&(realm, entry.name.clone()));
                let manifests: Vec<Digest> =
                    unused_manifests(&state, [Some(&entry.manifest), entry.index.as_ref()]);
                drop(state);
                for digest in manifests {
                    self.disk.trash.discard(&self.disk.manifest(&digest));
                }
            }
            Ok(!names.is_empty())
        })?;
        self.collect();
        Ok(removed)
    }

    /// Deletes what nobody names, leases or works with.
    pub(crate) fn collect(&self) {
        self.exclusively(|| {
            let Garbage { configs, layers } = self.shared.lock().collect();
            for id in configs {
                self.disk.trash.discard(&self.disk.config(&id));
            }
            for number in layers {
                self.disk.trash.discard(&self.disk.layer(number));
            }
        });
    }
}

fn unused_manifests<'a>(state: &State, digests: impl IntoIterator<Item = Option<&'a Digest>>) -> Vec<Digest> {
    digests.into_iter().flatten().filter(|d| !state.uses_manifest(d)).cloned().collect()
}

/// One record per name, and one for the id: with it an image stays even when its tags move away.
fn refs(names: &Names, id: &Digest, manifest: &Digest) -> Vec<Ref> {
    let index = names.index.as_ref().map(|(digest, _)| digest);
    let mut texts: Vec<String> = vec![id.to_string()];
    texts.extend(names.digests.iter().chain(&names.tags).map(ToString::to_string));
    texts.dedup();
    texts.into_iter().map(|n| Ref::new(n, id.clone(), manifest.clone(), index.cloned())).collect()
}

fn sync_each<'a>(staged: impl Iterator<Item = &'a Staged>) -> Result<()> {
    for file in staged {
        file.sync()?;
    }
    Ok(())
}
