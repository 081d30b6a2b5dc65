//! A new daemon takes over: records are read, monitors dialled, half-done operations undone.
//!
//! The monitor's word beats the record, an exit record beats a missing monitor, and pid with start
//! time beats both. One sandbox that cannot be understood is set aside; it never keeps the others.

use crate::container::Container;
use crate::engine::{ContainerKey, Engine, EngineConfig, Inner, PodKey, remove_tree};
use crate::error::io_error;
use crate::flight::lock;
use crate::journal::Journal;
use crate::monitor::Monitor;
use crate::pod::Pod;
use crate::record::{self, ContainerRecord, ContainerState, PodRecord, PodState, read_json};
use crate::{Error, Realm, Result};
use gantry_monitor_api::Hello;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a new daemon found.
#[derive(Debug, Default, Clone)]
pub struct RecoveryReport {
    /// Sandboxes that run on.
    pub adopted: usize,
    /// Sandboxes that were being made, or whose boot is over, and are being undone.
    pub undone: usize,
    /// Records that could not be understood: where they are now, and why.
    pub quarantined: Vec<(PathBuf, String)>,
}

impl Engine {
    /// Builds an engine and takes over what an earlier daemon left.
    ///
    /// Returns once every record is read and every monitor dialled; undoing goes on in the background.
    ///
    /// # Errors
    ///
    /// Only what makes the node unusable as a whole (no OCI runtime, no run directory).
    pub async fn open(config: EngineConfig) -> Result<(Self, RecoveryReport)> {
        let stats_interval = config.stats_interval;
        let engine = Self::build(config)?;
        let report = engine.inner.recover().await?;
        crate::sampler::start(&engine.inner, stats_interval);
        Ok((engine, report))
    }
}

impl Inner {
    async fn recover(self: &Arc<Self>) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        let dir = self.pods_dir();
        let entries = std::fs::read_dir(&dir).map_err(io_error("list", &dir))?;
        let (mut adopt, mut alive, mut aside) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries.flatten() {
            let dir = entry.path();
            match self.load(&dir) {
                Ok(pod)
                    if pod.record().state == PodState::Creating || pod.record().boot_id != self.boot_id =>
                {
                    report.undone += 1;
                    self.abandon_in_background(pod);
                }
                Ok(pod) => adopt.push(pod),
                // A directory whose record was never written: nothing else was made before it.
                Err(_) if !dir.join(record::FILE).exists() && !dir.join(crate::journal::FILE).exists() => {
                    remove_tree(&dir)?;
                }
                Err(error) => {
                    let ids = crate::set_aside::container_ids(&dir)?;
                    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned());
                    let (place, why) = match self.set_aside(&dir).await {
                        Ok(place) => {
                            aside.extend(name);
                            (place, error.to_string())
                        }
                        Err(survivor) => {
                            alive.extend(name.into_iter().chain(ids));
                            (dir, format!("{error}; its processes could not be ended: {survivor}"))
                        }
                    };
                    tracing::error!(path = %place.display(), error = why, "sandbox record set aside");
                    report.quarantined.push((place, why));
                }
            }
        }
        lock(&self.quarantined).clone_from(&report.quarantined);
        report.adopted = adopt.len();
        let dialled = adopt.into_iter().map(|pod| {
            let inner = self.clone();
            tokio::spawn(async move { inner.take_over(pod).await })
        });
        for task in dialled.collect::<Vec<_>>() {
            if let Err(error) = task.await {
                tracing::error!(%error, "taking over a sandbox ended abnormally");
            }
        }
        self.recover_network_and_snapshots(&alive).await;
        self.unpin_networks(aside).await;
        Ok(report)
    }

    /// Takes back attachments and writable layers that no sandbox owns any more; `alive` are ids of
    /// damaged sandboxes and of their containers that could not be ended.
    async fn recover_network_and_snapshots(self: &Arc<Self>, alive: &[String]) {
        let (mut pods, mut containers): (HashSet<String>, HashSet<String>) = {
            let state = lock(&self.state);
            let ready = state.pods.values().filter(|p| p.is_ready()).map(|p| p.id.clone());
            (ready.collect(), state.containers.keys().cloned().collect())
        };
        pods.extend(alive.iter().cloned());
        containers.extend(alive.iter().cloned());
        // A pod that is not ready never will be: what it holds is given back now, not when it is removed.
        self.networks.recover(&pods).await;
        // Those of image volumes have the container's id and a suffix.
        let owner = |id: &str| id.split('.').next().unwrap_or_default().to_owned();
        for id in self.images.snapshots().into_iter().filter(|id| !containers.contains(&owner(id))) {
            let images = self.images.clone();
            let removed = crate::flight::blocking(move || images.remove_snapshot(&id).map_err(Error::from));
            if let Err(error) = removed.await {
                tracing::warn!(%error, "writable layer of a container that is gone not removed");
            }
        }
    }

    /// Removes what keeps the network namespaces of damaged sandboxes that were ended.
    async fn unpin_networks(self: &Arc<Self>, pods: Vec<String>) {
        for pod in pods {
            let networks = self.networks.clone();
            let unpin = move || networks.unpin(&pod, &networks.pin_path(&pod)).map_err(Error::from);
            if let Err(error) = crate::flight::blocking(unpin).await {
                tracing::warn!(%error, "network namespace of a damaged sandbox not removed");
            }
        }
    }

    fn load(self: &Arc<Self>, dir: &Path) -> Result<Arc<Pod>> {
        let record: PodRecord = read_json(&dir.join(record::FILE))?;
        check_version(record.version, dir)?;
        let journal = Journal::load(dir)?;
        let pod = Arc::new(Pod::new(dir.to_owned(), record, journal, self.events.clone()));
        let mut containers = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))?.flatten() {
            let path = entry.path();
            if !path.join(record::FILE).exists() && !path.join(crate::journal::FILE).exists() {
                continue;
            }
            let record: ContainerRecord = read_json(&path.join(record::FILE))?;
            check_version(record.version, &path)?;
            let journal = Journal::load(&path)?;
            containers.push(Arc::new(Container::new(pod.clone(), path, record, journal)));
        }
        let mut state = lock(&self.state);
        state.pod_keys.extend(pod_key(&pod).map(|key| (key, pod.id.clone())));
        state.pods.insert(pod.id.clone(), pod.clone());
        for container in containers {
            state.container_keys.extend(container_key(&container).map(|key| (key, container.id.clone())));
            state.containers.insert(container.id.clone(), container);
        }
        Ok(pod)
    }

    fn abandon_in_background(self: &Arc<Self>, pod: Arc<Pod>) {
        pod.set_stopping();
        lock(&self.state).pod_keys.retain(|_, id| *id != pod.id);
        let inner = self.clone();
        tokio::spawn(async move {
            for container in inner.containers_of(&pod.id) {
                if let Err(error) = inner.remove_container(&container).await {
                    tracing::warn!(container = %container.id, %error, "container of a failed sandbox not removed");
                }
            }
            inner.abandon_pod(&pod).await;
        });
    }

    async fn take_over(self: Arc<Self>, pod: Arc<Pod>) {
        for container in self.containers_of(&pod.id) {
            if container.record().state == ContainerState::Creating {
                self.abandon_container(&container).await;
            }
        }
        match Monitor::connect(&pod.dir, self.notices(&pod.id)).await {
            Ok((monitor, hello)) => {
                pod.set_monitor(Some(monitor));
                self.adopt(&pod, &hello).await;
                if hello.pause.is_none() {
                    self.pod_died(&pod, crate::pod::PAUSE_EXITED);
                }
            }
            Err(error) if pod.record().state == PodState::Ready => {
                tracing::warn!(pod = %pod.id, %error, "monitor does not answer");
                self.pod_died(&pod, crate::pod::MONITOR_LOST);
            }
            // A stopped sandbox has no monitor.
            Err(_) => {}
        }
    }

    /// Brings what is known of a pod's containers in line with what its monitor says.
    pub(crate) async fn adopt(self: &Arc<Self>, pod: &Arc<Pod>, hello: &Hello) {
        for container in self.containers_of(&pod.id) {
            let known = hello.containers.iter().find(|c| c.container_id == container.id);
            let state = container.record().state;
            match known {
                Some(held) => {
                    if state != ContainerState::Exited {
                        let started_at = match &held.exit {
                            Some(exit) => exit.started_at,
                            None if container.record().started_at != 0 => container.record().started_at,
                            None => record::now(),
                        };
                        container.mark_running(held.process, started_at);
                    }
                    if let Some(exit) = &held.exit {
                        container.mark_exited(exit);
                    }
                }
                None if state == ContainerState::Running => {
                    if let Err(error) = self.bury_container(&container, "Unknown").await {
                        tracing::error!(container = %container.id, %error, "container unknown to its monitor not killed");
                    }
                }
                // Starting: the runtime may still be at it; the monitor will announce the end of it.
                None => {}
            }
        }
        // On its own: killing may take its time, and nothing else waits for it.
        let (inner, orphaned) = (self.clone(), pod.clone());
        tokio::spawn(async move { inner.adopt_sessions(&orphaned).await });
        if Self::sandbox_ended(pod, hello) {
            self.pod_died(pod, crate::sandboxer::SANDBOX_EXITED);
        }
    }
}

fn check_version(version: u32, dir: &Path) -> Result<()> {
    if version == record::VERSION {
        return Ok(());
    }
    let message =
        format!("{}: record of version {version}, this daemon knows {}", dir.display(), record::VERSION);
    Err(Error::new(crate::Kind::FailedPrecondition, message))
}

fn pod_key(pod: &Pod) -> Option<PodKey> {
    let record = pod.record();
    let meta = record.config.metadata.as_ref()?;
    let realm: Realm = record.realm;
    let (namespace, name, uid) = (meta.namespace.clone(), meta.name.clone(), meta.uid.clone());
    Some(PodKey { realm, namespace, name, uid, attempt: meta.attempt })
}

fn container_key(container: &Container) -> Option<ContainerKey> {
    let record = container.record();
    let meta = record.config.metadata.as_ref()?;
    Some(ContainerKey { pod_id: record.pod_id.clone(), name: meta.name.clone(), attempt: meta.attempt })
}
