//! What `/proc` tells of processes: memory, and who is whose parent.

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// Every process and its parent, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes {
    parents: BTreeMap<i32, i32>,
}

impl Processes {
    /// Reads them. A process that ends meanwhile is left out.
    pub(crate) fn now() -> Result<Self> {
        let mut parents = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if let Some(parent) =
                fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|s| parent_in(&s))
            {
                parents.insert(pid, parent);
            }
        }
        Ok(Self { parents })
    }

    /// Processes that a runtime keeps for pods: the pause processes, the ancestors of pause processes and
    /// containers, and whatever those ancestors started beside containers. Not the daemon, nothing that was
    /// there `before`, and nothing that a container runs.
    pub(crate) fn helpers(
        &self,
        before: &Self,
        daemon: i32,
        pauses: &BTreeSet<i32>,
        containers: &BTreeSet<i32>,
    ) -> BTreeSet<i32> {
        let is_new = |pid: i32| pid > 1 && pid != daemon && !before.parents.contains_key(&pid);
        let mut roots = BTreeSet::new();
        for &pid in pauses.union(containers) {
            let mut above = self.parents.get(&pid).copied();
            while let Some(pid) = above.filter(|pid| is_new(*pid)) {
                roots.insert(pid);
                above = self.parents.get(&pid).copied();
            }
        }
        let mut helpers: BTreeSet<i32> = roots.union(pauses).copied().collect();
        let mut left: Vec<i32> = helpers.iter().copied().collect();
        while let Some(pid) = left.pop() {
            for (&child, _) in self.parents.iter().filter(|(_, parent)| **parent == pid) {
                if !containers.contains(&child) && is_new(child) && helpers.insert(child) {
                    left.push(child);
                }
            }
        }
        helpers
    }
}

/// Proportional set size of a process in KiB: what is shared counts by the number of those who share it.
pub(crate) fn pss_kib(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    pss_in(&text).with_context(|| format!("{path} has no Pss line"))
}

/// Asks a process to end by SIGTERM and waits until it has, for at most `limit` (whole seconds).
pub(crate) async fn terminate(pid: i32, limit: Duration) -> Result<()> {
    let pid = Pid::from_raw(pid).with_context(|| format!("{pid} is no process id"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .with_context(|| format!("pidfd_open {pid:?}"))?;
    rustix::process::pidfd_send_signal(&pidfd, Signal::TERM)
        .with_context(|| format!("send SIGTERM to {pid:?}"))?;
    let limit = rustix::event::Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = tokio::task::spawn_blocking(move || {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        retry_on_intr(|| poll(&mut fds, Some(&limit)))
    });
    match ended.await.context("wait for a process")?.context("poll a pidfd")? {
        0 => bail!("process {pid:?} did not end within {} s of SIGTERM", limit.tv_sec),
        _ => Ok(()),
    }
}

fn parent_in(stat: &str) -> Option<i32> {
    // The name may have spaces and parentheses: what follows the last one is numbers.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn pss_in(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(pairs: &[(i32, i32)]) -> Processes {
        Processes { parents: pairs.iter().copied().collect() }
    }

    #[test]
    fn helpers_are_what_is_neither_daemon_nor_workload() {
        let before = processes(&[(1, 0), (10, 1), (11, 10)]);
        let pauses = BTreeSet::from([21, 31]);
        let containers = BTreeSet::from([22, 32]);
        // 20: a shim of init's with a pause, a container (that runs 23) and a logger; 30: a monitor of the daemon's.
        let after = processes(&[
            (1, 0),
            (10, 1),
            (11, 10),
            (20, 1),
            (21, 20),
            (22, 20),
            (23, 22),
            (24, 20),
            (30, 10),
            (31, 30),
            (32, 30),
            (99, 1),
        ]);
        let helpers = after.helpers(&before, 10, &pauses, &containers);
        assert_eq!(helpers, BTreeSet::from([20, 21, 24, 30, 31]));
    }

    #[test]
    fn a_daemon_that_was_started_meanwhile_is_no_helper() {
        let before = processes(&[(1, 0)]);
        let after = processes(&[(1, 0), (40, 1), (41, 40), (42, 41)]);
        let helpers = after.helpers(&before, 40, &BTreeSet::new(), &BTreeSet::from([42]));
        assert_eq!(helpers, BTreeSet::from([41]));
    }

    #[test]
    fn proc_files_are_read() {
        assert_eq!(parent_in("7 (a (b) c) S 3 7 7 0"), Some(3));
        assert_eq!(
            pss_in("00-ff ---p 0 00:00 0 [rollup]\nRss:  99 kB\nPss:     1234 kB\nPss_Dirty: 1 kB\n"),
            Some(1234)
        );
        let me = std::process::id().cast_signed();
        assert!(pss_kib(me).unwrap() > 0);
        assert!(Processes::now().unwrap().parents.contains_key(&me));
    }
}
