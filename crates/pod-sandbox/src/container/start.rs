//! StartContainer.

use super::Container;
use crate::engine::{Engine, Inner};
use crate::error::Kind;
use crate::flight::detached;
use crate::record::ContainerState;
use crate::{Error, Realm, Result, sandboxer};
use gantry_cri_api::v1::NamespaceMode;
use gantry_monitor_api::{Reply, Request, StartRequest};
use gantry_stage::Stage;
use std::sync::Arc;
use std::time::Duration;

/// How long the OCI runtime may take to start a container.
const START_LIMIT: Duration = Duration::from_secs(120);

impl Engine {
    /// Starts a created container; succeeds when it is running already.
    ///
    /// # Errors
    ///
    /// The OCI runtime's own words when it refuses; the container then counts as exited, with the
    /// reason `StartError` and status 128.
    pub async fn start_container(&self, realm: Realm, id: &str) -> Result<()> {
        let container = self.inner.container(realm, id)?;
        let inner = self.inner.clone();
        detached(async move {
            let result = inner.start_container(&container).await;
            result.map_err(|e| e.context(format!("container {}", container.id)))
        })
        .await
    }
}

impl Inner {
    async fn start_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let waiting = Stage::StartWait.begin();
        let _operation = container.operation.lock().await;
        let pod = &container.pod;
        let _gate = pod.gate.read().await;
        drop(waiting);
        let record = container.record().clone();
        match record.state {
            // Starting: a daemon before this one asked for it, or died before it could; the monitor knows.
            ContainerState::Created | ContainerState::Starting => {}
            ContainerState::Running => return Ok(()),
            ContainerState::Creating | ContainerState::Exited => {
                let message = format!("it is {:?}; only a created container can be started", record.state);
                return Err(Error::new(Kind::FailedPrecondition, message.to_lowercase()));
            }
        }
        let not_ready = || {
            let message = format!("its sandbox {} is not ready", pod.id);
            Error::new(Kind::FailedPrecondition, message)
        };
        if let Some(security) = record.config.linux.as_ref().and_then(|l| l.security_context.as_ref())
            && security.namespace_options.as_ref().is_some_and(|o| o.pid == i32::from(NamespaceMode::Target))
        {
            // It may have ended since this container was created.
            super::bundle::target(self, container, security)?;
        }
        let monitor = pod.monitor().filter(|_| pod.is_ready()).ok_or_else(not_ready)?;
        let handler = self.handlers.get(&pod.record().handler)?;
        let sandboxed = pod.is_sandboxed();
        let cgroup = match sandboxed {
            true => self.cgroup(&sandboxer::sandbox_cgroup(&pod.record()))?,
            false => self.cgroup(&record.cgroup)?,
        };
        container.update(|r| r.state = ContainerState::Starting)?;
        let started = std::time::Instant::now();
        let request = Request::Start(StartRequest {
            container_id: container.id.clone(),
            runtime: handler.command(&pod.runtime_root(), &container.runtime_log()),
            runtime_log: container.runtime_log(),
            bundle: container.dir.clone(),
            log_path: record.log_path.clone(),
            stdin: record.config.stdin,
            terminal: record.config.tty,
            oom_counter: cgroup.oom_counter(),
            by_wait: sandboxed,
            timeout_ms: START_LIMIT.as_millis() as u64,
        });
        // The monitor's own limit comes first; this one only guards against a monitor that hangs.
        let asking = monitor.ask(&request, &[], START_LIMIT + Duration::from_secs(10));
        match Stage::StartRuntime.run(asking).await {
            Ok(Reply::Started(reply)) => {
                container.mark_running(reply.process, reply.started_at);
                let ms = started.elapsed().as_millis() as u64;
                tracing::info!(container = %container.id, pid = reply.process.pid, duration_ms = ms, "container started");
                Ok(())
            }
            // A start that an earlier daemon asked for went through meanwhile.
            Err(error) if error.kind() == Kind::AlreadyExists => self.resume_start(container).await,
            Ok(other) => Err(Error::new(Kind::Internal, format!("monitor answered {other:?} to a start"))),
            Err(error) => {
                // A runtime that died after its work has left a container that nobody wants.
                if let Err(survivor) = self.kill_leftovers(container).await {
                    tracing::warn!(container = %container.id, error = %survivor, "left by a failed start");
                }
                if sandboxed && let Err(left) = self.delete_in_sandbox(container).await {
                    tracing::debug!(container = %container.id, error = %left, "delete after a failed start");
                }
                let message = error.to_string();
                container.note(|r| {
                    r.state = ContainerState::Exited;
                    r.exit_code = 128;
                    r.finished_at = crate::record::now();
                    r.reason = "StartError".into();
                    r.message = message;
                });
                Err(error)
            }
        }
    }

    /// Learns from the monitor how a start went that a daemon before this one asked for.
    async fn resume_start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let (monitor, hello) =
            crate::monitor::Monitor::connect(&container.pod.dir, self.notices(&container.pod.id)).await?;
        container.pod.set_monitor(Some(monitor));
        self.adopt(&container.pod, &hello).await;
        match container.record().state {
            ContainerState::Running | ContainerState::Exited => Ok(()),
            _ => {
                let message = "an earlier start is still running in the OCI runtime; retry";
                Err(Error::new(Kind::Unavailable, message))
            }
        }
    }
}
