//! What containers and sandboxes use, from the kernel's counters.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::flight::{blocking, lock};
use crate::pod::{Pod, PodNamespaces};
use crate::record::{self, ContainerState, PodRecord, PodState};
use crate::view::has_labels;
use crate::{Realm, Result};
use gantry_cgroup::{Cgroup, Interface, Pressure, Stall, Stats, StatsReader};
use gantry_cri_api::v1;
use std::sync::{Arc, Mutex};

/// Shortest time between two readings from which the present use of CPUs is reckoned, in nanoseconds.
const MIN_WINDOW: i64 = 1_000_000_000;

/// The open counters of a cgroup, and what they showed a while ago.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    reader: Mutex<Option<Arc<StatsReader>>>,
    cpu: Mutex<CpuRate>,
}

/// The use of CPUs between two readings.
#[derive(Debug, Default)]
struct CpuRate {
    /// Time of the older reading and CPU time then, both in nanoseconds.
    since: Option<(i64, u64)>,
    nano_cores: Option<u64>,
}

impl CpuRate {
    /// CPUs in use, in thousand-millionths, once two readings lie far enough apart.
    fn note(&mut self, at: i64, cpu_ns: u64) -> Option<u64> {
        match self.since {
            Some((then, _)) if at - then < MIN_WINDOW && at >= then => {}
            Some((then, before)) if at > then && cpu_ns >= before => {
                let nanos =
                    u128::from(cpu_ns - before) * 1_000_000_000 / u128::from((at - then).unsigned_abs());
                self.nano_cores = u64::try_from(nanos).ok();
                self.since = Some((at, cpu_ns));
            }
            // The first reading, or a clock that was set back.
            _ => self.since = Some((at, cpu_ns)),
        }
        self.nano_cores
    }
}

impl Usage {
    /// Its processes began at `at`, when it had used nothing: the first use can be reckoned from there.
    pub(crate) fn begin(&self, at: i64) {
        let mut cpu = lock(&self.cpu);
        if cpu.since.is_none() && at > 0 {
            cpu.since = Some((at, 0));
        }
    }

    /// Takes note of the CPU time used so far, if it can be read.
    pub(crate) fn sample(&self, inner: &Inner, cgroup: &str) {
        let Ok(Some(reader)) = self.open(inner, || inner.cgroup(cgroup)) else { return };
        match reader.cpu_ns() {
            Ok(Some(cpu_ns)) => {
                lock(&self.cpu).note(record::now(), cpu_ns);
            }
            Ok(None) => {}
            Err(_) => *lock(&self.reader) = None,
        }
    }

    /// Closes the counters of what has ended.
    pub(crate) fn close(&self) {
        *lock(&self.reader) = None;
    }

    /// Reads the counters of `cgroup`; `None` once it is gone. Opens them on the first call.
    pub(crate) fn read(
        &self,
        inner: &Inner,
        cgroup: impl FnOnce() -> Result<Cgroup>,
    ) -> Result<Option<Stats>> {
        let Some(reader) = self.open(inner, cgroup)? else { return Ok(None) };
        match reader.read() {
            Ok(stats) => Ok(Some(stats)),
            Err(e) if e.is_gone() => {
                *lock(&self.reader) = None;
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The open counters of `cgroup`; `None` while there is none.
    fn open(
        &self,
        inner: &Inner,
        cgroup: impl FnOnce() -> Result<Cgroup>,
    ) -> Result<Option<Arc<StatsReader>>> {
        if let Some(reader) = lock(&self.reader).clone() {
            return Ok(Some(reader));
        }
        match cgroup()?.stats_reader(&inner.hierarchies) {
            Ok(reader) => {
                let reader = Arc::new(reader);
                *lock(&self.reader) = Some(reader.clone());
                Ok(Some(reader))
            }
            Err(e) if e.is_gone() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Engine {
    /// What a container uses; without counters for one that does not run.
    pub async fn container_stats(&self, realm: Realm, id: &str) -> Result<v1::ContainerStats> {
        let container = self.inner.container(realm, id)?;
        let inner = self.inner.clone();
        blocking(move || container_stats(&inner, &container)).await
    }

    /// What the running containers of `realm` use that match `filter`, newest first.
    pub async fn list_container_stats(
        &self,
        realm: Realm,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>> {
        let filter = filter.unwrap_or_default();
        let mut containers = self.inner.containers(realm);
        containers.retain(|c| container_matches(c, &filter));
        containers.sort_by_key(|c| std::cmp::Reverse(c.record().created_at));
        let inner = self.inner.clone();
        blocking(move || containers.iter().map(|c| container_stats(&inner, c)).collect()).await
    }

    /// What a sandbox uses: its cgroup, its network, its containers.
    pub async fn pod_stats(&self, realm: Realm, id: &str) -> Result<v1::PodSandboxStats> {
        let pod = self.inner.pod(realm, id)?;
        let inner = self.inner.clone();
        blocking(move || pod_stats(&inner, &pod)).await
    }

    /// What the ready sandboxes of `realm` use that match `filter`, newest first.
    pub async fn list_pod_stats(
        &self,
        realm: Realm,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>> {
        let filter = filter.unwrap_or_default();
        let mut pods = self.inner.pods(realm);
        pods.retain(|p| pod_matches(p, &filter));
        pods.sort_by_key(|p| std::cmp::Reverse(p.record().created_at));
        let inner = self.inner.clone();
        blocking(move || pods.iter().map(|p| pod_stats(&inner, p)).collect()).await
    }
}

/// Whether a list of statistics with this filter shows a container: one that runs.
pub(crate) fn container_matches(container: &Container, filter: &v1::ContainerStatsFilter) -> bool {
    let record = container.record();
    record.state == ContainerState::Running
        && record.id.starts_with(&filter.id)
        && record.pod_id.starts_with(&filter.pod_sandbox_id)
        && has_labels(&record.config.labels, &filter.label_selector)
}

/// Whether a list of statistics with this filter shows a sandbox: one that is ready.
pub(crate) fn pod_matches(pod: &Pod, filter: &v1::PodSandboxStatsFilter) -> bool {
    let record = pod.record();
    record.state == PodState::Ready
        && record.id.starts_with(&filter.id)
        && has_labels(&record.config.labels, &filter.label_selector)
}

/// What a container uses. Blocking work, for the time of some reads from memory.
pub(crate) fn container_stats(inner: &Inner, container: &Container) -> Result<v1::ContainerStats> {
    let record = container.record().clone();
    let stats = match record.state {
        ContainerState::Running => container.usage.read(inner, || inner.cgroup(&record.cgroup))?,
        _ => None,
    };
    let at = record::now();
    Ok(v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }),
        cpu: stats.as_ref().and_then(|s| cpu(s, at, &container.usage)),
        memory: stats.as_ref().and_then(|s| memory(s, at)),
        swap: stats.as_ref().and_then(|s| swap(s, at)),
        io: stats.as_ref().and_then(|s| io(s, at)),
        writable_layer: container.layer.get().map(|usage| v1::FilesystemUsage {
            timestamp: usage.at,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: inner.layers_mountpoint.clone() }),
            used_bytes: value(usage.bytes),
            inodes_used: value(usage.inodes),
        }),
    })
}

/// What a sandbox and its containers use. Blocking work, as [`container_stats`].
pub(crate) fn pod_stats(inner: &Inner, pod: &Pod) -> Result<v1::PodSandboxStats> {
    let record = pod.record().clone();
    let stats = match record.state {
        PodState::Ready => pod.usage.read(inner, || inner.cgroup(&record.cgroup_parent))?,
        _ => None,
    };
    let at = record::now();
    let interfaces = interfaces(&record);
    let containers = inner.containers_of(&pod.id);
    let running = containers.iter().filter(|c| c.record().state == ContainerState::Running);
    let containers = running.map(|c| container_stats(inner, c)).collect::<Result<Vec<_>>>()?;
    let linux = v1::LinuxPodSandboxStats {
        cpu: stats.as_ref().and_then(|s| cpu(s, at, &pod.usage)),
        memory: stats.as_ref().and_then(|s| memory(s, at)),
        network: interfaces.map(|all| network(all, at)),
        process: stats
            .as_ref()
            .and_then(|s| s.pids)
            .map(|count| v1::ProcessUsage { timestamp: at, process_count: value(count) }),
        containers,
        io: stats.as_ref().and_then(|s| io(s, at)),
    };
    Ok(v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }),
        linux: Some(linux),
        windows: None,
    })
}

/// The links in a pod's network namespace; `None` for a pod in the host's, or one that is not ready.
pub(crate) fn interfaces(record: &PodRecord) -> Option<Vec<Interface>> {
    if record.state != PodState::Ready || PodNamespaces::of(record).host_network {
        return None;
    }
    let pause = record.pause?;
    let found = gantry_cgroup::interfaces(pause.pid).ok()?;
    // The pause child may end at any moment; another process that got its number has another network.
    let same = gantry_sys::pidfd::Process::open_exact(pause.pid, pause.start_time);
    same.is_ok_and(|p| !p.has_exited()).then_some(found)
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(stats: &Stats, at: i64, usage: &Usage) -> Option<v1::CpuUsage> {
    let cpu_ns = stats.cpu_ns?;
    Some(v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(cpu_ns),
        usage_nano_cores: lock(&usage.cpu).note(at, cpu_ns).and_then(value),
        psi: stats.cpu_pressure.map(psi),
    })
}

fn memory(stats: &Stats, at: i64) -> Option<v1::MemoryUsage> {
    let memory = stats.memory?;
    Some(v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: stats.memory_pressure.map(psi),
    })
}

fn swap(stats: &Stats, at: i64) -> Option<v1::SwapUsage> {
    let memory = stats.memory?;
    let used = memory.swap?;
    Some(v1::SwapUsage {
        timestamp: at,
        swap_available_bytes: memory.swap_limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    })
}

fn io(stats: &Stats, at: i64) -> Option<v1::IoUsage> {
    stats.io_pressure.map(|pressure| v1::IoUsage { timestamp: at, psi: Some(psi(pressure)) })
}

/// CRI counts stalls in nanoseconds.
fn psi(pressure: Pressure) -> v1::PsiStats {
    let data = |stall: Stall| v1::PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    v1::PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}

/// The pod's own interface is the one of the default network; others come after it.
fn network(interfaces: Vec<Interface>, at: i64) -> v1::NetworkUsage {
    let mut all: Vec<v1::NetworkInterfaceUsage> = interfaces
        .into_iter()
        .map(|i| v1::NetworkInterfaceUsage {
            name: i.name,
            rx_bytes: value(i.rx_bytes),
            rx_errors: value(i.rx_errors),
            tx_bytes: value(i.tx_bytes),
            tx_errors: value(i.tx_errors),
        })
        .collect();
    let default = all.iter().position(|i| i.name == crate::pod::INTERFACE);
    let default_interface = default.map(|at| all.remove(at));
    v1::NetworkUsage { timestamp: at, default_interface, interfaces: all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_cpus_needs_two_readings_a_second_apart() {
        const S: i64 = 1_000_000_000;
        let mut rate = CpuRate::default();
        assert_eq!(rate.note(10 * S, 0), None);
        assert_eq!(rate.note(10 * S + 5, 999), None);
        assert_eq!(rate.note(12 * S, 1_000_000_000), Some(500_000_000));
        assert_eq!(rate.note(12 * S + 1, 1_000_000_000), Some(500_000_000), "the last one stays");
        assert_eq!(rate.note(13 * S, 1_000_000_000), Some(0));
        assert_eq!(rate.note(5 * S, 2_000_000_000), Some(0), "the clock was set back");
        assert_eq!(rate.note(7 * S, 2_000_000_000), Some(0));
        assert_eq!(rate.note(8 * S, 1_000), Some(0), "a counter that starts anew");
    }
}
