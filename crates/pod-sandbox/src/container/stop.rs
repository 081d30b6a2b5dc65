//! StopContainer, and the ways in which a container is made to end.

use super::Container;
use crate::engine::{Engine, Inner};
use crate::error::Kind;
use crate::flight::{blocking, detached};
use crate::record::ContainerState;
use crate::undo::KILL_LIMIT;
use crate::{Error, Realm, Result};
use gantry_monitor_api::ExitRecord;
use gantry_stage::Stage;
use gantry_sys::pidfd;
use std::sync::Arc;
use std::time::Duration;

/// Longest grace period; longer ones are cut to it (a week).
const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Engine {
    /// Asks a container to end, and kills it after `grace` seconds (0 or less: at once).
    ///
    /// Succeeds for one that does not run or is unknown (CRI: idempotent).
    pub async fn stop_container(&self, realm: Realm, id: &str, grace: i64) -> Result<()> {
        let Some(container) = self.inner.find_container(realm, id)? else { return Ok(()) };
        let inner = self.inner.clone();
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0)).min(MAX_GRACE);
        detached(async move {
            let result = inner.stop_container(&container, grace).await;
            result.map_err(|e| e.context(format!("container {}", container.id)))
        })
        .await
    }
}

impl Engine {
    /// Waits until a container has ended (or was never started); its exit code.
    pub async fn wait_container(&self, realm: Realm, id: &str) -> Result<i32> {
        let container = self.inner.container(realm, id)?;
        container.wait_exited().await;
        let code = container.record().exit_code;
        Ok(code)
    }
}

impl Inner {
    /// Not under the container's operation lock: a second stop with a shorter grace, or a removal,
    /// must not wait behind a first one with a long grace.
    async fn stop_container(self: &Arc<Self>, container: &Arc<Container>, grace: Duration) -> Result<()> {
        if !grace.is_zero() {
            let (process, signal) = {
                let record = container.record();
                (running(&record), record.stop_signal)
            };
            let sandboxed =
                container.pod.is_sandboxed() && container.record().state == ContainerState::Running;
            if sandboxed && let Err(error) = self.signal_in_sandbox(container, signal).await {
                // Gone already, most likely; a sandbox that does not react is told by the kill.
                tracing::debug!(container = %container.id, %error, "stop signal in a sandbox");
            }
            if let Some(process) = &process {
                // Gone already is what was asked for.
                let _gone = process.signal(signal);
            }
            if sandboxed || process.is_some() {
                // The end of the grace period is no failure: the kill below follows.
                let waiting = tokio::time::timeout(grace, container.wait_exited());
                let _grace_over = Stage::StopGrace.run(waiting).await;
            }
        }
        Stage::StopKill.run(self.kill_container(container)).await
    }

    /// Kills a container and waits until its end is on record. Does nothing for one that does not run.
    pub(crate) async fn kill_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.pod.is_sandboxed() {
            return self.kill_in_sandbox(container).await;
        }
        let (process, state, own_pid_namespace) = {
            let record = container.record();
            (running(&record), record.state, record.own_pid_namespace)
        };
        match (state, process) {
            (ContainerState::Running | ContainerState::Starting, None) => {
                // Starting: whatever the runtime has put into the cgroup so far.
                self.kill_leftovers(container).await?;
                if state == ContainerState::Running {
                    self.settle(container).await;
                }
                return Ok(());
            }
            (ContainerState::Running | ContainerState::Starting, Some(process)) => {
                // Gone already is what we want.
                let _gone = process.signal(9);
            }
            _ => return Ok(()),
        }
        if !own_pid_namespace {
            self.kill_leftovers(container).await?;
        }
        if tokio::time::timeout(KILL_LIMIT, container.wait_exited()).await.is_err() {
            // A frozen container does not die of the signal alone; its cgroup is thawed by the kill.
            self.kill_leftovers(container).await?;
            self.settle(container).await;
        }
        match container.record().state {
            ContainerState::Exited => Ok(()),
            _ => Err(Error::new(
                Kind::DeadlineExceeded,
                format!("did not end within {} s of SIGKILL", KILL_LIMIT.as_secs()),
            )),
        }
    }

    /// The process is gone but nobody told: the exit record says how, if there is one.
    async fn settle(self: &Arc<Self>, container: &Arc<Container>) {
        let alive = running(&container.record()).is_some_and(|p| !p.has_exited());
        if alive {
            return;
        }
        // The monitor writes the record before it tells; give it the time of one message.
        if tokio::time::timeout(Duration::from_secs(2), container.wait_exited()).await.is_ok() {
            return;
        }
        match ExitRecord::read(&container.dir) {
            Ok(Some(exit)) => container.mark_exited(&exit),
            Ok(None) => container.mark_lost("Unknown", "the process is gone and left no exit record"),
            Err(error) => container.mark_lost("Unknown", &error.to_string()),
        }
    }

    /// Kills what is left in a container's cgroup.
    pub(crate) async fn kill_leftovers(&self, container: &Container) -> Result<()> {
        let cgroup = self.cgroup(&container.record().cgroup)?;
        blocking(move || Ok(cgroup.kill(KILL_LIMIT).map(|_| ())?)).await
    }

    /// Ends a container whose monitor or sandbox died, and records `reason` unless its own end is known.
    pub(crate) async fn bury_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        reason: &str,
    ) -> Result<()> {
        let (state, process) = {
            let record = container.record();
            (record.state, running(&record))
        };
        if !matches!(state, ContainerState::Running | ContainerState::Starting) {
            return Ok(());
        }
        if container.pod.is_sandboxed() {
            return self.bury_in_sandbox(container, reason).await;
        }
        let was_alive = process.as_ref().is_some_and(|p| !p.has_exited());
        if let Some(process) = &process {
            // Gone already is what we want.
            let _gone = process.signal(9);
        }
        self.kill_leftovers(container).await?;
        match ExitRecord::read(&container.dir) {
            Ok(Some(exit)) if !was_alive => container.mark_exited(&exit),
            _ => container.mark_lost(reason, "its sandbox ended unexpectedly; the container was killed"),
        }
        Ok(())
    }
}

/// The init process, if the container runs and it is still the same process.
fn running(record: &crate::record::ContainerRecord) -> Option<pidfd::Process> {
    let process = record.process.filter(|_| record.state == ContainerState::Running)?;
    pidfd::Process::open_exact(process.pid, process.start_time).ok()
}
