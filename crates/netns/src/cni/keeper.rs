//! What goes on in the background: following the directories, asking for STATUS, paying owed DELs.

use super::Inner;
use super::conf::Version;
use super::dir::{self, Loaded};
use super::watch::Changes;
use crate::pin;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// First and longest pause between two attempts at an owed DEL.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Owed DELs that run at once.
const AT_ONCE: usize = 4;

/// Pause after which the directories are read again where the kernel cannot tell of changes.
const REREAD: Duration = Duration::from_secs(10);

/// Pause between two STATUS calls; nothing tells when the answer changes.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Attachments whose DEL is owed, and when it is tried next.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    all: BTreeMap<String, Debt>,
}

#[derive(Debug, Clone)]
struct Debt {
    attempts: u32,
    due: Instant,
    why: String,
}

impl Owed {
    /// Takes note of a DEL that failed; the next attempt is put off further each time.
    pub(crate) fn failed(&mut self, pod_id: &str, why: String) {
        let attempts = self.all.get(pod_id).map_or(1, |d| d.attempts.saturating_add(1));
        let due = Instant::now() + pause(attempts);
        self.all.insert(pod_id.to_owned(), Debt { attempts, due, why });
    }

    /// Takes note of a DEL that nobody asks for any more.
    pub(crate) fn add(&mut self, pod_id: &str) {
        let debt = Debt { attempts: 0, due: Instant::now(), why: "its pod is gone".into() };
        self.all.entry(pod_id.to_owned()).or_insert(debt);
    }

    pub(crate) fn paid(&mut self, pod_id: &str) {
        self.all.remove(pod_id);
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Pods and the reason of the last failure.
    pub(crate) fn reasons(&self) -> Vec<(String, String)> {
        self.all.iter().map(|(pod, debt)| (pod.clone(), debt.why.clone())).collect()
    }

    fn next(&self) -> Option<Instant> {
        self.all.values().map(|d| d.due).min()
    }

    fn due(&self, now: Instant) -> Vec<String> {
        self.all.iter().filter(|(_, d)| d.due <= now).map(|(pod, _)| pod.clone()).take(AT_ONCE).collect()
    }

    /// Something changed that may help: try all soon, but no faster than the shortest pause.
    fn hurry(&mut self) {
        let soon = Instant::now() + PAUSE.0;
        for debt in self.all.values_mut() {
            debt.due = debt.due.min(soon);
        }
    }
}

fn pause(attempts: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE.1)
}

/// Reads the directories whenever they change, for as long as the network is used.
pub(crate) async fn follow(inner: Weak<Inner>, mut changes: Option<Changes>) {
    loop {
        match &changes {
            Some(armed) => {
                if let Err(error) = armed.next().await {
                    tracing::warn!(%error, "changes of the CNI directories are not heard of");
                    tokio::time::sleep(REREAD).await;
                }
            }
            None => tokio::time::sleep(REREAD).await,
        }
        let Some(inner) = inner.upgrade() else { return };
        let (conf_dir, bin_dirs) = (inner.config.conf_dir.clone(), inner.config.bin_dirs.clone());
        let read = tokio::task::spawn_blocking(move || read(&conf_dir, &bin_dirs)).await;
        match read {
            Ok((armed, loaded)) => {
                changes = armed;
                inner.publish(loaded);
                inner.owed().hurry();
                inner.wake.notify_one();
            }
            Err(error) => tracing::error!(%error, "reading the CNI directories ended abnormally"),
        }
    }
}

/// Arms for the next change, then reads. Blocking; within a tokio runtime.
pub(crate) fn read(conf_dir: &Path, bin_dirs: &[std::path::PathBuf]) -> (Option<Changes>, Loaded) {
    let dirs: Vec<&Path> = std::iter::once(conf_dir).chain(bin_dirs.iter().map(|d| d.as_path())).collect();
    let changes = Changes::arm(&dirs);
    if let Err(error) = &changes {
        tracing::warn!(%error, seconds = REREAD.as_secs(), "the CNI directories are read anew at intervals");
    }
    (changes.ok(), dir::load(conf_dir, bin_dirs))
}

/// Pays owed DELs when they are due, and asks plugins for their STATUS.
pub(crate) async fn keep(inner: Weak<Inner>) {
    let mut ask_at = Instant::now();
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let due = strong.owed().due(Instant::now());
        let attempts = futures::future::join_all(due.iter().map(|pod_id| pay(&strong, pod_id)));
        if ask_at <= Instant::now() {
            // A plugin that hangs here must not hold up the others' DEL.
            tokio::join!(strong.ask_status(), attempts);
            ask_at = Instant::now() + ASK_AGAIN;
        } else {
            attempts.await;
        }
        let asks = strong.current().network.as_ref().is_some_and(|(n, _)| n.version >= Version::V1_1_0);
        let next = strong.owed().next().into_iter().chain(asks.then_some(ask_at)).min();
        let wake = strong.wake.clone();
        drop(strong);
        tokio::select! {
            () = wake.notified() => ask_at = ask_at.min(Instant::now()),
            () = async { match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            } } => {}
        }
    }
}

async fn pay(inner: &Arc<Inner>, pod_id: &str) {
    let netns = inner.state().get(pod_id).and_then(|c| c.netns.clone());
    if inner.detach(pod_id).await.is_err() {
        return;
    }
    tracing::info!(pod = pod_id, "an owed DEL has succeeded");
    // Its pod may be gone, and with it whoever would unpin.
    let ours = netns.filter(|p| p.file_name() == pin::path(Path::new(""), pod_id).file_name());
    if let Some(Err(error)) = ours.map(|path| pin::unpin(&path)) {
        tracing::warn!(pod = pod_id, %error, "the network namespace stays pinned");
    }
}

impl Inner {
    pub(crate) fn owed(&self) -> std::sync::MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempts_are_put_off_further_and_hurried_by_changes() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 100].map(|n| pause(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
        let mut owed = Owed::default();
        owed.add("a");
        assert_eq!(owed.due(Instant::now()), ["a"]);
        owed.failed("a", "why".into());
        assert!(owed.due(Instant::now()).is_empty());
        for _ in 0..9 {
            owed.failed("a", "why".into());
        }
        let far = owed.next().unwrap();
        owed.hurry();
        assert!(owed.next().unwrap() < far);
        assert_eq!(owed.reasons(), [("a".to_owned(), "why".to_owned())]);
        owed.paid("a");
        assert_eq!((owed.len(), owed.next()), (0, None));
    }
}
