//! Sandboxes of runtimes with a kernel of their own: started, signalled and ended through the runtime.

use super::{PAUSE_ROOT, SandboxerKind, call, root, sandbox_cgroup};
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Kind, io_error};
use crate::flight::blocking;
use crate::journal::Undo;
use crate::pod::{Pod, namespace_path};
use crate::record::{ContainerState, write_json};
use crate::undo::KILL_LIMIT;
use crate::{Error, Result};
use gantry_monitor_api::{ExitRecord, Hello, Reply, Request, StartRequest};
use gantry_sys::mount;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the runtime may take to boot its kernel.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Reason of a sandbox whose root container ended.
pub(crate) const SANDBOX_EXITED: &str = "SandboxExited";

/// A network namespace that gVisor pins in its state directory.
const PINNED_NETNS: &str = "null-netns";

impl Pod {
    /// How its sandbox is made.
    pub(crate) fn sandboxer(&self) -> SandboxerKind {
        self.record().sandboxer
    }

    /// Whether its containers' processes are not the host's.
    pub(crate) fn is_sandboxed(&self) -> bool {
        self.sandboxer() == SandboxerKind::OciSandbox
    }

    fn sandbox_dir(&self) -> PathBuf {
        self.dir.join("sandbox")
    }

    fn sandbox_log(&self) -> PathBuf {
        self.sandbox_dir().join("runtime.log")
    }
}

impl Inner {
    /// Starts the container that is the sandbox, in the network namespace of the pause child, which has
    /// its addresses. Does nothing for a pod whose namespaces are its sandbox.
    ///
    /// # Errors
    ///
    /// The runtime's own words.
    pub(crate) async fn start_sandbox(&self, pod: &Arc<Pod>, pause: i32, hostname: &str) -> Result<()> {
        if !pod.is_sandboxed() {
            return Ok(());
        }
        let record = pod.record().clone();
        let handler = self.handlers.get(&record.handler)?;
        let dir = pod.sandbox_dir();
        std::fs::create_dir(&dir).map_err(io_error("create", &dir))?;
        let root = self.run_dir.join("handlers").join(PAUSE_ROOT);
        let netns = namespace_path(pause, "net");
        write_json(&dir.join("config.json"), &root::config(&record, &root, hostname, &netns))?;
        pod.promise(Undo::StopSandbox)?;
        let monitor =
            pod.monitor().ok_or_else(|| Error::new(Kind::Unavailable, "the pod's monitor is gone"))?;
        let request = Request::Start(StartRequest {
            container_id: pod.id.clone(),
            runtime: handler.command(&pod.runtime_root(), &pod.sandbox_log()),
            runtime_log: pod.sandbox_log(),
            bundle: dir,
            log_path: None,
            stdin: false,
            terminal: false,
            oom_counter: self.cgroup(&sandbox_cgroup(&record))?.oom_counter(),
            by_wait: true,
            timeout_ms: BOOT_LIMIT.as_millis() as u64,
        });
        let limit = BOOT_LIMIT + Duration::from_secs(10);
        match monitor.ask(&request, &[], limit).await.map_err(|e| e.context("start the sandbox"))? {
            Reply::Started(_) => Ok(()),
            other => Err(Error::new(Kind::Internal, format!("monitor answered {other:?} to a start"))),
        }
    }

    /// Ends the sandbox with everything in it, and takes away what the runtime keeps of it. Succeeds
    /// when there is none, and without the handler's program.
    pub(crate) async fn stop_sandbox(&self, pod: &Arc<Pod>) -> Result<()> {
        // First by the runtime, which knows its own files; what it cannot end is killed below.
        if pod.sandbox_dir().exists()
            && let Err(error) = self.run_runtime(pod, &["delete", "--force", &pod.id]).await
        {
            tracing::debug!(pod = %pod.id, %error, "the runtime did not delete its sandbox; it is killed");
        }
        let cgroup = self.cgroup(&sandbox_cgroup(&pod.record()))?;
        let pinned = pod.runtime_root().join(PINNED_NETNS);
        blocking(move || {
            cgroup.kill(KILL_LIMIT)?;
            mount::detach(&pinned)?;
            Ok(cgroup.remove()?)
        })
        .await
    }

    /// Kills a sandbox and everything in it, at once. The monitor then tells the containers' ends.
    pub(crate) async fn kill_sandbox(&self, pod: &Arc<Pod>) -> Result<()> {
        let cgroup = self.cgroup(&sandbox_cgroup(&pod.record()))?;
        blocking(move || Ok(cgroup.kill(KILL_LIMIT).map(|_| ())?)).await
    }

    /// Whether `hello`'s monitor saw the root container of a sandbox end.
    pub(crate) fn sandbox_ended(pod: &Pod, hello: &Hello) -> bool {
        pod.is_sandboxed() && hello.containers.iter().any(|c| c.container_id == pod.id && c.exit.is_some())
    }

    /// Sends a signal to the first process of a sandboxed container.
    pub(crate) async fn signal_in_sandbox(&self, container: &Container, signal: i32) -> Result<()> {
        self.run_runtime(&container.pod, &["kill", &container.id, &signal.to_string()]).await
    }

    /// Kills a sandboxed container and waits until its end is on record.
    ///
    /// With its sandbox stopping, the sandbox is killed: that cannot hang in the sandbox's own kernel.
    ///
    /// # Errors
    ///
    /// [`Kind::DeadlineExceeded`] when the sandbox does not react; stopping the pod ends it.
    pub(crate) async fn kill_in_sandbox(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let state = container.record().state;
        let pod = &container.pod;
        if !matches!(state, ContainerState::Running | ContainerState::Starting) {
            return Ok(());
        }
        if pod.is_stopping() {
            self.kill_sandbox(pod).await?;
        } else {
            let killed = self.run_runtime(pod, &["kill", "--all", &container.id, "9"]).await;
            match killed {
                // Not there yet: whoever starts it holds its lock, and it is killed after that.
                Err(_) if state == ContainerState::Starting => return Ok(()),
                // It has just ended, or its sandbox has: the monitor tells.
                Err(error) => tracing::debug!(container = %container.id, %error, "kill in a sandbox"),
                Ok(()) => {}
            }
        }
        if state == ContainerState::Starting
            || tokio::time::timeout(KILL_LIMIT, container.wait_exited()).await.is_ok()
        {
            return Ok(());
        }
        if pod.is_stopping() {
            self.settle_in_sandbox(container);
            return Ok(());
        }
        let message = format!(
            "did not end within {} s of SIGKILL; its sandbox {} does not react: stop the sandbox",
            KILL_LIMIT.as_secs(),
            pod.id
        );
        Err(Error::new(Kind::DeadlineExceeded, message))
    }

    /// The sandbox is dead and nobody told how its container ended: the exit record says, if there is one.
    fn settle_in_sandbox(&self, container: &Container) {
        match ExitRecord::read(&container.dir) {
            Ok(Some(exit)) => container.mark_exited(&exit),
            Ok(None) => container.mark_lost("Unknown", "its sandbox is gone and left no exit record"),
            Err(error) => container.mark_lost("Unknown", &error.to_string()),
        }
    }

    /// Ends a container whose sandbox or monitor died, and records `reason` unless its own end is known.
    pub(crate) async fn bury_in_sandbox(&self, container: &Container, reason: &str) -> Result<()> {
        self.kill_sandbox(&container.pod).await?;
        match ExitRecord::read(&container.dir) {
            Ok(Some(exit)) if exit.signal.is_none() => container.mark_exited(&exit),
            _ => container.mark_lost(reason, "its sandbox ended unexpectedly; the container was killed"),
        }
        Ok(())
    }

    /// Has the runtime forget a container that has ended or could not be started: until then its sandbox
    /// keeps it, and a helper process of the host's serves its files.
    pub(crate) async fn delete_in_sandbox(&self, container: &Container) -> Result<()> {
        if container.pod.is_stopping() || container.record().state == ContainerState::Created {
            // It goes with its sandbox, or was never there.
            return Ok(());
        }
        self.run_runtime(&container.pod, &["delete", "--force", &container.id]).await
    }

    /// Kills one exec'd process, known by its pid in the container; the process of the host's that waits
    /// for it ends by itself.
    pub(crate) async fn kill_exec_in_sandbox(
        &self,
        container: &Container,
        pid_file: &std::path::Path,
    ) -> Result<()> {
        let text = std::fs::read_to_string(pid_file).map_err(io_error("read", pid_file))?;
        self.run_runtime(&container.pod, &["kill", "--pid", text.trim(), &container.id, "9"]).await
    }

    async fn run_runtime(&self, pod: &Pod, args: &[&str]) -> Result<()> {
        let handler = self.handlers.get(&pod.record().handler)?;
        call::run(&handler.command(&pod.runtime_root(), &pod.sandbox_log()), args).await
    }
}
