//! A container in memory, and the operations on it.

mod bundle;
mod checkpoint;
mod create;
mod images;
mod log;
mod mapped;
mod paths;
mod relabel;
mod remove;
mod start;
mod stop;
mod update;

use crate::Result;
use crate::events;
use crate::flight::lock;
use crate::journal::{Journal, Undo};
use crate::pod::Pod;
use crate::record::{self, ContainerRecord, ContainerState, write_json};
use crate::sampler::Layer;
use crate::stats::Usage;
use gantry_monitor_api::{ExitRecord, Process};
use std::path::PathBuf;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Prefix of a container's cgroup, the pattern by which node agents find containers.
pub(crate) const CGROUP_PREFIX: &str = "crio-";

/// A container. The record is locked only for memory and for the run tmpfs, so that listing never waits.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) pod: Arc<Pod>,
    /// Its directory on the run tmpfs: record, bundle, exit record.
    pub(crate) dir: PathBuf,
    /// One of start, stop, remove at a time.
    pub(crate) operation: tokio::sync::Mutex<()>,
    pub(crate) usage: Usage,
    pub(crate) layer: Layer,
    /// Number of the last step that was told of it; see [`crate::events`].
    pub(crate) told: AtomicU8,
    record: Mutex<ContainerRecord>,
    journal: Mutex<Journal>,
    state: watch::Sender<ContainerState>,
}

impl Container {
    pub(crate) fn new(pod: Arc<Pod>, dir: PathBuf, record: ContainerRecord, journal: Journal) -> Self {
        let (state, _) = watch::channel(record.state);
        Self {
            id: record.id.clone(),
            pod,
            dir,
            operation: tokio::sync::Mutex::default(),
            usage: Usage::default(),
            layer: Layer::default(),
            told: events::told_of_container(record.state),
            record: Mutex::new(record),
            journal: Mutex::new(journal),
            state,
        }
    }

    /// What is known of it now. Short-lived: nothing else is done while it is held.
    pub(crate) fn record(&self) -> MutexGuard<'_, ContainerRecord> {
        lock(&self.record)
    }

    pub(crate) fn is_visible(&self) -> bool {
        self.record().state != ContainerState::Creating
    }

    /// Changes the record, in memory (always) and on disk, and tells who waits for the state.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let written = {
            let mut record = self.record();
            change(&mut record);
            self.state.send_replace(record.state);
            write_json(&self.dir.join(record::FILE), &*record)
        };
        self.pod.events.container_changed(self);
        written
    }

    /// As [`Container::update`] for what happened anyway: a record that cannot be written is logged,
    /// the monitor and the exit record say the same to a restarted daemon.
    pub(crate) fn note(&self, change: impl FnOnce(&mut ContainerRecord)) {
        if let Err(error) = self.update(change) {
            tracing::warn!(container = %self.id, %error, "record not written");
        }
    }

    /// Its init process runs. Says nothing new about one that has ended already.
    pub(crate) fn mark_running(&self, process: Process, started_at: i64) {
        // In a sandbox with a kernel of its own the process only waits for the container's end.
        let process = (!self.pod.is_sandboxed()).then_some(process);
        self.usage.begin(started_at);
        self.note(|r| {
            r.process = process;
            r.started_at = started_at;
            if r.state != ContainerState::Exited {
                r.state = ContainerState::Running;
            }
        });
    }

    /// It ended as `exit` says. The first account of an end stays.
    pub(crate) fn mark_exited(&self, exit: &ExitRecord) {
        if self.record().state == ContainerState::Exited {
            return;
        }
        tracing::info!(container = %self.id, exit_code = exit.exit_code, oom_killed = exit.oom_killed, "container exited");
        self.note(|r| {
            r.state = ContainerState::Exited;
            r.exit_code = exit.exit_code;
            r.started_at = exit.started_at;
            r.finished_at = exit.finished_at;
            r.reason = reason(exit).to_owned();
        });
        self.usage.close();
    }

    /// It ended, and nobody saw how.
    pub(crate) fn mark_lost(&self, reason: &str, message: &str) {
        if self.record().state == ContainerState::Exited {
            return;
        }
        self.note(|r| {
            r.state = ContainerState::Exited;
            r.exit_code = 137;
            r.finished_at = record::now().max(r.started_at);
            r.reason = reason.to_owned();
            r.message = message.to_owned();
        });
        self.usage.close();
    }

    /// Waits until it has ended (or was never started).
    pub(crate) async fn wait_exited(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as self: this only ends by the condition.
        let _alive =
            state.wait_for(|s| !matches!(s, ContainerState::Running | ContainerState::Starting)).await;
    }

    pub(crate) fn promise(&self, step: Undo) -> Result<()> {
        lock(&self.journal).push(step)
    }

    pub(crate) fn undone(&self, step: &Undo) {
        lock(&self.journal).done(step);
    }

    pub(crate) fn owed(&self) -> Vec<Undo> {
        lock(&self.journal).owed()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn runtime_log(&self) -> PathBuf {
        self.dir.join("runtime.log")
    }
}

/// The one word that `kubectl get pods` shows.
fn reason(exit: &ExitRecord) -> &'static str {
    match exit {
        exit if exit.oom_killed => "OOMKilled",
        exit if exit.exit_code == 0 => "Completed",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_one_word() {
        let exit = |exit_code, oom_killed| ExitRecord {
            version: 1,
            container_id: "c".into(),
            exit_code,
            signal: None,
            oom_killed,
            started_at: 0,
            finished_at: 0,
        };
        for (code, oom, word) in [(0, false, "Completed"), (3, false, "Error"), (137, true, "OOMKilled")] {
            assert_eq!(reason(&exit(code, oom)), word);
        }
    }
}
