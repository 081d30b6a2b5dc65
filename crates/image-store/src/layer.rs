//! Layers in use: published ones, and ones that wait in staging for their image to be complete.

use crate::disk::records::Layer;
use crate::disk::{Disk, Staged};
use crate::state::{Pin, Shared};
use crate::{Error, Result};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A layer that somebody works with; it is not collected meanwhile.
#[derive(Debug)]
pub(crate) struct LayerHandle {
    disk: Arc<Disk>,
    place: Mutex<Place>,
    dir: OnceLock<Arc<OwnedFd>>,
}

#[derive(Debug)]
enum Place {
    /// Complete, in staging; boxed beside its record until it is published.
    Staging(Box<(Staged, Layer)>),
    /// In the store.
    Published(u64, Pin),
    /// Publishing failed half-way.
    Lost,
}

impl LayerHandle {
    pub(crate) fn published(disk: &Arc<Disk>, number: u64, pin: Pin) -> Self {
        Self::at(disk, Place::Published(number, pin))
    }

    /// A complete layer: `staged` holds `fs/` and `layer.json`.
    pub(crate) fn staged(disk: &Arc<Disk>, staged: Staged, record: Layer) -> Self {
        Self::at(disk, Place::Staging(Box::new((staged, record))))
    }

    fn at(disk: &Arc<Disk>, place: Place) -> Self {
        Self { disk: Arc::clone(disk), place: Mutex::new(place), dir: OnceLock::new() }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still has to be published.
    pub(crate) fn is_staged(&self) -> bool {
        matches!(*self.place(), Place::Staging(_))
    }

    /// The open directory with the layer's entries; it stays right when the layer is published.
    pub(crate) fn dir(&self) -> Result<Arc<OwnedFd>> {
        if let Some(dir) = self.dir.get() {
            return Ok(Arc::clone(dir));
        }
        let place = self.place();
        let path = match &*place {
            Place::Staging(staged) => staged.0.path().join("fs"),
            Place::Published(number, _) => self.disk.layer_fs(*number),
            Place::Lost => return Err(lost()),
        };
        let file = File::open(&path).map_err(|e| Error::io("open", path.display().to_string(), e))?;
        Ok(Arc::clone(self.dir.get_or_init(|| Arc::new(file.into()))))
    }

    /// Whether it hides everything below it.
    pub(crate) fn hides_the_rest(&self, shared: &Shared) -> bool {
        match &*self.place() {
            Place::Staging(staged) => staged.1.root_opaque,
            Place::Published(number, _) => shared.lock().layers.get(number).is_some_and(|l| l.root_opaque),
            Place::Lost => false,
        }
    }

    /// Publishes the layer unless that was done, and gives its number. The caller holds the store's
    /// change lock, and has synced the disk since the layer was complete.
    pub(crate) fn publish(&self, shared: &Shared) -> Result<u64> {
        let mut place = self.place();
        match std::mem::replace(&mut *place, Place::Lost) {
            Place::Published(number, pin) => {
                *place = Place::Published(number, pin);
                Ok(number)
            }
            Place::Staging(staged) => {
                let (staged, record) = *staged;
                let mut state = shared.lock();
                if let Some(number) = state.find_layer(&record.chain_id, &record.diff_id) {
                    // Somebody else was faster; this copy is garbage.
                    let pin = Pin::new(shared, &mut state, number);
                    *place = Place::Published(number, pin);
                    return Ok(number);
                }
                let number = state.next_number();
                drop(state);
                staged.publish(&self.disk.layer(number))?;
                let mut state = shared.lock();
                state.add_layer(number, record);
                *place = Place::Published(number, Pin::new(shared, &mut state, number));
                Ok(number)
            }
            Place::Lost => Err(lost()),
        }
    }
}

fn lost() -> Error {
    Error::corrupt("layer", "it could not be published; pull the image again")
}
