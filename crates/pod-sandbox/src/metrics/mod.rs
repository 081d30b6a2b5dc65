//! Metrics of pods and containers over the CRI (`ListPodSandboxMetrics`), for kubelets without cAdvisor.

mod processes;
mod table;

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::flight::blocking;
use crate::pod::Pod;
use crate::record::{self, ContainerRecord, ContainerState, PodState};
use crate::stats::{self, Usage};
use crate::{Realm, Result};
use gantry_cgroup::{Cgroup, Detail, Interface, Pressure, Stats};
use gantry_cri_api::v1;
use table::{Kind, METRICS};

/// What one can choose to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricGroup {
    /// Use of CPUs, throttling.
    Cpu,
    /// Memory by what it is for, faults.
    Memory,
    /// Processes killed for want of memory.
    Oom,
    /// Bytes and packets by interface, of the pod.
    Network,
    /// Space of writable layers.
    Disk,
    /// Reads and writes by device.
    DiskIo,
    /// Huge pages.
    HugeTlb,
    /// Processes, threads, open files.
    Process,
    /// Limits.
    Spec,
    /// Pressure stall information, where the kernel has it.
    Pressure,
}

impl MetricGroup {
    /// All groups.
    pub const ALL: [Self; 10] = [
        Self::Cpu,
        Self::Memory,
        Self::Oom,
        Self::Network,
        Self::Disk,
        Self::DiskIo,
        Self::HugeTlb,
        Self::Process,
        Self::Spec,
        Self::Pressure,
    ];
}

impl Engine {
    /// Names, labels and meaning of the metrics that this node tells.
    pub fn metric_descriptors(&self) -> Vec<v1::MetricDescriptor> {
        table::descriptors(&self.inner.pod_metrics)
    }

    /// The metrics of the ready sandboxes of `realm` and of their running containers.
    pub async fn pod_metrics(&self, realm: Realm) -> Result<Vec<v1::PodSandboxMetrics>> {
        let mut pods = self.inner.pods(realm);
        pods.retain(|p| p.record().state == PodState::Ready);
        let inner = self.inner.clone();
        blocking(move || Ok(pods.iter().map(|p| of_pod(&inner, p)).collect())).await
    }
}

/// Metrics of one pod or container in the making.
struct Out<'a> {
    groups: &'a [MetricGroup],
    /// Values of [`table::BASE_LABELS`].
    base: [String; 6],
    at: i64,
    metrics: Vec<v1::Metric>,
}

impl<'a> Out<'a> {
    fn new(inner: &'a Inner, base: [String; 6]) -> Self {
        Self { groups: &inner.pod_metrics, base, at: record::now(), metrics: Vec::new() }
    }

    fn wants(&self, group: MetricGroup) -> bool {
        self.groups.contains(&group)
    }

    /// Adds a metric if its group was chosen and there is a value.
    fn put(&mut self, name: &str, labels: &[&str], value: impl Into<Option<u64>>) {
        let Some(descriptor) = METRICS.get(name) else {
            debug_assert!(false, "{name} is not in the table");
            return;
        };
        debug_assert_eq!(labels.len(), descriptor.labels.len(), "{name}");
        let Some(value) = value.into().filter(|_| descriptor.group.is_none_or(|g| self.wants(g))) else {
            return;
        };
        let kind = match descriptor.kind {
            Kind::Counter => v1::MetricType::Counter,
            Kind::Gauge => v1::MetricType::Gauge,
        };
        let labels = self.base.iter().map(String::as_str).chain(labels.iter().copied());
        self.metrics.push(v1::Metric {
            name: name.to_owned(),
            timestamp: self.at,
            metric_type: kind.into(),
            label_values: labels.map(str::to_owned).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }
}

const NS: u64 = 1_000_000_000;

/// The metrics of a pod and of its running containers. Blocking work; what cannot be read is left out.
pub(crate) fn of_pod(inner: &Inner, pod: &Pod) -> v1::PodSandboxMetrics {
    let record = pod.record().clone();
    let meta = record.config.metadata.clone().unwrap_or_default();
    let none = String::new;
    let base =
        [none(), record.cgroup_parent.clone(), none(), none(), meta.namespace.clone(), meta.name.clone()];
    let mut out = Out::new(inner, base);
    out.put("container_last_seen", &[], seconds(out.at));
    usage(&mut out, inner, &pod.usage, &record.cgroup_parent);
    out.put("container_start_time_seconds", &[], seconds(record.created_at));
    if out.wants(MetricGroup::Network) {
        for interface in stats::interfaces(&record).unwrap_or_default() {
            network(&mut out, &interface);
        }
    }
    let containers = inner.containers_of(&pod.id);
    let running = containers.iter().filter(|c| c.record().state == ContainerState::Running);
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.id.clone(),
        metrics: out.metrics,
        container_metrics: running.map(|c| of_container(inner, c, &meta)).collect(),
    }
}

fn of_container(inner: &Inner, container: &Container, pod: &v1::PodSandboxMetadata) -> v1::ContainerMetrics {
    let record = container.record().clone();
    let name = record.config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
    let asked = record.config.image.as_ref();
    let image = asked.map(|i| &i.user_specified_image).filter(|i| !i.is_empty());
    let image = image.unwrap_or(&record.image_ref).clone();
    let base =
        [name, record.cgroup.clone(), image, record.id.clone(), pod.namespace.clone(), pod.name.clone()];
    let mut out = Out::new(inner, base);
    out.put("container_last_seen", &[], seconds(out.at));
    usage(&mut out, inner, &container.usage, &record.cgroup);
    spec(&mut out, &record);
    if out.wants(MetricGroup::Disk) {
        disk(&mut out, inner, container);
    }
    if out.wants(MetricGroup::Process)
        && let Some(process) = record.process
    {
        processes::put(&mut out, inner, &record.cgroup, process.pid);
    }
    v1::ContainerMetrics { container_id: record.id, metrics: out.metrics }
}

/// What any cgroup has.
fn usage(out: &mut Out<'_>, inner: &Inner, usage: &Usage, path: &str) {
    let Ok(cgroup) = inner.cgroup(path) else { return };
    match usage.read(inner, || Ok(cgroup.clone())) {
        Ok(Some(stats)) => counters(out, &stats),
        // It is not there yet, or not any more.
        Ok(None) => return,
        Err(error) => tracing::debug!(path, %error, "counters not read"),
    }
    details(out, &cgroup, inner);
}

fn counters(out: &mut Out<'_>, stats: &Stats) {
    out.put("container_cpu_usage_seconds_total", &["total"], stats.cpu_ns.map(|ns| ns / NS));
    if let Some(memory) = stats.memory {
        out.put("container_memory_usage_bytes", &[], memory.usage);
        out.put("container_memory_working_set_bytes", &[], memory.working_set);
        out.put("container_memory_rss", &[], memory.rss);
        out.put("container_memory_swap", &[], memory.swap);
    }
    out.put("container_threads", &[], stats.pids);
    let pressures =
        [("cpu", stats.cpu_pressure), ("memory", stats.memory_pressure), ("io", stats.io_pressure)];
    for (what, pressure) in pressures {
        let Some(Pressure { some, full }) = pressure else { continue };
        for (how, stall) in [("waiting", some), ("stalled", full)] {
            out.put(
                &format!("container_pressure_{what}_{how}_seconds_total"),
                &[],
                stall.total_us / 1_000_000,
            );
        }
    }
}

fn details(out: &mut Out<'_>, cgroup: &Cgroup, inner: &Inner) {
    let detail: Detail = cgroup.detail(&inner.hierarchies);
    out.put("container_cpu_user_seconds_total", &[], detail.cpu_user_ns.map(|ns| ns / NS));
    out.put("container_cpu_system_seconds_total", &[], detail.cpu_system_ns.map(|ns| ns / NS));
    out.put("container_cpu_cfs_periods_total", &[], detail.periods);
    out.put("container_cpu_cfs_throttled_periods_total", &[], detail.throttled_periods);
    out.put("container_cpu_cfs_throttled_seconds_total", &[], detail.throttled_ns.map(|ns| ns / NS));
    let memory = detail.memory;
    for (name, value) in [
        ("container_memory_cache", memory.cache),
        ("container_memory_mapped_file", memory.mapped_file),
        ("container_memory_kernel_usage", memory.kernel),
        ("container_memory_max_usage_bytes", detail.memory_peak),
        ("container_memory_failcnt", detail.memory_failures),
        ("container_memory_total_active_file_bytes", memory.active_file),
        ("container_memory_total_inactive_file_bytes", memory.inactive_file),
        ("container_memory_active_anon_bytes", memory.active_anon),
        ("container_memory_inactive_anon_bytes", memory.inactive_anon),
        ("container_memory_anon_thp_bytes", memory.anon_huge),
        ("container_memory_shmem_thp_bytes", memory.shared_huge),
        ("container_memory_file_thp_bytes", memory.file_huge),
        ("container_oom_events_total", detail.oom_kills),
        ("container_threads_max", Some(detail.pids_limit.unwrap_or(0))),
    ] {
        out.put(name, &[], value);
    }
    for (fault, scope, value) in [
        ("pgfault", "container", memory.own_faults),
        ("pgmajfault", "container", memory.own_major_faults),
        ("pgfault", "hierarchy", memory.faults),
        ("pgmajfault", "hierarchy", memory.major_faults),
    ] {
        out.put("container_memory_failures_total", &[fault, scope], value);
    }
    for page in detail.huge_pages {
        out.put("container_hugetlb_usage_bytes", &[&page.size], page.usage);
        out.put("container_hugetlb_max_usage_bytes", &[&page.size], page.peak);
    }
    for io in detail.io {
        let device = device_name(io.major, io.minor);
        out.put("container_fs_reads_bytes_total", &[&device], io.read_bytes);
        out.put("container_fs_reads_total", &[&device], io.reads);
        out.put("container_fs_writes_bytes_total", &[&device], io.write_bytes);
        out.put("container_fs_writes_total", &[&device], io.writes);
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            let labels = [device.as_str(), &major, &minor, operation];
            out.put("container_blkio_device_usage_total", &labels, bytes);
        }
    }
}

fn network(out: &mut Out<'_>, interface: &Interface) {
    for (name, value) in [
        ("container_network_receive_bytes_total", interface.rx_bytes),
        ("container_network_receive_packets_total", interface.rx_packets),
        ("container_network_receive_packets_dropped_total", interface.rx_dropped),
        ("container_network_receive_errors_total", interface.rx_errors),
        ("container_network_transmit_bytes_total", interface.tx_bytes),
        ("container_network_transmit_packets_total", interface.tx_packets),
        ("container_network_transmit_packets_dropped_total", interface.tx_dropped),
        ("container_network_transmit_errors_total", interface.tx_errors),
    ] {
        out.put(name, &[&interface.name], value);
    }
}

fn disk(out: &mut Out<'_>, inner: &Inner, container: &Container) {
    let Some(snapshot) = inner.images.snapshot(&container.id) else { return };
    let device = rustix::fs::stat(&snapshot.upper).map_or_else(
        |_| String::new(),
        |s| device_name(rustix::fs::major(s.st_dev), rustix::fs::minor(s.st_dev)),
    );
    out.put("container_fs_usage_bytes", &[&device], container.layer.get().map(|usage| usage.bytes));
    if let Ok(fs) = rustix::fs::statvfs(&snapshot.upper) {
        out.put("container_fs_limit_bytes", &[&device], fs.f_blocks.saturating_mul(fs.f_frsize));
        out.put("container_fs_inodes_total", &[&device], fs.f_files);
        out.put("container_fs_inodes_free", &[&device], fs.f_ffree);
    }
}

fn spec(out: &mut Out<'_>, record: &ContainerRecord) {
    out.put("container_start_time_seconds", &[], seconds(record.started_at));
    let limits = record.resources().cloned().unwrap_or_default();
    let set = |value: i64| u64::try_from(value).ok().filter(|v| *v > 0);
    let reservation = limits.unified.get("memory.low").and_then(|v| v.parse().ok());
    out.put("container_spec_cpu_period", &[], set(limits.cpu_period));
    out.put("container_spec_cpu_quota", &[], set(limits.cpu_quota));
    out.put("container_spec_cpu_shares", &[], set(limits.cpu_shares));
    out.put("container_spec_memory_limit_bytes", &[], set(limits.memory_limit_in_bytes).unwrap_or(0));
    out.put("container_spec_memory_reservation_limit_bytes", &[], reservation.unwrap_or(0));
    let swap = set(limits.memory_swap_limit_in_bytes).or_else(|| set(limits.memory_limit_in_bytes));
    out.put("container_spec_memory_swap_limit_bytes", &[], swap.unwrap_or(0));
}

fn seconds(nanos: i64) -> Option<u64> {
    u64::try_from(nanos).ok().map(|ns| ns / NS)
}

/// Path of a block device, as far as the kernel names it; its numbers otherwise.
fn device_name(major: u32, minor: u32) -> String {
    let numbers = format!("{major}:{minor}");
    let told = std::fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = told.lines().find_map(|l| l.strip_prefix("DEVNAME="));
    name.map_or(numbers, |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(groups: &[MetricGroup]) -> Out<'_> {
        Out { groups, base: ["c", "i", "im", "n", "ns", "p"].map(str::to_owned), at: 5, metrics: Vec::new() }
    }

    #[test]
    fn only_what_was_chosen_and_counted_is_told() {
        let groups = [MetricGroup::Cpu, MetricGroup::Pressure];
        let mut out = out(&groups);
        let pressure = Pressure { some: Default::default(), full: Default::default() };
        let stats = Stats {
            cpu_ns: Some(3 * NS + 1),
            memory: Some(Default::default()),
            io_pressure: Some(pressure),
            ..Stats::default()
        };
        counters(&mut out, &stats);
        let names: Vec<&str> = out.metrics.iter().map(|m| m.name.as_str()).collect();
        let expected = [
            "container_cpu_usage_seconds_total",
            "container_pressure_io_waiting_seconds_total",
            "container_pressure_io_stalled_seconds_total",
        ];
        assert_eq!(names, expected);
        let cpu = &out.metrics[0];
        assert_eq!((cpu.value, cpu.timestamp), (Some(v1::UInt64Value { value: 3 }), 5));
        assert_eq!(cpu.label_values, ["c", "i", "im", "n", "ns", "p", "total"]);
        assert_eq!(cpu.metric_type, i32::from(v1::MetricType::Counter));
    }

    #[test]
    fn every_metric_has_the_labels_of_its_descriptor() {
        let mut out = out(&MetricGroup::ALL);
        network(&mut out, &Interface { name: "eth0".into(), ..Interface::default() });
        let pressure = Some(Pressure::default());
        let stats = Stats {
            cpu_ns: Some(0),
            memory: Some(Default::default()),
            pids: Some(1),
            cpu_pressure: pressure,
            memory_pressure: pressure,
            io_pressure: pressure,
        };
        counters(&mut out, &stats);
        assert_eq!(out.metrics.len(), 8 + 1 + 3 + 1 + 6, "swap is not accounted");
        for metric in &out.metrics {
            let keys = METRICS[metric.name.as_str()].cri().label_keys;
            assert_eq!(keys.len(), metric.label_values.len(), "{}", metric.name);
        }
    }

    #[test]
    fn a_device_without_a_name_has_its_numbers() {
        assert_eq!(device_name(0, 4_000_000), "0:4000000");
    }
}
