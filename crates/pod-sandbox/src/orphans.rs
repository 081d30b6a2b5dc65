//! Sessions whose daemon is gone: their streams are closed, and nobody waits for their end.

use crate::engine::Inner;
use crate::exec::{ExecFiles, kill};
use crate::flight::lock;
use crate::monitor::Monitor;
use crate::pod::Pod;
use crate::streaming::OnDisconnect;
use crate::{Error, Kind, Result};
use gantry_monitor_api::{ExecEnd, Reply, Request, Session};
use std::sync::Arc;
use std::time::Duration;

/// How long a monitor may take to list sessions.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// Most lists that are asked for; beyond that a monitor makes sessions up.
const MAX_LISTS: usize = 1000;

impl Inner {
    /// Deals with the sessions that an earlier daemon, or a lost connection, left: their ends are taken note of,
    /// and those that run are killed where the configuration says so.
    pub(crate) async fn adopt_sessions(self: &Arc<Self>, pod: &Arc<Pod>) {
        let Some(monitor) = pod.monitor() else { return };
        let sessions = match list(&monitor).await {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::warn!(pod = %pod.id, %error, "the sessions of an earlier daemon are not known");
                return;
            }
        };
        for session in sessions {
            match session.end {
                Some(end) => exec_ended(pod, end),
                None if session.attended => {}
                None => self.orphan(pod, &monitor, session).await,
            }
        }
    }

    async fn orphan(self: &Arc<Self>, pod: &Arc<Pod>, monitor: &Monitor, session: Session) {
        let Session { exec_id, container_id, .. } = session;
        let container = lock(&self.state).containers.get(&container_id).cloned();
        match (self.exec_on_disconnect, container) {
            (OnDisconnect::Kill, Some(container)) => {
                let files = ExecFiles::new(pod, &exec_id);
                match kill(self, &container, monitor, exec_id.clone(), &files).await {
                    Ok(()) => {
                        tracing::info!(container = %container_id, session = %exec_id, "a command that lost its daemon was killed");
                    }
                    Err(error) => {
                        tracing::warn!(container = %container_id, session = %exec_id, %error, "a command that lost its daemon cannot be killed");
                    }
                }
            }
            // A container that is being removed takes its sessions along.
            (OnDisconnect::Leave, _) | (OnDisconnect::Kill, None) => {
                tracing::info!(container = %container_id, session = %exec_id, "a command that lost its daemon goes on");
            }
        }
    }
}

/// Takes note of the end of a session. One that nobody waits for is told in the log, and its files go.
pub(crate) fn exec_ended(pod: &Pod, end: ExecEnd) {
    let ExecEnd { exec_id, container_id, exit_code, .. } = end.clone();
    if !pod.exec_exited(end) {
        tracing::info!(container = %container_id, session = %exec_id, exit_code, "a command ended that nobody waited for");
        drop(ExecFiles::new(pod, &exec_id));
    }
}

/// All sessions that a monitor knows.
async fn list(monitor: &Monitor) -> Result<Vec<Session>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    for _ in 0..MAX_LISTS {
        let page = match monitor.ask(&Request::Sessions { after: after.clone() }, &[], LIST_LIMIT).await? {
            Reply::Sessions(page) => page,
            other => return Err(Error::new(Kind::Internal, format!("monitor answered {other:?} to a list"))),
        };
        match page.last() {
            Some(last) if last.exec_id > after => after.clone_from(&last.exec_id),
            _ => return Ok(all),
        }
        all.extend(page);
    }
    Ok(all)
}
