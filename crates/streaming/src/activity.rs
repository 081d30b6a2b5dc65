//! When something last came or went on a connection, so that idle ones are ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The time of the last byte; cloned to whoever reads or writes.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds from `start`.
    last: Arc<AtomicU64>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }

    /// Something came or went.
    pub(crate) fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Resolves when nothing has come or gone for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let last = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(last + limit).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_last_byte() {
        let activity = Activity::new();
        let limit = Duration::from_secs(10);
        let waits = activity.idle_for(limit);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_secs(9), waits.as_mut()).await.is_err());
        activity.touch();
        assert!(tokio::time::timeout(Duration::from_secs(9), waits.as_mut()).await.is_err());
        waits.await;
    }
}
