//! The finer counters of a cgroup, as monitoring asks for them: read by path, since that is seldom.

use crate::stats::{field, number_in};
use crate::{Cgroup, Hierarchies, Layout};
use std::path::Path;

/// What a cgroup and everything below it used since it was made, beyond [`crate::Stats`]. What the kernel
/// does not count is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// CPU time in nanoseconds spent in user mode.
    pub cpu_user_ns: Option<u64>,
    /// CPU time in nanoseconds spent in the kernel.
    pub cpu_system_ns: Option<u64>,
    /// Periods of the CPU quota.
    pub periods: Option<u64>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Nanoseconds that tasks waited for the next period.
    pub throttled_ns: Option<u64>,
    /// Memory, by what it is for.
    pub memory: MemoryDetail,
    /// Times that a limit on memory was met.
    pub memory_failures: Option<u64>,
    /// Most bytes of memory that were in use at a time.
    pub memory_peak: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Reads and writes by device.
    pub io: Vec<DeviceIo>,
    /// Huge pages by size.
    pub huge_pages: Vec<HugePages>,
    /// Most processes and threads that may be there.
    pub pids_limit: Option<u64>,
}

/// Bytes of memory by what it is for, and faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// Page cache.
    pub cache: Option<u64>,
    /// Files mapped into memory.
    pub mapped_file: Option<u64>,
    /// The kernel's own.
    pub kernel: Option<u64>,
    /// Anonymous, lately used.
    pub active_anon: Option<u64>,
    /// Anonymous, not lately used.
    pub inactive_anon: Option<u64>,
    /// Page cache, lately used.
    pub active_file: Option<u64>,
    /// Page cache, not lately used.
    pub inactive_file: Option<u64>,
    /// Anonymous in huge pages.
    pub anon_huge: Option<u64>,
    /// Shared in huge pages (v2).
    pub shared_huge: Option<u64>,
    /// Page cache in huge pages (v2).
    pub file_huge: Option<u64>,
    /// Page faults of the cgroup alone.
    pub own_faults: Option<u64>,
    /// Those of them that waited for a device.
    pub own_major_faults: Option<u64>,
    /// Page faults with those of cgroups below.
    pub faults: Option<u64>,
    /// Those of them that waited for a device.
    pub major_faults: Option<u64>,
}

/// Reads and writes of one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// `2MB`, `1GB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// Most bytes that were in use at a time (v1).
    pub peak: Option<u64>,
}

impl Cgroup {
    /// Reads the finer counters once. Whatever is not there, also the whole cgroup, counts as not counted.
    pub fn detail(&self, hierarchies: &Hierarchies) -> Detail {
        let read = |controller: &str, file: &str| -> Option<String> {
            std::fs::read_to_string(self.controller_dir(hierarchies, controller)?.join(file)).ok()
        };
        let number = |controller: &str, file: &str| number_in(&read(controller, file)?);
        let text = |controller: &str, file: &str| read(controller, file).unwrap_or_default();
        let huge_pages = self.controller_dir(hierarchies, "hugetlb").map(|dir| huge_pages(&dir));
        let mut detail = Detail {
            huge_pages: huge_pages.unwrap_or_default(),
            pids_limit: number("pids", "pids.max"),
            ..Detail::default()
        };
        let memory = text("memory", "memory.stat");
        let cpu = text("cpu", "cpu.stat");
        detail.periods = field(&cpu, "nr_periods");
        detail.throttled_periods = field(&cpu, "nr_throttled");
        let us = |name: &str| field(&cpu, name).map(|us| us.saturating_mul(1000));
        match hierarchies.layout() {
            Layout::V1 => {
                detail.cpu_user_ns = number("cpuacct", "cpuacct.usage_user");
                detail.cpu_system_ns = number("cpuacct", "cpuacct.usage_sys");
                detail.throttled_ns = field(&cpu, "throttled_time");
                detail.memory = memory_v1(&memory, number("memory", "memory.kmem.usage_in_bytes"));
                detail.memory_failures = number("memory", "memory.failcnt");
                detail.memory_peak = number("memory", "memory.max_usage_in_bytes");
                detail.oom_kills = field(&text("memory", "memory.oom_control"), "oom_kill");
                detail.io = io_v1(
                    &text("blkio", "blkio.throttle.io_service_bytes_recursive"),
                    &text("blkio", "blkio.throttle.io_serviced_recursive"),
                );
            }
            Layout::V2 => {
                detail.cpu_user_ns = us("user_usec");
                detail.cpu_system_ns = us("system_usec");
                detail.throttled_ns = us("throttled_usec");
                detail.memory = memory_v2(&memory);
                let events = text("memory", "memory.events");
                detail.memory_failures = field(&events, "max");
                detail.oom_kills = field(&events, "oom_kill");
                detail.memory_peak = number("memory", "memory.peak");
                detail.io = io_v2(&text("io", "io.stat"));
            }
        }
        detail
    }
}

fn memory_v1(stat: &str, kernel: Option<u64>) -> MemoryDetail {
    let get = |name: &str| field(stat, name);
    MemoryDetail {
        cache: get("total_cache"),
        mapped_file: get("total_mapped_file"),
        kernel,
        active_anon: get("total_active_anon"),
        inactive_anon: get("total_inactive_anon"),
        active_file: get("total_active_file"),
        inactive_file: get("total_inactive_file"),
        anon_huge: get("total_rss_huge"),
        shared_huge: None,
        file_huge: None,
        own_faults: get("pgfault"),
        own_major_faults: get("pgmajfault"),
        faults: get("total_pgfault"),
        major_faults: get("total_pgmajfault"),
    }
}

fn memory_v2(stat: &str) -> MemoryDetail {
    let get = |name: &str| field(stat, name);
    // Before Linux 5.18 the kernel told only the parts.
    let parts = || {
        let parts = ["kernel_stack", "pagetables", "percpu", "slab"].map(get);
        parts.iter().any(Option::is_some).then(|| parts.into_iter().flatten().sum())
    };
    MemoryDetail {
        cache: get("file"),
        mapped_file: get("file_mapped"),
        kernel: get("kernel").or_else(parts),
        active_anon: get("active_anon"),
        inactive_anon: get("inactive_anon"),
        active_file: get("active_file"),
        inactive_file: get("inactive_file"),
        anon_huge: get("anon_thp"),
        shared_huge: get("shmem_thp"),
        file_huge: get("file_thp"),
        // What v2 counts, it counts with all below.
        own_faults: get("pgfault"),
        own_major_faults: get("pgmajfault"),
        faults: get("pgfault"),
        major_faults: get("pgmajfault"),
    }
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines such as `8:0 Read 4096`.
fn io_v1(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut all: Vec<DeviceIo> = Vec::new();
    for (text, in_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let Some((major, minor)) = words.next().and_then(device) else { continue };
            let (operation, value) = (words.next(), words.next().and_then(number_in).unwrap_or_default());
            let found = all.iter().position(|d| (d.major, d.minor) == (major, minor));
            let index = found.unwrap_or_else(|| {
                all.push(DeviceIo { major, minor, ..DeviceIo::default() });
                all.len() - 1
            });
            let counts = &mut all[index];
            match (operation, in_bytes) {
                (Some("Read"), true) => counts.read_bytes = value,
                (Some("Write"), true) => counts.write_bytes = value,
                (Some("Read"), false) => counts.reads = value,
                (Some("Write"), false) => counts.writes = value,
                _ => {}
            }
        }
    }
    all
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`.
fn io_v2(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (major, minor) = device(name)?;
        let get = |key: &str| {
            let value = rest.split(' ').find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
            value.and_then(number_in).unwrap_or_default()
        };
        Some(DeviceIo {
            major,
            minor,
            read_bytes: get("rbytes"),
            write_bytes: get("wbytes"),
            reads: get("rios"),
            writes: get("wios"),
        })
    };
    text.lines().filter_map(line).collect()
}

fn huge_pages(dir: &Path) -> Vec<HugePages> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|n| n.strip_prefix("hugetlb.")) else { continue };
        let size = name.strip_suffix(".current").or_else(|| name.strip_suffix(".usage_in_bytes"));
        let Some(size) = size.filter(|s| !s.contains('.')) else { continue };
        let read = |file: &str| number_in(&std::fs::read_to_string(dir.join(file)).ok()?);
        if let Some(usage) = read(&format!("hugetlb.{name}")) {
            let peak = read(&format!("hugetlb.{size}.max_usage_in_bytes"));
            all.push(HugePages { size: size.to_owned(), usage, peak });
        }
    }
    all.sort_by(|a, b| a.size.cmp(&b.size));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart() {
        let expected = [
            DeviceIo { major: 8, minor: 0, read_bytes: 4096, write_bytes: 8192, reads: 1, writes: 2 },
            DeviceIo { major: 253, minor: 1, read_bytes: 5, write_bytes: 0, reads: 3, writes: 0 },
        ];
        let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 0\n253:1 Read 5\n253:1 Write 0\nTotal 12293\n";
        let operations = "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n253:1 Read 3\nTotal 6\n";
        assert_eq!(io_v1(bytes, operations), expected);
        let v2 = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:1 rbytes=5 rios=3\n";
        assert_eq!(io_v2(v2), expected);
        assert!(io_v2("").is_empty() && io_v1("", "x y\n").is_empty());
    }

    #[test]
    fn memory_is_read_from_both_layouts() {
        let v1 = "cache 1\npgfault 2\ntotal_cache 300\ntotal_rss_huge 7\ntotal_pgfault 9\n";
        let got = memory_v1(v1, Some(11));
        assert_eq!((got.cache, got.anon_huge, got.kernel), (Some(300), Some(7), Some(11)));
        assert_eq!((got.own_faults, got.faults, got.shared_huge), (Some(2), Some(9), None));
        let v2 = "file 300\nkernel 11\nanon_thp 7\npgfault 9\nfile_thp 0\n";
        let got = memory_v2(v2);
        assert_eq!((got.cache, got.anon_huge, got.kernel), (Some(300), Some(7), Some(11)));
        assert_eq!((got.own_faults, got.faults, got.file_huge), (Some(9), Some(9), Some(0)));
        assert_eq!(memory_v2("kernel_stack 1\nslab 2\n").kernel, Some(3));
        assert_eq!(memory_v2(""), MemoryDetail::default());
    }

    #[test]
    fn huge_pages_are_read_from_both_layouts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        for (name, text) in [
            ("hugetlb.2MB.usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "6291456\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "1\n"),
            ("hugetlb.2MB.limit_in_bytes", "2\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.rsvd.current", "3\n"),
            ("hugetlb.1GB.max", "max\n"),
        ] {
            write(name, text);
        }
        let expected = [
            HugePages { size: "1GB".into(), usage: 0, peak: None },
            HugePages { size: "2MB".into(), usage: 4 << 20, peak: Some(6 << 20) },
        ];
        assert_eq!(huge_pages(dir.path()), expected);
    }
}
