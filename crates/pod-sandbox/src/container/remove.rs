//! RemoveContainer, and giving up a container that could not be made.

use super::Container;
use crate::engine::{Engine, Inner, remove_tree};
use crate::flight::{blocking, detached, lock};
use crate::record::ContainerState;
use crate::{Realm, Result};
use gantry_monitor_api::Request;
use gantry_stage::Stage;
use std::sync::Arc;

impl Engine {
    /// Removes a container, killing it first if it runs. Succeeds for one that is unknown.
    pub async fn remove_container(&self, realm: Realm, id: &str) -> Result<()> {
        let Some(container) = self.inner.find_container(realm, id)? else { return Ok(()) };
        let inner = self.inner.clone();
        detached(async move { inner.remove_container(&container).await }).await
    }
}

impl Inner {
    pub(crate) async fn remove_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let result = self.try_remove(container).await;
        result.map_err(|e| e.context(format!("container {}", container.id)))
    }

    async fn try_remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let killing = Stage::RemoveKill.begin();
        self.kill_container(container).await?;
        let _operation = container.operation.lock().await;
        // A start may have gone through while the lock was waited for.
        self.kill_container(container).await?;
        if !lock(&self.state).containers.contains_key(&container.id) {
            return Ok(());
        }
        drop(killing);
        let _undoing = Stage::RemoveUndo.begin();
        let started = container.record().state != ContainerState::Created;
        if let Some(monitor) = container.pod.monitor().filter(|_| started) {
            let request = Request::Forget { container_id: container.id.clone() };
            if let Err(error) = monitor.order(request).await {
                tracing::debug!(container = %container.id, %error, "monitor did not forget a container");
            }
        }
        if started && container.pod.is_sandboxed() {
            self.delete_in_sandbox(container).await?;
        }
        self.undo_container(container).await?;
        self.forget_container(container).await?;
        tracing::info!(container = %container.id, "container is removed");
        Ok(())
    }

    /// Undoes a container that was not made to the end; what stays owed goes with its sandbox.
    pub(crate) async fn abandon_container(self: &Arc<Self>, container: &Arc<Container>) {
        lock(&self.state).container_keys.retain(|_, id| *id != container.id);
        let undone = match self.undo_container(container).await {
            Ok(()) => self.forget_container(container).await,
            Err(e) => Err(e),
        };
        if let Err(error) = undone {
            tracing::warn!(container = %container.id, %error, "a failed container is undone with its sandbox");
        }
    }

    async fn forget_container(&self, container: &Arc<Container>) -> Result<()> {
        let dir = container.dir.clone();
        let state_dir = container.pod.runtime_root().join(&container.id);
        let remove = move || {
            remove_tree(&state_dir)?;
            remove_tree(&dir)
        };
        blocking(remove).await?;
        {
            let mut state = lock(&self.state);
            state.containers.remove(&container.id);
            state.container_keys.retain(|_, id| *id != container.id);
        }
        self.events.container_removed(container);
        Ok(())
    }
}
