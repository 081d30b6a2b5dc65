//! StopPodSandbox, and what happens when a sandbox dies by itself.

use super::Pod;
use crate::engine::{Engine, Inner};
use crate::flight::{blocking, detached, lock};
use crate::journal::Undo;
use crate::monitor::{Monitor, Notice};
use crate::orphans::exec_ended;
use crate::record::{ContainerState, PodState};
use crate::sandboxer::SANDBOX_EXITED;
use crate::{Realm, Result};
use gantry_monitor_api::{Event, ExitRecord};
use gantry_stage::Stage;
use std::sync::Arc;

/// Reason of containers whose monitor was killed.
pub(crate) const MONITOR_LOST: &str = "MonitorLost";

/// Reason of a sandbox whose pause child was killed.
pub(crate) const PAUSE_EXITED: &str = "PauseExited";

impl Engine {
    /// Stops a sandbox: its containers are killed, its namespaces and addresses given back.
    ///
    /// Succeeds for one that is stopped or unknown (CRI: idempotent).
    pub async fn stop_pod(&self, realm: Realm, id: &str) -> Result<()> {
        let Some(pod) = self.inner.find_pod(realm, id)? else { return Ok(()) };
        let inner = self.inner.clone();
        detached(async move { inner.stop_pod(&pod).await }).await
    }
}

impl Inner {
    pub(crate) async fn stop_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        pod.set_stopping();
        // What is being started ends now: with its monitor gone each pending call fails at once, so
        // the gate below is never waited for longer than that.
        let killing = Stage::StopPodContainers.begin();
        for container in self.containers_of(&pod.id) {
            self.kill_container(&container)
                .await
                .map_err(|e| e.context(format!("pod sandbox {}", pod.id)))?;
        }
        drop(killing);
        let _gate = Stage::StopPodWait.run(pod.gate.write()).await;
        let killing = Stage::StopPodContainers.begin();
        for container in self.containers_of(&pod.id) {
            self.kill_container(&container)
                .await
                .map_err(|e| e.context(format!("pod sandbox {}", pod.id)))?;
        }
        drop(killing);
        let undone = Stage::StopPodUndo.run(self.undo_pod(pod, keep_for_removal)).await;
        if pod.owed().contains(&Undo::StopMonitor) {
            return undone;
        }
        // Without its monitor nothing of it runs, whatever could not be given back yet.
        for container in self.containers_of(&pod.id) {
            // Nobody starts it any more; what the runtime had made of it so far goes, too.
            if container.record().state == ContainerState::Starting {
                self.kill_leftovers(&container).await?;
                container.mark_lost("StartError", "its sandbox was stopped while it was being started");
            }
        }
        if pod.record().state != PodState::Stopped {
            // The record of a stopped pod matters only to listings: a restarted daemon that still
            // reads "ready" finds no monitor and comes to the same state.
            if let Err(error) = pod.update(|r| r.state = PodState::Stopped) {
                tracing::warn!(pod = %pod.id, %error, "record of a stopped sandbox not written");
            }
            tracing::info!(pod = %pod.id, "sandbox is stopped");
        }
        undone
    }

    /// Something happened in a pod. Called on the monitor's reader; only starts work, never waits.
    pub(crate) fn hear(self: &Arc<Self>, pod_id: &str, notice: Notice) {
        let Some(pod) = lock(&self.state).pods.get(pod_id).cloned() else { return };
        match notice {
            Notice::Event(Event::ContainerExited(record)) if record.container_id == pod.id => {
                self.pod_died(&pod, SANDBOX_EXITED);
            }
            Notice::Event(Event::ContainerExited(record)) => self.container_exited(&record),
            Notice::Event(Event::ContainerStarted { container_id, started }) => {
                let container = lock(&self.state).containers.get(&container_id).cloned();
                if let Some(container) = container {
                    container.mark_running(started.process, started.started_at);
                }
            }
            Notice::Event(Event::ExecExited(end)) => exec_ended(&pod, end),
            Notice::Event(Event::LogLost { container_id, lines, error }) => {
                tracing::warn!(pod = %pod_id, container = %container_id, lines, error, "log lines were lost");
            }
            Notice::Event(Event::PauseExited) => self.pod_died(&pod, PAUSE_EXITED),
            Notice::Disconnected => {
                let inner = self.clone();
                tokio::spawn(async move { inner.disconnected(pod).await });
            }
        }
    }

    fn container_exited(self: &Arc<Self>, record: &ExitRecord) {
        let container = lock(&self.state).containers.get(&record.container_id).cloned();
        let Some(container) = container else { return };
        container.mark_exited(record);
        if container.pod.is_sandboxed() {
            let inner = self.clone();
            tokio::spawn(async move {
                if let Err(error) = inner.delete_in_sandbox(&container).await {
                    tracing::debug!(container = %container.id, %error, "its sandbox keeps an ended container");
                }
            });
        } else if !container.record().own_pid_namespace {
            // Its init is gone, what it left in its cgroup is not: without a PID namespace of the
            // container's own the kernel does not end it.
            let inner = self.clone();
            tokio::spawn(async move {
                if let Err(error) = inner.kill_leftovers(&container).await {
                    tracing::warn!(container = %container.id, %error, "processes left after the container's end");
                }
            });
        }
    }

    /// The connection to a monitor ended: dial again, or take note of its death.
    async fn disconnected(self: &Arc<Self>, pod: Arc<Pod>) {
        pod.drop_execs();
        if pod.is_stopping() {
            return;
        }
        let alive = pod.monitor().is_some_and(|m| !m.process().has_exited());
        if alive && let Ok((monitor, hello)) = Monitor::connect(&pod.dir, self.notices(&pod.id)).await {
            tracing::warn!(pod = %pod.id, "connection to the monitor was lost and made anew");
            pod.set_monitor(Some(monitor));
            self.adopt(&pod, &hello).await;
            return;
        }
        pod.set_monitor(None);
        self.pod_died(&pod, MONITOR_LOST);
    }

    /// A sandbox ended that nobody stopped: its containers are killed and keep the reason.
    pub(crate) fn pod_died(self: &Arc<Self>, pod: &Arc<Pod>, reason: &'static str) {
        if pod.is_stopping() {
            return;
        }
        tracing::error!(pod = %pod.id, reason, "sandbox died; its containers are killed");
        let change = |r: &mut crate::record::PodRecord| {
            if r.state == PodState::Ready {
                r.state = PodState::Stopped;
            }
            r.reason = Some(reason.to_owned());
        };
        if let Err(error) = pod.update(change) {
            tracing::warn!(pod = %pod.id, %error, "record of a dead sandbox not written");
        }
        let (inner, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            if pod.is_sandboxed()
                && let Err(error) = inner.kill_sandbox(&pod).await
            {
                tracing::error!(pod = %pod.id, %error, "a dead sandbox is not killed to the end");
            }
            for container in inner.containers_of(&pod.id) {
                if let Err(error) = inner.bury_container(&container, reason).await {
                    tracing::error!(container = %container.id, %error, "container of a dead sandbox not killed");
                }
            }
        });
    }

    /// Removes the cgroups of a pod when they are its own and empty; blocking work.
    pub(crate) async fn remove_empty_cgroup(self: &Arc<Self>, path: &str) -> Result<()> {
        let (inner, path) = (self.clone(), path.to_owned());
        blocking(move || Ok(inner.hierarchies.remove_if_empty(&path)?)).await
    }
}

/// What a stopped sandbox keeps until it is removed: its directories and its place in the tree.
fn keep_for_removal(step: &Undo) -> bool {
    matches!(step, Undo::RemoveDir(_) | Undo::RemoveEmptyCgroup(_))
}
