//! RemovePodSandbox, and giving up a sandbox that could not be made.

use super::Pod;
use crate::engine::{Engine, Inner, remove_tree};
use crate::flight::{blocking, detached, lock};
use crate::{Realm, Result};
use gantry_stage::Stage;
use std::sync::Arc;
use std::time::Duration;

/// Longest pause between two attempts to undo what a failed creation left.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Engine {
    /// Removes a sandbox with its containers, stopping it first. Succeeds for one that is unknown.
    pub async fn remove_pod(&self, realm: Realm, id: &str) -> Result<()> {
        let Some(pod) = self.inner.find_pod(realm, id)? else { return Ok(()) };
        let inner = self.inner.clone();
        detached(async move { inner.remove_pod(&pod).await }).await
    }
}

impl Inner {
    pub(crate) async fn remove_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        self.stop_pod(pod).await?;
        let removing = Stage::RemovePodContainers.begin();
        for container in self.containers_of(&pod.id) {
            self.remove_container(&container).await?;
        }
        drop(removing);
        let _undoing = Stage::RemovePodUndo.begin();
        let _gate = pod.gate.write().await;
        self.undo_pod(pod, |_| false).await?;
        self.forget_pod(pod).await?;
        tracing::info!(pod = %pod.id, "sandbox is removed");
        Ok(())
    }

    /// Undoes a sandbox that was not made to the end. What cannot be undone stays owed and is tried
    /// again; its name is free at once.
    pub(crate) async fn abandon_pod(self: &Arc<Self>, pod: &Arc<Pod>) {
        lock(&self.state).pod_keys.retain(|_, id| *id != pod.id);
        if self.try_abandon(pod).await {
            return;
        }
        let (inner, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            let mut pause = Duration::from_secs(1);
            loop {
                tokio::time::sleep(pause).await;
                if inner.try_abandon(&pod).await {
                    return;
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        });
    }

    async fn try_abandon(self: &Arc<Self>, pod: &Arc<Pod>) -> bool {
        let result = match self.undo_pod(pod, |_| false).await {
            Ok(()) => self.forget_pod(pod).await,
            Err(e) => Err(e),
        };
        if let Err(error) = &result {
            tracing::warn!(pod = %pod.id, %error, "a failed sandbox is not undone yet; it will be tried again");
        }
        result.is_ok()
    }

    async fn forget_pod(&self, pod: &Arc<Pod>) -> Result<()> {
        let dir = pod.dir.clone();
        blocking(move || remove_tree(&dir)).await?;
        {
            let mut state = lock(&self.state);
            state.pods.remove(&pod.id);
            state.pod_keys.retain(|_, id| *id != pod.id);
        }
        pod.set_gone();
        self.events.pod_removed(pod);
        Ok(())
    }
}
