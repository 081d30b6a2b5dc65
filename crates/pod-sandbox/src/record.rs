//! Records: what must be known of a sandbox or container after the daemon was restarted.
//!
//! One JSON file per object in its directory on the run tmpfs (`record.json`), replaced by rename.
//! A record that cannot be read quarantines its object, never the daemon.

use crate::error::io_error;
use crate::{Error, Realm, Result, SandboxerKind};
use gantry_cri_api::v1;
use gantry_monitor_api::Process;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Version of both records; a record of another version is quarantined.
pub(crate) const VERSION: u32 = 1;

/// Name of the record in the directory of its object.
pub(crate) const FILE: &str = "record.json";

/// Largest configuration of a sandbox or container that is taken, in bytes: well above what Kubernetes can
/// send (an object has 1.5 MiB at most), so that records of many pods fit into the run directory.
const MAX_CONFIG: usize = 4 << 20;

/// Refuses a configuration that is too large.
pub(crate) fn check_size(what: &str, bytes: usize) -> Result<()> {
    if bytes <= MAX_CONFIG {
        return Ok(());
    }
    let message = format!(
        "the {what} configuration has {bytes} bytes, {MAX_CONFIG} at most; shorten its annotations or environment"
    );
    Err(Error::new(crate::Kind::InvalidArgument, message))
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodState {
    /// Being made; not shown to anybody, undone after a crash.
    Creating,
    /// Its namespaces are there.
    Ready,
    /// Stopped, or dead; see the reason.
    Stopped,
}

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodRecord {
    pub(crate) version: u32,
    /// Id of the sandbox.
    pub id: String,
    /// Who made it and may see it.
    pub realm: Realm,
    /// Boot in which it was made.
    pub(crate) boot_id: String,
    /// Name of its runtime handler, resolved (never empty).
    pub handler: String,
    /// Handler as the request named it; empty for the default.
    pub requested_handler: String,
    /// How its handler makes sandboxes.
    #[serde(default)]
    pub sandboxer: SandboxerKind,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// As the request gave it.
    pub config: v1::PodSandboxConfig,
    /// Where it is in its life.
    pub state: PodState,
    /// Why it is not ready, if something happened to it (`MonitorLost`, `PauseExited`).
    pub reason: Option<String>,
    /// Its monitor.
    pub monitor: Option<Process>,
    /// Its pause child, which holds the namespaces.
    pub pause: Option<Process>,
    /// Addresses, the first one is the pod's.
    pub ips: Vec<String>,
    /// Cgroup under which its containers live.
    pub cgroup_parent: String,
    /// Limits of the whole after an update; `None` while they are those of the request.
    #[serde(default)]
    pub(crate) resources: Option<v1::LinuxContainerResources>,
    /// What its handler takes for itself after an update; `None` while it is that of the request.
    #[serde(default)]
    pub(crate) overhead: Option<v1::LinuxContainerResources>,
    /// Its scope, where systemd manages control groups.
    #[serde(default)]
    pub scope: Option<String>,
    /// Directory of its containers' logs.
    pub log_directory: PathBuf,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Being made; undone after a crash.
    Creating,
    /// Made, not started.
    Created,
    /// The OCI runtime is starting it.
    Starting,
    /// Running.
    Running,
    /// Ended.
    Exited,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub(crate) version: u32,
    /// Id of the container.
    pub id: String,
    /// Id of its sandbox.
    pub pod_id: String,
    /// As the request gave it.
    pub config: v1::ContainerConfig,
    /// Its limits after an update; `None` while they are those of the request.
    #[serde(default)]
    pub resources: Option<v1::LinuxContainerResources>,
    /// Id of its image.
    pub image_id: String,
    /// Digest reference of its image where it has one, else its id.
    pub image_ref: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Its init process, once started; none where it is not the host's ([`SandboxerKind::OciSandbox`]).
    pub process: Option<Process>,
    /// Nanoseconds since the epoch, 0 before.
    pub started_at: i64,
    /// Nanoseconds since the epoch, 0 before.
    pub finished_at: i64,
    /// Exit status, or 128 plus the signal's number.
    pub exit_code: i32,
    /// One word on why it ended.
    pub reason: String,
    /// More words on why it ended or could not start.
    pub message: String,
    /// Log file; `None` where the request asked for none.
    pub log_path: Option<PathBuf>,
    /// Its cgroup below the root of each hierarchy.
    pub cgroup: String,
    /// It has a PID namespace of its own: when its init ends, the kernel ends the rest.
    pub own_pid_namespace: bool,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Numeric user that its process runs as.
    pub user: User,
}

impl ContainerRecord {
    /// The limits that hold now.
    pub(crate) fn resources(&self) -> Option<&v1::LinuxContainerResources> {
        self.resources.as_ref().or_else(|| self.config.linux.as_ref()?.resources.as_ref())
    }
}

/// Numeric identity of a container's first process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, the primary one among them.
    pub additional_gids: Vec<u32>,
}

/// Replaces the JSON file `path` by rename: it is there whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Error::internal(&e).context(format!("serialise {}", path.display())))?;
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(&bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        // A half-written temporary is of no use to anybody.
        let _gone = std::fs::remove_file(&temporary);
        io_error("write", path)(e)
    })
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::internal(&e).context(format!("record {}", path.display())))
}

/// This boot of the machine.
pub(crate) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(std::fs::read_to_string(path).map_err(io_error("read", path))?.trim().to_owned())
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}
