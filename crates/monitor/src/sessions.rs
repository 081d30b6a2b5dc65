//! Exec sessions: those that run, and the ends of the last ones.

use gantry_monitor_api::{ExecEnd, MAX_SESSIONS, Session};
use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

/// Ends that are kept for a daemon that was not there; a session more makes the oldest one go.
const KEPT_ENDS: usize = 32;

/// A session that runs.
#[derive(Debug)]
struct Running {
    pid: i32,
    container: String,
    /// The connection that asked for it.
    asker: u64,
}

/// All sessions of the pod.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    running: BTreeMap<String, Running>,
    /// Oldest first.
    ended: VecDeque<ExecEnd>,
}

impl Sessions {
    pub(crate) fn add(&mut self, id: String, pid: i32, container: String, asker: u64) {
        self.running.insert(id, Running { pid, container, asker });
    }

    /// Whether there is, or was a short time ago, a session of that id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.running.contains_key(id) || self.ended.iter().any(|e| e.exec_id == id)
    }

    /// The process of a running session.
    pub(crate) fn pid(&self, id: &str) -> Option<i32> {
        self.running.get(id).map(|s| s.pid)
    }

    /// The processes of all running sessions.
    pub(crate) fn pids(&self) -> impl Iterator<Item = i32> {
        self.running.values().map(|s| s.pid)
    }

    /// Takes note of the end of a session's process; `None` if it is none.
    pub(crate) fn end(&mut self, pid: i32, exit_code: i32) -> Option<ExecEnd> {
        let exec_id = self.running.iter().find(|(_, s)| s.pid == pid)?.0.clone();
        let Running { container: container_id, .. } = self.running.remove(&exec_id)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let finished_at = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let end = ExecEnd { exec_id, container_id, exit_code, finished_at };
        if self.ended.len() >= KEPT_ENDS {
            self.ended.pop_front();
        }
        self.ended.push_back(end.clone());
        Some(end)
    }

    /// Sessions behind `after`, as many as one message takes; `connected` tells which connections are there.
    pub(crate) fn list(&self, after: &str, connected: impl Fn(u64) -> bool) -> Vec<Session> {
        let running = self.running.iter().map(|(id, s)| Session {
            exec_id: id.clone(),
            container_id: s.container.clone(),
            attended: connected(s.asker),
            end: None,
        });
        let ended = self.ended.iter().map(|end| Session {
            exec_id: end.exec_id.clone(),
            container_id: end.container_id.clone(),
            attended: false,
            end: Some(end.clone()),
        });
        let mut all: Vec<Session> = running.chain(ended).filter(|s| s.exec_id.as_str() > after).collect();
        all.sort_by(|a, b| a.exec_id.cmp(&b.exec_id));
        all.truncate(MAX_SESSIONS);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_kept_up_to_a_bound_and_listed_in_pages() {
        let mut sessions = Sessions::default();
        for number in 0..300 {
            sessions.add(format!("{number:03}"), number + 10, "c".into(), u64::from(number % 2 == 0));
        }
        for number in 0..50 {
            let end = sessions.end(number + 10, number).unwrap();
            assert_eq!((end.exec_id, end.exit_code), (format!("{number:03}"), number));
        }
        assert_eq!(sessions.end(10, 0), None);
        assert!(!sessions.has("000") && sessions.has("049") && sessions.has("050"));
        assert_eq!((sessions.pid("049"), sessions.pid("050")), (None, Some(60)));
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = sessions.list(&after, |asker| asker == 1);
            let Some(last) = page.last() else { break };
            assert!(page.len() <= MAX_SESSIONS);
            after = last.exec_id.clone();
            all.extend(page);
        }
        assert_eq!((all.len(), all.iter().filter(|s| s.end.is_some()).count()), (282, 32));
        assert!(all[0].end.as_ref().is_some_and(|e| e.exit_code == 18) && !all[0].attended);
        assert!(all.iter().filter(|s| s.attended).count() == 125);
    }
}
