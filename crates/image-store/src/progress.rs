//! How far a pull is, without a queue that can fill.

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
