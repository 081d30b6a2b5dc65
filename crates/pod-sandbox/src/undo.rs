//! Carrying out what an undo journal owes.

use crate::container::Container;
use crate::engine::{Inner, remove_tree};
use crate::error::Kind;
use crate::flight::blocking;
use crate::journal::Undo;
use crate::pod::Pod;
use crate::{Error, Result};
use gantry_monitor_api::{Client, Process, Request};
use gantry_sys::watched::Watched;
use gantry_sys::{mount, pidfd};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;

/// How long processes may take to die of SIGKILL before the inverse counts as failed.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long a monitor may take to shut down by itself before it is killed.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

impl Inner {
    /// Runs the inverses that a pod owes, newest first, but for those that `keep` says stay.
    /// All are tried; the failures come back as one error and stay owed.
    pub(crate) async fn undo_pod(self: &Arc<Self>, pod: &Arc<Pod>, keep: fn(&Undo) -> bool) -> Result<()> {
        let mut failures = Vec::new();
        for step in pod.owed().into_iter().filter(|s| !keep(s)) {
            match self.undo(&step, pod).await {
                Ok(()) => pod.undone(&step),
                Err(e) => failures.push(e),
            }
        }
        collect(failures)
    }

    /// As [`Inner::undo_pod`], for a container.
    pub(crate) async fn undo_container(self: &Arc<Self>, container: &Container) -> Result<()> {
        let mut failures = Vec::new();
        for step in container.owed() {
            match self.undo(&step, &container.pod).await {
                Ok(()) => container.undone(&step),
                Err(e) => failures.push(e),
            }
        }
        collect(failures)
    }

    async fn undo(self: &Arc<Self>, step: &Undo, pod: &Arc<Pod>) -> Result<()> {
        match step.clone() {
            Undo::RemoveDir(dir) => blocking(move || remove_tree(&dir)).await,
            Undo::StopSandbox => self.stop_sandbox(pod).await,
            Undo::StopMonitor => self.stop_monitor(pod).await,
            Undo::StopScope(name) => self.stop_scope(pod, &name).await,
            Undo::DetachNetwork => self.networks.detach(&pod.id).await.map_err(Error::from),
            Undo::UnpinNetwork(path) => {
                let (networks, id) = (self.networks.clone(), pod.id.clone());
                blocking(move || Ok(networks.unpin(&id, &path)?)).await
            }
            Undo::Unmount(path) => blocking(move || Ok(mount::detach(&path)?)).await,
            Undo::RemoveCgroup(path) => {
                let cgroup = self.cgroup(&path)?;
                let remove = move || {
                    cgroup.kill(KILL_LIMIT)?;
                    Ok(cgroup.remove()?)
                };
                blocking(remove).await
            }
            Undo::RemoveEmptyCgroup(path) => self.remove_empty_cgroup(&path).await,
            Undo::RemoveSnapshot(id) => {
                let images = self.images.clone();
                blocking(move || images.remove_snapshot(&id).map_err(Error::from)).await
            }
        }
    }

    /// Ends a pod's monitor: asks, then kills; waits for it and for the pause child.
    async fn stop_monitor(&self, pod: &Arc<Pod>) -> Result<()> {
        let (monitor, pause) = {
            let record = pod.record();
            (record.monitor, record.pause)
        };
        let process = match pod.monitor() {
            Some(connected) => {
                let asked = tokio::time::timeout(SHUTDOWN_LIMIT, connected.order(Request::Shutdown)).await;
                if !matches!(asked, Ok(Ok(()))) {
                    tracing::debug!(pod = %pod.id, ?asked, "monitor did not shut down by itself");
                }
                open(connected.process().pid(), Some(connected.process().start_time()))
            }
            // Not connected (after a crash): whoever listens in the directory, or the recorded one.
            None => listener(&pod.dir).or_else(|| monitor.and_then(|m| open(m.pid, Some(m.start_time)))),
        };
        for process in [process, pause.and_then(exact)].into_iter().flatten() {
            kill(&process).await?;
        }
        pod.set_monitor(None);
        Ok(())
    }
}

fn exact(process: Process) -> Option<pidfd::Process> {
    open(process.pid, Some(process.start_time))
}

fn open(pid: i32, start_time: Option<u64>) -> Option<pidfd::Process> {
    match start_time {
        Some(start_time) => pidfd::Process::open_exact(pid, start_time).ok(),
        None => pidfd::Process::open(pid).ok(),
    }
}

/// The process that listens on the monitor's socket in a pod's directory, if any.
pub(crate) fn listener(pod_dir: &Path) -> Option<pidfd::Process> {
    let client = Client::connect(pod_dir).ok()?;
    open(gantry_sys::seqpacket::peer_pid(client.as_fd()).ok()?, None)
}

/// Kills a process and waits for its end.
pub(crate) async fn kill(process: &pidfd::Process) -> Result<()> {
    // A process that is gone already answers ESRCH; the wait below settles it either way.
    let _gone = process.signal(9);
    match tokio::time::timeout(KILL_LIMIT, wait_exit(process)).await {
        Ok(()) => Ok(()),
        Err(_) => {
            let message = format!("process {} survived SIGKILL; it waits in the kernel", process.pid());
            Err(Error::new(Kind::DeadlineExceeded, message))
        }
    }
}

/// Waits until a process has exited.
pub(crate) async fn wait_exit(process: &pidfd::Process) {
    let watched = match process.as_fd().try_clone_to_owned() {
        Ok(fd) => Watched::new(fd, Interest::READABLE).map_err(Error::from),
        Err(e) => Err(Error::internal(&e)),
    };
    match watched {
        Ok(watched) => {
            // An error of the reactor means that the daemon is going down.
            let _ready = watched.readable().await;
        }
        Err(error) => tracing::warn!(pid = process.pid(), %error, "cannot watch a process"),
    }
}

fn collect(failures: Vec<Error>) -> Result<()> {
    let Some(first) = failures.first() else { return Ok(()) };
    let all: Vec<String> = failures.iter().map(Error::to_string).collect();
    Err(Error::new(first.kind(), format!("not everything could be undone: {}", all.join("; "))))
}
