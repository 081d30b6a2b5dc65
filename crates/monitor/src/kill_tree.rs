//! Killing a process and everything that can be told to be its own.

use rustix::process::{Pid, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;

/// Rounds of stopping and looking again; each sees what was forked during the one before.
const ROUNDS: usize = 16;

/// Most processes of the pod that are looked at: its pids limit is lower.
const MAX_PROCESSES: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

/// Stops, then kills `root`, its descendants, and who shares a session or group with one of them.
///
/// `root` must be a child of this process that was not reaped, so that its pid is not another's. A
/// process that was stopped keeps its pid, too, unless it is killed from outside meanwhile.
/// Whoever left both the session and the ancestry (a daemonised process) is the container's, not the
/// session's: it cannot be told apart without a cgroup of the session's own.
pub(crate) fn kill_tree(root: i32) {
    let mut members = BTreeSet::from([root]);
    signal(root, Signal::STOP);
    for _ in 0..ROUNDS {
        let grown = grow(&members, &processes());
        let new: Vec<i32> = grown.difference(&members).copied().collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            signal(pid, Signal::STOP);
        }
        members = grown;
    }
    for pid in members {
        signal(pid, Signal::KILL);
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Gone already is fine.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

fn grow(members: &BTreeSet<i32>, all: &[Stat]) -> BTreeSet<i32> {
    let mut grown = members.clone();
    // Sessions and groups that began with a member stay its own after it has ended.
    loop {
        let before = grown.len();
        for stat in all {
            // Sessions and groups are named by the pid of their leader.
            if [stat.parent, stat.group, stat.session].iter().any(|id| grown.contains(id)) {
                grown.insert(stat.pid);
            }
        }
        if grown.len() == before {
            return grown;
        }
    }
}

/// The processes of the pod: all are descendants of the monitor, which is their subreaper. So the cost
/// does not depend on what else runs on the host.
fn processes() -> Vec<Stat> {
    let mut found = BTreeMap::new();
    let mut look = children(std::process::id() as i32);
    while let Some(pid) = look.pop() {
        if found.len() >= MAX_PROCESSES || found.contains_key(&pid) {
            continue;
        }
        let Some(stat) = read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|s| parse(pid, &s)) else {
            continue;
        };
        found.insert(pid, stat);
        look.extend(children(pid));
    }
    found.into_values().collect()
}

/// Children of all threads of `pid` (`/proc/<pid>/task/<tid>/children`).
fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|l| l.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The parent of a process; `None` when it is gone.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &stat).map(|stat| stat.parent)
}

fn parse(pid: i32, stat: &str) -> Option<Stat> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(1);
    let mut number = || fields.next()?.parse().ok();
    Some(Stat { pid, parent: number()?, group: number()?, session: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    #[test]
    fn descendants_groups_and_sessions_belong() {
        let stat = |pid, parent, group, session| Stat { pid, parent, group, session };
        let all = [
            stat(1, 0, 1, 1),
            stat(10, 1, 10, 10),
            stat(11, 10, 10, 10),
            stat(12, 11, 12, 12),
            stat(13, 1, 10, 10),
            stat(14, 12, 12, 12),
            stat(20, 1, 20, 20),
        ];
        let grown = grow(&BTreeSet::from([10]), &all);
        assert_eq!(grown, BTreeSet::from([10, 11, 12, 13, 14]));
    }

    #[test]
    fn a_hostile_name_does_not_confuse() {
        let parsed = parse(7, "7 (a) S 1) R 3 4 5 0").unwrap();
        assert_eq!(parsed, Stat { pid: 7, parent: 3, group: 4, session: 5 });
    }

    #[test]
    fn a_tree_dies_whole_with_who_left_its_session_or_its_ancestry() {
        use std::os::unix::process::CommandExt as _;
        // Orphans come to this process, as they come to the monitor.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        // Every process holds the pipe: its end comes with the last one's death.
        let script = "for i in 1 2 3; do (setsid sleep 60; :) & (sleep 60 &) done; echo; wait";
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        kill_tree(child.id() as i32);
        output.read_to_end(&mut Vec::new()).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
