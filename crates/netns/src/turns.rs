//! One call at a time per pod; calls for different pods run side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

/// Whose turn it is, by pod.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    all: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
}

impl Turns {
    /// What a call for `pod_id` locks as long as it goes on.
    pub(crate) fn of(&self, pod_id: &str) -> Arc<AsyncMutex<()>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(pod_id.to_owned()).or_default().clone()
    }

    /// Drops what is kept of a pod that nobody else waits for; the caller has its turn still.
    pub(crate) fn forget(&self, pod_id: &str) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Held by the caller and the map alone: nobody waits.
        if all.get(pod_id).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            all.remove(pod_id);
        }
    }
}
