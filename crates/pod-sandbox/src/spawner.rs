//! The thread that forks monitors, and the sealed program that they run.

use crate::error::io_error;
use crate::flight::lock;
use crate::{Error, Result};
use gantry_cgroup::Hierarchies;
use gantry_monitor_api::Client;
use gantry_sys::{limits, memfd, seqpacket};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Cgroup of all monitors: not the pods' own, where they would be limited, frozen and killed with them.
pub(crate) const MONITORS_CGROUP: &str = "/gantry-monitors.slice";

/// Forks monitors from one thread that lives in [`MONITORS_CGROUP`], so that on cgroup v1 no monitor
/// has to be moved there (each move waits for an RCU grace period). Where systemd owns the tree, they are
/// placed later.
#[derive(Debug)]
pub(crate) struct Spawner {
    jobs: Mutex<Option<mpsc::SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Job {
    pod_dir: PathBuf,
    done: oneshot::Sender<Result<(Client, Child)>>,
}

impl Spawner {
    /// Seals the monitor program and starts the thread; monitors are placed in `hierarchies`, if given.
    pub(crate) fn start(program: &Path, hierarchies: Option<Hierarchies>) -> Result<Self> {
        let program = memfd::seal_program(program)?;
        let (jobs, inbox) = mpsc::sync_channel::<Job>(64);
        let run = move || {
            if let Some(Err(error)) = hierarchies.as_ref().map(|h| h.enter_thread(MONITORS_CGROUP)) {
                tracing::warn!(%error, "monitors stay in the daemon's cgroup");
            }
            for job in inbox {
                let spawned = spawn(&program, hierarchies.as_ref(), &job.pod_dir);
                if let Err(Ok((_, mut child))) = job.done.send(spawned) {
                    // Nobody waits for it any more; it exits by itself at the end of its socket.
                    let _status = child.wait();
                }
            }
            if let Some(Err(error)) = hierarchies.map(|h| h.leave_thread()) {
                tracing::debug!(%error, "the monitors' cgroup is left in use");
            }
        };
        let thread = std::thread::Builder::new()
            .name("spawner".into())
            .spawn(run)
            .map_err(|e| Error::internal(&e).context("start the spawner thread"))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }

    /// Spawns a monitor for the pod in `pod_dir`; it waits for its set-up on the returned socket.
    pub(crate) async fn spawn(&self, pod_dir: &Path) -> Result<(Client, Child)> {
        let (done, result) = oneshot::channel();
        let busy =
            || Error::new(crate::Kind::ResourceExhausted, "too many monitors are being started; retry");
        let jobs = lock(&self.jobs).clone().ok_or_else(busy)?;
        jobs.try_send(Job { pod_dir: pod_dir.to_owned(), done }).map_err(|_| busy())?;
        result.await.map_err(|_| Error::new(crate::Kind::Internal, "the spawner thread ended"))?
    }
}

impl Spawner {
    /// Ends the thread; nothing is spawned any more. Blocks for some cgroup moves.
    pub(crate) fn stop(&self) {
        lock(&self.jobs).take();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the spawner thread panicked");
        }
    }
}

fn spawn(program: &OwnedFd, hierarchies: Option<&Hierarchies>, pod_dir: &Path) -> Result<(Client, Child)> {
    let (ours, theirs) = seqpacket::pair()?;
    let log_path = pod_dir.join("monitor.log");
    let log =
        File::options().create(true).append(true).open(&log_path).map_err(io_error("open", &log_path))?;
    let log_too = log.try_clone().map_err(io_error("open", &log_path))?;
    let path = memfd::exec_path(program.as_fd());
    let pod = pod_dir.file_name().unwrap_or_default().to_string_lossy();
    let child = Command::new(&path)
        .arg0(format!("gantry-monitor {pod}"))
        .env_clear()
        .current_dir("/")
        .stdin(theirs)
        .stdout(log)
        .stderr(log_too)
        .spawn()
        .map_err(io_error("spawn the monitor", &path))?;
    // Before it is told to make anything: what it starts has the limit that the daemon was started with.
    limits::give_back_open_files(child.id())?;
    hierarchies.map_or(Ok(()), |h| h.place(MONITORS_CGROUP, child.id()))?;
    Ok((Client::from_socket(ours), child))
}
