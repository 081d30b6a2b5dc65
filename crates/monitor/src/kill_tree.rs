//! Killing a process and everything that can be told to be its own.

use std::collections::BTreeSet;

/// Rounds of stopping and looking again; each sees what was forked during the one before.
const ROUNDS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

/// Stops, then kills `root`, its descendants, and who shares a session or group with one of them.
///
/// Whoever left both the session and the ancestry (a daemonised process) is the container's, not the
/// session's: it cannot be told apart on cgroup v1.
pub(crate) fn kill_tree(root: i32) {
    let mut members = BTreeSet::from([root]);
    for _ in 0..ROUNDS {
        for pid in &members {
            signal(*pid, rustix::process::Signal::STOP);
        }
        let grown = grow(&members, &processes());
        if grown == members {
            break;
        }
        members = grown;
    }
    for pid in members {
        signal(pid, rustix::process::Signal::KILL);
    }
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // Gone already is fine.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

fn grow(members: &BTreeSet<i32>, all: &[Stat]) -> BTreeSet<i32> {
    let mut grown = members.clone();
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

fn processes() -> Vec<Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    pids.filter_map(|pid| parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

fn parse(pid: i32, stat: &str) -> Option<Stat> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(1);
    let mut number = || fields.next()?.parse().ok();
    Some(Stat { pid, parent: number()?, group: number()?, session: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
