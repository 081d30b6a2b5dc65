//! A sandbox in memory, and the operations on it.

mod network;
mod remove;
mod resources;
mod run;
mod stop;
mod sysctls;
pub(crate) mod user_namespace;

pub(crate) use run::is_plain_absolute;
pub(crate) use stop::{MONITOR_LOST, PAUSE_EXITED};

use crate::events::{self, Events};
use crate::flight::lock;
use crate::journal::{Journal, Undo};
use crate::monitor::Monitor;
use crate::record::{self, PodRecord, PodState, write_json};
use crate::stats::Usage;
use crate::{Realm, Result};
use gantry_cri_api::v1::NamespaceMode;
use gantry_monitor_api::ExecEnd;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{RwLock, oneshot, watch};

/// Name of a pod's link to its network, which the kubelet and its users expect.
pub(crate) const INTERFACE: &str = "eth0";

/// A sandbox. The record is locked only for memory and for the run tmpfs, so that listing never waits.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) realm: Realm,
    /// Its directory on the run tmpfs.
    pub(crate) dir: PathBuf,
    /// Shared by what needs the sandbox to stay (create, start), exclusive for stop and remove.
    pub(crate) gate: RwLock<()>,
    /// One change of its limits at a time.
    pub(crate) limits: tokio::sync::Mutex<()>,
    /// Stop has begun: nothing new is started, and the monitor's end is no surprise.
    stopping: AtomicBool,
    /// Nothing of it is left.
    gone: watch::Sender<bool>,
    pub(crate) usage: Usage,
    /// Where what happens to it and its containers is told.
    pub(crate) events: Arc<Events>,
    /// Number of the last step that was told of it.
    pub(crate) told: AtomicU8,
    record: Mutex<PodRecord>,
    journal: Mutex<Journal>,
    monitor: Mutex<Option<Arc<Monitor>>>,
    execs: Mutex<Execs>,
}

/// Ends of sessions that are remembered for `inspect`.
const KEPT_ENDS: usize = 32;

/// Exec sessions whose end is waited for, and the ends of the last ones.
#[derive(Debug, Default)]
struct Execs {
    waiting: HashMap<String, oneshot::Sender<i32>>,
    ended: VecDeque<ExecEnd>,
}

impl Pod {
    pub(crate) fn new(dir: PathBuf, record: PodRecord, journal: Journal, events: Arc<Events>) -> Self {
        Self {
            id: record.id.clone(),
            realm: record.realm,
            dir,
            gate: RwLock::default(),
            limits: tokio::sync::Mutex::default(),
            stopping: AtomicBool::new(false),
            gone: watch::Sender::new(false),
            usage: Usage::default(),
            events,
            told: events::told_of_pod(record.state),
            record: Mutex::new(record),
            journal: Mutex::new(journal),
            monitor: Mutex::default(),
            execs: Mutex::default(),
        }
    }

    /// What is known of it now. Short-lived: nothing else is done while it is held.
    pub(crate) fn record(&self) -> MutexGuard<'_, PodRecord> {
        lock(&self.record)
    }

    /// Changes the record, in memory and on disk. In memory it changes even when the disk refuses:
    /// what happened has happened, and a restarted daemon asks the monitor.
    pub(crate) fn update(&self, change: impl FnOnce(&mut PodRecord)) -> Result<()> {
        let written = {
            let mut record = self.record();
            change(&mut record);
            write_json(&self.dir.join(record::FILE), &*record)
        };
        self.events.pod_changed(self);
        written
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.record().state == PodState::Ready && !self.is_stopping()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn set_gone(&self) {
        self.gone.send_replace(true);
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn wait_gone(&self) {
        // The sender lives as long as self: this only ends by the condition.
        let mut gone = self.gone.subscribe();
        let _alive = gone.wait_for(|gone| *gone).await;
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

    pub(crate) fn monitor(&self) -> Option<Arc<Monitor>> {
        lock(&self.monitor).clone()
    }

    pub(crate) fn set_monitor(&self, monitor: Option<Arc<Monitor>>) {
        *lock(&self.monitor) = monitor;
    }

    /// Waits for the end of exec session `id`, told by [`Pod::exec_exited`].
    pub(crate) fn expect_exec(&self, id: &str) -> oneshot::Receiver<i32> {
        let (tell, told) = oneshot::channel();
        lock(&self.execs).waiting.insert(id.to_owned(), tell);
        told
    }

    pub(crate) fn forget_exec(&self, id: &str) {
        lock(&self.execs).waiting.remove(id);
    }

    /// Takes note of the end of a session, and tells who waits for it; whether there was somebody.
    pub(crate) fn exec_exited(&self, end: ExecEnd) -> bool {
        let mut execs = lock(&self.execs);
        let waiting = execs.waiting.remove(&end.exec_id);
        // A daemon's first look at the monitor may name what an event has told already.
        if !execs.ended.iter().any(|e| e.exec_id == end.exec_id) {
            if execs.ended.len() >= KEPT_ENDS {
                execs.ended.pop_front();
            }
            execs.ended.push_back(end.clone());
        }
        drop(execs);
        // The client may have gone.
        waiting.is_some_and(|waiting| waiting.send(end.exit_code).is_ok())
    }

    /// The last sessions of a container that ended, oldest first.
    pub(crate) fn exec_ends(&self, container: &str) -> Vec<ExecEnd> {
        lock(&self.execs).ended.iter().filter(|e| e.container_id == container).cloned().collect()
    }

    /// Nobody will tell the end of any session any more: the monitor is gone.
    pub(crate) fn drop_execs(&self) {
        lock(&self.execs).waiting.clear();
    }

    pub(crate) fn shm_dir(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.dir.join("runtime")
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }
}

/// Where the namespaces of a sandbox come from, as its configuration asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodNamespaces {
    pub(crate) host_network: bool,
    pub(crate) host_ipc: bool,
    pub(crate) shared_pid: bool,
    pub(crate) host_pid: bool,
}

impl PodNamespaces {
    pub(crate) fn of(record: &PodRecord) -> Self {
        let options = record
            .config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref())
            .and_then(|s| s.namespace_options.as_ref());
        let mode = |value: Option<i32>| {
            NamespaceMode::try_from(value.unwrap_or_default()).unwrap_or(NamespaceMode::Pod)
        };
        let pid = mode(options.map(|o| o.pid));
        Self {
            host_network: mode(options.map(|o| o.network)) == NamespaceMode::Node,
            host_ipc: mode(options.map(|o| o.ipc)) == NamespaceMode::Node,
            shared_pid: pid == NamespaceMode::Pod,
            host_pid: pid == NamespaceMode::Node,
        }
    }
}

/// Path of one of the namespaces that a pause child holds.
pub(crate) fn namespace_path(pid: i32, kind: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("ns").join(kind)
}
