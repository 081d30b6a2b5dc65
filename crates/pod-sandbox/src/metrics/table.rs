//! The metrics of pods and containers: names, labels and kinds as cAdvisor has them, which is what
//! dashboards and alerts are written for. Values are whole numbers, since the CRI has no others.

use super::MetricGroup::{self, Cpu, Disk, DiskIo, HugeTlb, Memory, Network, Oom, Pressure, Process, Spec};
use gantry_cri_api::v1;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Labels of every metric.
pub(super) const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// Goes up only, or up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}
use Kind::{Counter, Gauge};

/// One metric.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// `None` for those that are always told.
    pub(super) group: Option<MetricGroup>,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Labels after [`BASE_LABELS`].
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

type Row = (Option<MetricGroup>, Kind, &'static str, &'static [&'static str], &'static str);

const ROWS: &[Row] = &[
    (None, Gauge, "container_last_seen", &[], "Time of this reading in seconds since the epoch."),
    (Some(Cpu), Counter, "container_cpu_usage_seconds_total", &["cpu"], "CPU time used, in seconds."),
    (Some(Cpu), Counter, "container_cpu_user_seconds_total", &[], "CPU time used in user mode, in seconds."),
    (
        Some(Cpu),
        Counter,
        "container_cpu_system_seconds_total",
        &[],
        "CPU time used by the kernel, in seconds.",
    ),
    (Some(Cpu), Counter, "container_cpu_cfs_periods_total", &[], "Periods of the CPU quota that are over."),
    (
        Some(Cpu),
        Counter,
        "container_cpu_cfs_throttled_periods_total",
        &[],
        "Periods in which the quota ran out.",
    ),
    (
        Some(Cpu),
        Counter,
        "container_cpu_cfs_throttled_seconds_total",
        &[],
        "Time spent throttled, in seconds.",
    ),
    (Some(Memory), Gauge, "container_memory_usage_bytes", &[], "Memory in use, with all of the page cache."),
    (
        Some(Memory),
        Gauge,
        "container_memory_working_set_bytes",
        &[],
        "Memory that cannot be reclaimed easily.",
    ),
    (Some(Memory), Gauge, "container_memory_rss", &[], "Anonymous memory in bytes."),
    (Some(Memory), Gauge, "container_memory_cache", &[], "Page cache in bytes."),
    (Some(Memory), Gauge, "container_memory_mapped_file", &[], "Files mapped into memory, in bytes."),
    (Some(Memory), Gauge, "container_memory_kernel_usage", &[], "Memory of the kernel's own, in bytes."),
    (Some(Memory), Gauge, "container_memory_swap", &[], "Swap in use, in bytes."),
    (Some(Memory), Gauge, "container_memory_max_usage_bytes", &[], "Most memory that was in use at a time."),
    (Some(Memory), Counter, "container_memory_failcnt", &[], "Times that the memory limit was met."),
    (
        Some(Memory),
        Gauge,
        "container_memory_total_active_file_bytes",
        &[],
        "Page cache lately used, in bytes.",
    ),
    (
        Some(Memory),
        Gauge,
        "container_memory_total_inactive_file_bytes",
        &[],
        "Page cache not lately used, in bytes.",
    ),
    (
        Some(Memory),
        Gauge,
        "container_memory_active_anon_bytes",
        &[],
        "Anonymous memory lately used, in bytes.",
    ),
    (
        Some(Memory),
        Gauge,
        "container_memory_inactive_anon_bytes",
        &[],
        "Anonymous memory not lately used, in bytes.",
    ),
    (
        Some(Memory),
        Gauge,
        "container_memory_anon_thp_bytes",
        &[],
        "Anonymous memory in transparent huge pages.",
    ),
    (
        Some(Memory),
        Gauge,
        "container_memory_shmem_thp_bytes",
        &[],
        "Shared memory in transparent huge pages.",
    ),
    (Some(Memory), Gauge, "container_memory_file_thp_bytes", &[], "Page cache in transparent huge pages."),
    (
        Some(Memory),
        Counter,
        "container_memory_failures_total",
        &["failure_type", "scope"],
        "Page faults, all (pgfault) and those that waited for a device (pgmajfault).",
    ),
    (
        Some(Oom),
        Counter,
        "container_oom_events_total",
        &[],
        "Processes that the kernel killed for want of memory.",
    ),
    (Some(Network), Counter, "container_network_receive_bytes_total", &["interface"], "Bytes received."),
    (Some(Network), Counter, "container_network_receive_packets_total", &["interface"], "Packets received."),
    (
        Some(Network),
        Counter,
        "container_network_receive_packets_dropped_total",
        &["interface"],
        "Packets that came and were dropped.",
    ),
    (
        Some(Network),
        Counter,
        "container_network_receive_errors_total",
        &["interface"],
        "Errors while receiving.",
    ),
    (Some(Network), Counter, "container_network_transmit_bytes_total", &["interface"], "Bytes sent."),
    (Some(Network), Counter, "container_network_transmit_packets_total", &["interface"], "Packets sent."),
    (
        Some(Network),
        Counter,
        "container_network_transmit_packets_dropped_total",
        &["interface"],
        "Packets that were to be sent and were dropped.",
    ),
    (
        Some(Network),
        Counter,
        "container_network_transmit_errors_total",
        &["interface"],
        "Errors while sending.",
    ),
    (Some(Disk), Gauge, "container_fs_usage_bytes", &["device"], "Space of the writable layer in bytes."),
    (
        Some(Disk),
        Gauge,
        "container_fs_limit_bytes",
        &["device"],
        "Size of the filesystem of the writable layer.",
    ),
    (Some(Disk), Gauge, "container_fs_inodes_total", &["device"], "Inodes of that filesystem."),
    (Some(Disk), Gauge, "container_fs_inodes_free", &["device"], "Inodes of that filesystem that are free."),
    (Some(DiskIo), Counter, "container_fs_reads_bytes_total", &["device"], "Bytes read from the device."),
    (Some(DiskIo), Counter, "container_fs_reads_total", &["device"], "Reads from the device."),
    (Some(DiskIo), Counter, "container_fs_writes_bytes_total", &["device"], "Bytes written to the device."),
    (Some(DiskIo), Counter, "container_fs_writes_total", &["device"], "Writes to the device."),
    (
        Some(DiskIo),
        Counter,
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        "Bytes read from and written to the device.",
    ),
    (Some(HugeTlb), Gauge, "container_hugetlb_usage_bytes", &["pagesize"], "Huge pages in use, in bytes."),
    (
        Some(HugeTlb),
        Gauge,
        "container_hugetlb_max_usage_bytes",
        &["pagesize"],
        "Most bytes in huge pages that were in use at a time (cgroup v1).",
    ),
    (Some(Process), Gauge, "container_processes", &[], "Processes."),
    (Some(Process), Gauge, "container_threads", &[], "Threads."),
    (Some(Process), Gauge, "container_threads_max", &[], "Most threads that may be there; 0 for no limit."),
    (Some(Process), Gauge, "container_file_descriptors", &[], "Open files of all processes."),
    (Some(Process), Gauge, "container_sockets", &[], "Open sockets of all processes."),
    (Some(Process), Gauge, "container_ulimits_soft", &["ulimit"], "Soft limits of the first process."),
    (Some(Spec), Gauge, "container_start_time_seconds", &[], "Start in seconds since the epoch."),
    (Some(Spec), Gauge, "container_spec_cpu_period", &[], "Period of the CPU quota in microseconds."),
    (Some(Spec), Gauge, "container_spec_cpu_quota", &[], "CPU quota in microseconds a period."),
    (Some(Spec), Gauge, "container_spec_cpu_shares", &[], "Weight against other containers."),
    (Some(Spec), Gauge, "container_spec_memory_limit_bytes", &[], "Memory limit; 0 for none."),
    (
        Some(Spec),
        Gauge,
        "container_spec_memory_reservation_limit_bytes",
        &[],
        "Memory that is left to it when there is little; 0 for none.",
    ),
    (
        Some(Spec),
        Gauge,
        "container_spec_memory_swap_limit_bytes",
        &[],
        "Limit on memory and swap; 0 for none.",
    ),
    (
        Some(Pressure),
        Counter,
        "container_pressure_cpu_waiting_seconds_total",
        &[],
        "Time in which a task waited for a CPU.",
    ),
    (
        Some(Pressure),
        Counter,
        "container_pressure_cpu_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for a CPU.",
    ),
    (
        Some(Pressure),
        Counter,
        "container_pressure_memory_waiting_seconds_total",
        &[],
        "Time in which a task waited for memory.",
    ),
    (
        Some(Pressure),
        Counter,
        "container_pressure_memory_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for memory.",
    ),
    (
        Some(Pressure),
        Counter,
        "container_pressure_io_waiting_seconds_total",
        &[],
        "Time in which a task waited for a device.",
    ),
    (
        Some(Pressure),
        Counter,
        "container_pressure_io_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for a device.",
    ),
];

/// All metrics by name.
pub(super) static METRICS: LazyLock<HashMap<&'static str, Descriptor>> = LazyLock::new(|| {
    let one = |(group, kind, name, labels, help): &Row| {
        (*name, Descriptor { group: *group, name, kind: *kind, labels, help })
    };
    ROWS.iter().map(one).collect()
});

impl Descriptor {
    pub(super) fn cri(&self) -> v1::MetricDescriptor {
        let labels = BASE_LABELS.iter().chain(self.labels);
        v1::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: labels.map(|l| (*l).to_owned()).collect(),
        }
    }
}

/// Descriptors of what is told when `groups` are, in the order of the table.
pub(super) fn descriptors(groups: &[MetricGroup]) -> Vec<v1::MetricDescriptor> {
    let told = ROWS.iter().filter(|(group, ..)| group.is_none_or(|g| groups.contains(&g)));
    told.filter_map(|(_, _, name, ..)| METRICS.get(name)).map(Descriptor::cri).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_as_prometheus_wants_them() {
        assert_eq!(METRICS.len(), ROWS.len());
        for descriptor in METRICS.values() {
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(descriptor.name.starts_with("container_") && descriptor.name.chars().all(plain));
            assert!(descriptor.labels.iter().all(|l| !BASE_LABELS.contains(l)), "{}", descriptor.name);
            let total = descriptor.name.ends_with("_total");
            let counter = descriptor.kind == Kind::Counter;
            // These two are called as they are since cAdvisor's first days.
            let odd = ["container_fs_inodes_total", "container_memory_failcnt"].contains(&descriptor.name);
            assert!(total == counter || odd, "{}", descriptor.name);
        }
    }

    #[test]
    fn groups_choose() {
        let names =
            |groups: &[MetricGroup]| descriptors(groups).into_iter().map(|d| d.name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["container_last_seen"]);
        assert_eq!(names(&[Oom]), ["container_last_seen", "container_oom_events_total"]);
        assert_eq!(names(&MetricGroup::ALL).len(), ROWS.len());
    }
}
