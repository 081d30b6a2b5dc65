//! What is measured in the background: the use of CPUs, and the space of writable layers.
//!
//! Two tasks, each with one thing in hand at a time: a slow disk makes the figures older and delays nobody.
//! They end with the engine.

use crate::Error;
use crate::container::Container;
use crate::engine::Inner;
use crate::flight::{blocking, lock};
use crate::record::{self, ContainerState, PodState};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Rounds of the layers for one of the CPUs: walking a tree costs more than reading a counter.
const LAYERS_EVERY: u32 = 3;

/// Walking takes at most one part of so many of the time.
const LAYER_SHARE: u32 = 20;

/// Space of a writable layer, when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerUsage {
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The last figure of a layer.
#[derive(Debug, Default)]
pub(crate) struct Layer(Mutex<Option<LayerUsage>>);

impl Layer {
    pub(crate) fn get(&self) -> Option<LayerUsage> {
        *lock(&self.0)
    }

    fn set(&self, usage: LayerUsage) {
        *lock(&self.0) = Some(usage);
    }

    /// Looks at the layer now. Blocking, for as long as the disk takes.
    pub(crate) fn measure(&self, inner: &Inner, container_id: &str) -> Result<(), Error> {
        let Some(snapshot) = inner.images.snapshot(container_id) else { return Ok(()) };
        // What is written meanwhile may be missing: the figure is as old as its start.
        let at = record::now();
        let usage = gantry_sys::usage::of_tree(&snapshot.upper)?;
        self.set(LayerUsage { at, bytes: usage.bytes, inodes: usage.inodes });
        tracing::debug!(container = container_id, bytes = usage.bytes, "writable layer measured");
        Ok(())
    }
}

/// Starts to measure, with one reading of the CPUs in each `interval`.
pub(crate) fn start(inner: &Arc<Inner>, interval: Duration) {
    tokio::spawn(cpus(Arc::downgrade(inner), interval));
    tokio::spawn(layers(Arc::downgrade(inner), interval * LAYERS_EVERY));
}

async fn cpus(engine: Weak<Inner>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = engine.upgrade() else { return };
        let sampled = blocking(move || {
            sample(&inner);
            Ok(())
        });
        if let Err(error) = sampled.await {
            tracing::warn!(%error, "the use of CPUs was not sampled");
        }
    }
}

/// Reads the CPU counter of whatever runs.
fn sample(inner: &Inner) {
    let (pods, containers) = {
        let state = lock(&inner.state);
        let pods: Vec<_> = state.pods.values().cloned().collect();
        (pods, state.containers.values().cloned().collect::<Vec<_>>())
    };
    for pod in pods {
        let cgroup = {
            let record = pod.record();
            (record.state == PodState::Ready).then(|| record.cgroup_parent.clone())
        };
        if let Some(cgroup) = cgroup {
            pod.usage.sample(inner, &cgroup);
        }
    }
    for container in containers {
        let cgroup = {
            let record = container.record();
            (record.state == ContainerState::Running).then(|| record.cgroup.clone())
        };
        if let Some(cgroup) = cgroup {
            container.usage.sample(inner, &cgroup);
        }
    }
}

async fn layers(engine: Weak<Inner>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = engine.upgrade() else { return };
        let due: Vec<Weak<Container>> =
            lock(&inner.state).containers.values().filter(|c| is_due(c)).map(Arc::downgrade).collect();
        drop(inner);
        for container in due {
            let Some(inner) = engine.upgrade() else { return };
            let Some(container) = container.upgrade() else { continue };
            let started = Instant::now();
            let measured = blocking(move || {
                let result = container.layer.measure(&inner, &container.id);
                result.map_err(|e| e.context(format!("writable layer of container {}", container.id)))
            });
            if let Err(error) = measured.await {
                // It may have been removed meanwhile.
                tracing::debug!(%error, "space not measured");
            }
            tokio::time::sleep(started.elapsed() * (LAYER_SHARE - 1)).await;
        }
    }
}

/// Whether a layer may have changed since it was looked at: not once its container has ended.
fn is_due(container: &Container) -> bool {
    let (state, finished_at) = {
        let record = container.record();
        (record.state, record.finished_at)
    };
    match (state, container.layer.get()) {
        (ContainerState::Creating, _) => false,
        (_, None) | (ContainerState::Starting | ContainerState::Running, _) => true,
        (ContainerState::Created, Some(_)) => false,
        (ContainerState::Exited, Some(usage)) => usage.at <= finished_at,
    }
}
