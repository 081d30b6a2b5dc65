//! Plugins that outlived the daemon that had called them.
//!
//! A plugin of a daemon that was killed goes on. Were DEL called while its ADD still runs, what ADD makes
//! afterwards would stay for ever. So every plugin has a file in memory on its standard input whose name
//! says for which pod it runs; a new daemon looks for such files, and the first call for that pod waits for
//! the plugin's end.

use super::exec;
use crate::{Error, ErrorKind, Result};
use gantry_sys::pidfd::Process;
use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a killed plugin may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Plugins of an earlier daemon, by pod.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    all: Mutex<BTreeMap<String, Vec<Process>>>,
}

impl Orphans {
    /// Looks for the plugins whose standard input is called `prefix` and the pod's id.
    pub(crate) fn find(prefix: &str) -> Self {
        let mut all: BTreeMap<String, Vec<Process>> = BTreeMap::new();
        let me = std::process::id();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let Some(pod_id) = (pid != me).then(|| held(&entry.path(), prefix)).flatten() else { continue };
            // Opened first, then looked at again: the number could be another process's by now.
            let Ok(process) = Process::open(pid.cast_signed()) else { continue };
            if held(&entry.path(), prefix).as_ref() == Some(&pod_id) {
                tracing::info!(pod = pod_id, pid, "a network plugin of an earlier daemon still runs");
                all.entry(pod_id).or_default().push(process);
            }
        }
        Self { all: Mutex::new(all) }
    }

    /// Waits until those of a pod have ended, and kills them after `limit`.
    pub(crate) async fn wait(&self, pod_id: &str, limit: Duration) -> Result<()> {
        let mine = self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(pod_id).unwrap_or_default();
        let mut stuck = Vec::new();
        for process in mine {
            if tokio::time::timeout(limit, exec::wait(&process)).await.is_ok() {
                continue;
            }
            tracing::warn!(
                pod = pod_id,
                pid = process.pid(),
                "a network plugin of an earlier daemon is killed"
            );
            kill(&process);
            if tokio::time::timeout(KILL_LIMIT, exec::wait(&process)).await.is_err() {
                stuck.push(process);
            }
        }
        let Some(first) = stuck.first() else { return Ok(()) };
        let message =
            format!("a network plugin (process {}) survived SIGKILL; it waits in the kernel", first.pid());
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(pod_id.to_owned(), stuck);
        Err(Error::new(ErrorKind::TimedOut, message))
    }
}

fn kill(process: &Process) {
    // It may have ended by itself meanwhile.
    let _gone = process.signal(9);
    let pid = Pid::from_raw(process.pid());
    if let Some(pid) = pid
        && getpgid(Some(pid)) == Ok(pid)
    {
        let _gone = kill_process_group(pid, Signal::KILL);
    }
}

/// The pod whose plugin the process is, by the name of a file that it has open.
fn held(process: &Path, prefix: &str) -> Option<String> {
    // All of them: between fork and exec the file is not yet the standard input.
    let open = std::fs::read_dir(process.join("fd")).ok()?;
    open.flatten().find_map(|fd| {
        let target = std::fs::read_link(fd.path()).ok()?;
        let name = target.to_str()?.strip_prefix("/memfd:")?.strip_suffix(" (deleted)")?;
        name.strip_prefix(prefix).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::Command;

    #[tokio::test]
    async fn an_orphan_is_found_and_killed_after_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &gate, 0o600.into()).unwrap();
        let prefix = format!("gantry-cni:{}:", std::process::id());
        let name = format!("{prefix}pod-a");
        let input = rustix::fs::memfd_create(&*name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut command = Command::new("cat");
        command.arg(&gate).stdin(std::fs::File::from(input)).process_group(0);
        let mut plugin = command.spawn().unwrap();
        let orphans = Orphans::find(&prefix);
        orphans.wait("pod-b", Duration::ZERO).await.unwrap();
        assert!(plugin.try_wait().unwrap().is_none(), "another pod's is left alone");
        orphans.wait("pod-a", Duration::ZERO).await.unwrap();
        assert_eq!(plugin.wait().unwrap().signal(), Some(9));
        orphans.wait("pod-a", Duration::ZERO).await.unwrap();
    }
}
