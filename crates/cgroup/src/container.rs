//! One container's control group in every hierarchy.

use crate::hierarchies::checked;
use crate::{Error, Hierarchies, Layout, Result, file_error};
use gantry_sys::pidfd::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rounds of kill and wait before survivors are reported; each sees the forks of the one before.
const KILL_ROUNDS: usize = 8;

/// A cgroup by its path below the root of each hierarchy. Nothing is created by naming it.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
    dirs: Vec<PathBuf>,
    layout: Layout,
    memory: Option<PathBuf>,
    freezer: Option<PathBuf>,
}

/// What [`Cgroup::kill`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KillReport {
    /// Processes that were sent `SIGKILL`.
    pub killed: usize,
}

impl Cgroup {
    /// Names the cgroup `path` (absolute, without `..`) on this host.
    pub fn new(hierarchies: &Hierarchies, path: &str) -> Result<Self> {
        let relative = checked(path)?;
        Ok(Self {
            path: path.to_owned(),
            dirs: hierarchies.mounts().map(|m| m.join(relative)).collect(),
            layout: hierarchies.layout(),
            memory: hierarchies.mount_of("memory").map(|m| m.join(relative)),
            freezer: hierarchies.mount_of("freezer").map(|m| m.join(relative)),
        })
    }

    /// The path below the root, as given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file whose `oom_kill` line counts this cgroup's OOM kills; `None` without a memory controller.
    pub fn oom_counter(&self) -> Option<PathBuf> {
        let file = match self.layout {
            Layout::V1 => "memory.oom_control",
            Layout::V2 => "memory.events",
        };
        self.memory.as_ref().map(|m| m.join(file))
    }

    /// Directory of `controller` for this cgroup, for reading limits and statistics.
    pub fn controller_dir(&self, hierarchies: &Hierarchies, controller: &str) -> Option<PathBuf> {
        hierarchies.mount_of(controller).map(|m| m.join(self.path.trim_start_matches('/')))
    }

    /// Pids in this cgroup and below it, from every hierarchy, each once.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = std::collections::BTreeSet::new();
        for dir in &self.dirs {
            for cgroup in tree(dir)? {
                pids.extend(read_pids(&cgroup.join("cgroup.procs"))?);
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// Kills every process in this cgroup and below, and waits until they are gone.
    ///
    /// Freezes first on v1, so that a fork bomb cannot outrun the walk; uses `cgroup.kill` on v2
    /// where the kernel has it. Blocks for at most `limit`; call it off the async threads.
    ///
    /// # Errors
    ///
    /// [`Error::Survivors`] when the time is up and processes are left.
    pub fn kill(&self, limit: Duration) -> Result<KillReport> {
        let deadline = Instant::now() + limit;
        let mut report = KillReport::default();
        for _ in 0..KILL_ROUNDS {
            let alive = self.living()?;
            if alive.is_empty() {
                return Ok(report);
            }
            report.killed += alive.len();
            self.kill_all(&alive);
            wait(&alive, deadline);
            if Instant::now() >= deadline {
                break;
            }
        }
        match self.living()?.len() {
            0 => Ok(report),
            count => Err(Error::Survivors { path: self.path.clone(), count }),
        }
    }

    fn kill_all(&self, alive: &[Process]) {
        if self.layout == Layout::V2
            && self.dirs.iter().any(|d| std::fs::write(d.join("cgroup.kill"), "1").is_ok())
        {
            return;
        }
        // A container that cannot be frozen is killed all the same; the rounds catch what it forked.
        let frozen = self.freezer.as_ref().map(|dir| dir.join("freezer.state"));
        let set = |state: &str| frozen.as_ref().is_some_and(|f| std::fs::write(f, state).is_ok());
        let is_frozen = self.layout == Layout::V1 && set("FROZEN");
        for process in alive {
            // Gone already (ESRCH) is what we want.
            let _gone = process.signal(9);
        }
        if is_frozen {
            set("THAWED");
        }
    }

    /// Lets the processes of this cgroup run again that somebody has frozen; succeeds when it is not there.
    pub fn thaw(&self) -> Result<()> {
        let (files, value): (Vec<PathBuf>, &str) = match self.layout {
            Layout::V2 => (self.dirs.iter().map(|d| d.join("cgroup.freeze")).collect(), "0"),
            Layout::V1 => (self.freezer.iter().map(|d| d.join("freezer.state")).collect(), "THAWED"),
        };
        for file in files {
            match std::fs::write(&file, value) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_error("write", &file)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn living(&self) -> Result<Vec<Process>> {
        let open = |pid| Process::open(pid).ok();
        Ok(self.pids()?.into_iter().filter_map(open).filter(|p| !p.has_exited()).collect())
    }

    /// Removes this cgroup and what is below it from every hierarchy; succeeds when it is not there.
    ///
    /// # Errors
    ///
    /// `EBUSY` when processes live in it: kill first.
    pub fn remove(&self) -> Result<()> {
        for dir in &self.dirs {
            let mut all = tree(dir)?;
            all.reverse();
            for cgroup in all {
                match std::fs::remove_dir(&cgroup) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(file_error("remove", &cgroup)(e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// `root` and every cgroup below it, parents first; empty when there is none.
pub(crate) fn tree(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Removed while we walked, or never there.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(file_error("list", &dir)(e)),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
        }
        found.push(dir);
    }
    Ok(found)
}

fn read_pids(file: &Path) -> Result<Vec<i32>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 0).collect()),
        // Removed meanwhile (ENOENT, ENODEV).
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(19) => Ok(Vec::new()),
        Err(e) => Err(file_error("read", file)(e)),
    }
}

/// Waits until every process has exited or the deadline is over.
fn wait(processes: &[Process], deadline: Instant) {
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // An interrupted wait only costs another round.
        let _interrupted = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
    }
}
