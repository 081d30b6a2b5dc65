//! How far a pull is, without a queue that can fill.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Progress of one pull or import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// One entry per layer, lowest first; empty until the manifest is known.
    pub layers: Vec<LayerProgress>,
}

/// Progress of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of the blob.
    pub digest: String,
    /// Bytes of the blob, as the manifest says.
    pub total: u64,
    /// Bytes received.
    pub fetched: u64,
    /// Where the layer stands.
    pub state: LayerState,
}

/// Where one layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Waits for its turn.
    Waiting,
    /// Is being received and unpacked.
    Fetching,
    /// Is complete.
    Done,
    /// Was in the store already.
    Present,
}

/// Where a pull reports its progress; the latest state replaces the one before, so that a slow reader
/// costs nothing.
#[derive(Debug, Clone, Default)]
pub struct ProgressSender(Option<watch::Sender<Progress>>);

impl ProgressSender {
    /// A sender and the receiver that sees its latest state.
    pub fn channel() -> (Self, watch::Receiver<Progress>) {
        let (sender, receiver) = watch::channel(Progress::default());
        (Self(Some(sender)), receiver)
    }

    /// A sender that nobody listens to.
    pub fn none() -> Self {
        Self(None)
    }

    /// Changes the state and wakes the reader.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(sender) = &self.0 {
            sender.send_modify(change);
        }
    }
}

/// Bytes between two reports of one layer.
const STEP: u64 = 256 << 10;

/// Progress of one layer, told to every pull that waits for it.
#[derive(Debug, Default)]
pub(crate) struct LayerNews {
    fetched: AtomicU64,
    /// Whose progress, and which of its layers.
    watchers: Mutex<Vec<(watch::Sender<Progress>, usize)>>,
}

impl LayerNews {
    /// Reports to `sender`, as its layer `index`, from now on.
    pub(crate) fn watch(&self, sender: &watch::Sender<Progress>, index: usize) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push((sender.clone(), index));
        report(sender, index, self.fetched.load(Ordering::Relaxed), LayerState::Fetching);
    }

    /// So many more bytes have come.
    pub(crate) fn add(&self, bytes: u64) {
        let before = self.fetched.fetch_add(bytes, Ordering::Relaxed);
        if before / STEP != (before + bytes) / STEP {
            self.tell(LayerState::Fetching);
        }
    }

    /// The layer is complete.
    pub(crate) fn done(&self) {
        self.tell(LayerState::Done);
    }

    fn tell(&self, state: LayerState) {
        let fetched = self.fetched.load(Ordering::Relaxed);
        for (sender, index) in &*self.watchers.lock().unwrap_or_else(PoisonError::into_inner) {
            report(sender, *index, fetched, state);
        }
    }
}

/// Changes one layer of a progress.
pub(crate) fn report(sender: &watch::Sender<Progress>, index: usize, fetched: u64, state: LayerState) {
    sender.send_modify(|progress| {
        if let Some(layer) = progress.layers.get_mut(index) {
            (layer.fetched, layer.state) = (fetched, state);
        }
    });
}
