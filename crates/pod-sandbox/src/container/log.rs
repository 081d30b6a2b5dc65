//! ReopenContainerLog.

use crate::Error;
use crate::Realm;
use crate::Result;
use crate::engine::Engine;
use crate::error::Kind;
use crate::record::ContainerState;
use gantry_monitor_api::Request;

impl Engine {
    /// Has the monitor open a container's log file anew, after the kubelet renamed it.
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] when the container does not run; the old file then stays as it is.
    pub async fn reopen_log(&self, realm: Realm, id: &str) -> Result<()> {
        let container = self.inner.container(realm, id)?;
        let state = container.record().state;
        let monitor = match container.pod.monitor() {
            Some(monitor) if state == ContainerState::Running => monitor,
            _ => {
                let message = format!("container {} does not run; there is no log to reopen", container.id);
                return Err(Error::new(Kind::FailedPrecondition, message));
            }
        };
        let request = Request::ReopenLog { container_id: container.id.clone() };
        let ordered = gantry_stage::Stage::ReopenLog.run(monitor.order(request)).await;
        ordered.map_err(|e| e.context(format!("container {}", container.id)))
    }
}
