//! What a cgroup uses: CPU time, memory, swap, processes, pressure.

use crate::{Cgroup, Error, Hierarchies, Layout, Result, file_error};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// More than any statistics file of the kernel holds.
const MAX_FILE: usize = 64 << 10;

/// What a cgroup and everything below it uses, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time in nanoseconds since the cgroup was made.
    pub cpu_ns: Option<u64>,
    /// Memory and swap.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Waiting for CPU (v2).
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// Waiting for devices (v2).
    pub io_pressure: Option<Pressure>,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All memory that is charged, with file caches.
    pub usage: u64,
    /// Usage without the file cache that the kernel would give up first; what the kubelet evicts by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults since the cgroup was made.
    pub page_faults: u64,
    /// Those of them that waited for a device.
    pub major_page_faults: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// Swap in use; `None` where the kernel does not account it.
    pub swap: Option<u64>,
    /// The limit on swap alone, if there is one.
    pub swap_limit: Option<u64>,
}

/// Pressure stall information (PSI).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// Share of time in percent over windows of 10, 60 and 300 seconds, and the sum.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
}

/// The open statistics files of one cgroup: reading them again looks no path up.
///
/// May be used by several threads at once. Reading fails once the cgroup is removed.
#[derive(Debug)]
pub struct StatsReader {
    layout: Layout,
    cpu: Option<Source>,
    usage: Option<Source>,
    detail: Option<Source>,
    limit: Option<Source>,
    swap: Option<Source>,
    swap_limit: Option<Source>,
    pids: Option<Source>,
    pressure: [Option<Source>; 3],
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: File,
}

impl Source {
    fn read(&self) -> Result<String> {
        let mut text = vec![0; 4096];
        let mut filled = 0;
        loop {
            match self.file.read_at(&mut text[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) => return Err(file_error("read", &self.path)(e)),
            }
            if filled == text.len() {
                if filled >= MAX_FILE {
                    break;
                }
                text.resize(filled * 2, 0);
            }
        }
        text.truncate(filled);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn number(&self) -> Result<Option<u64>> {
        Ok(number_in(&self.read()?))
    }
}

impl Cgroup {
    /// Opens the statistics files of this cgroup.
    ///
    /// # Errors
    ///
    /// [`Error::NoController`] when it is in no hierarchy that counts anything: it is gone.
    pub fn stats_reader(&self, hierarchies: &Hierarchies) -> Result<StatsReader> {
        let layout = hierarchies.layout();
        let open = |controller: &str, file: &str| -> Option<Source> {
            let path = self.controller_dir(hierarchies, controller)?.join(file);
            File::open(&path).ok().map(|file| Source { path, file })
        };
        let names: [(&str, &str); 7] = match layout {
            Layout::V2 => [
                ("cpu", "cpu.stat"),
                ("memory", "memory.current"),
                ("memory", "memory.stat"),
                ("memory", "memory.max"),
                ("memory", "memory.swap.current"),
                ("memory", "memory.swap.max"),
                ("pids", "pids.current"),
            ],
            Layout::V1 => [
                ("cpuacct", "cpuacct.usage"),
                ("memory", "memory.usage_in_bytes"),
                ("memory", "memory.stat"),
                ("memory", "memory.limit_in_bytes"),
                ("memory", "memory.memsw.usage_in_bytes"),
                ("memory", "memory.memsw.limit_in_bytes"),
                ("pids", "pids.current"),
            ],
        };
        let [cpu, usage, detail, limit, swap, swap_limit, pids] =
            names.map(|(controller, file)| open(controller, file));
        if cpu.is_none() && usage.is_none() && pids.is_none() {
            return Err(Error::NoController { controller: "cpu", path: self.path().to_owned() });
        }
        let pressure = ["cpu", "memory", "io"].map(|what| match layout {
            Layout::V2 => open(what, &format!("{what}.pressure")),
            Layout::V1 => None,
        });
        Ok(StatsReader { layout, cpu, usage, detail, limit, swap, swap_limit, pids, pressure })
    }
}

impl StatsReader {
    /// Reads everything once.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the cgroup was removed meanwhile.
    pub fn read(&self) -> Result<Stats> {
        let cpu_ns = self.cpu_ns()?;
        let number = |source: &Option<Source>| source.as_ref().map_or(Ok(None), Source::number);
        // Not accounting pressure (psi=0) answers EOPNOTSUPP: then there is none to show.
        let pressure = |n: usize| {
            let text = self.pressure[n].as_ref().and_then(|s: &Source| s.read().ok());
            text.and_then(|text| parse_pressure(&text))
        };
        Ok(Stats {
            cpu_ns,
            memory: self.memory()?,
            pids: number(&self.pids)?,
            cpu_pressure: pressure(0),
            memory_pressure: pressure(1),
            io_pressure: pressure(2),
        })
    }

    /// Reads the CPU time alone, in nanoseconds since the cgroup was made.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the cgroup was removed meanwhile.
    pub fn cpu_ns(&self) -> Result<Option<u64>> {
        Ok(match (&self.cpu, self.layout) {
            (Some(source), Layout::V1) => source.number()?,
            (Some(source), Layout::V2) => {
                field(&source.read()?, "usage_usec").map(|us| us.saturating_mul(1000))
            }
            (None, _) => None,
        })
    }

    fn memory(&self) -> Result<Option<Memory>> {
        let (Some(usage), Some(detail)) = (&self.usage, &self.detail) else { return Ok(None) };
        let Some(usage) = usage.number()? else { return Ok(None) };
        let detail = detail.read()?;
        let number = |source: &Option<Source>| source.as_ref().map_or(Ok(None), Source::number);
        let (limit, swap, swap_limit) =
            (number(&self.limit)?, number(&self.swap)?, number(&self.swap_limit)?);
        Ok(Some(memory(self.layout, usage, &detail, limit, swap, swap_limit)))
    }
}

/// v1 says "no limit" with the largest number of pages.
const NO_LIMIT_V1: u64 = 1 << 62;

fn memory(
    layout: Layout,
    usage: u64,
    detail: &str,
    limit: Option<u64>,
    swap: Option<u64>,
    swap_limit: Option<u64>,
) -> Memory {
    let get =
        |v1: &str, v2: &str| field(detail, if layout == Layout::V1 { v1 } else { v2 }).unwrap_or_default();
    let limit = limit.filter(|l| *l < NO_LIMIT_V1);
    let swap_limit = swap_limit.filter(|l| *l < NO_LIMIT_V1);
    let (swap, swap_limit) = match layout {
        // v1 counts memory and swap together.
        Layout::V1 => (
            swap.map(|both| both.saturating_sub(usage)),
            swap_limit.map(|both| both.saturating_sub(limit.unwrap_or_default())),
        ),
        Layout::V2 => (swap, swap_limit),
    };
    Memory {
        usage,
        working_set: usage.saturating_sub(get("total_inactive_file", "inactive_file")),
        rss: get("total_rss", "anon"),
        page_faults: get("total_pgfault", "pgfault"),
        major_page_faults: get("total_pgmajfault", "pgmajfault"),
        limit,
        swap,
        swap_limit,
    }
}

/// The number that a file consists of; `None` for `max`.
pub(crate) fn number_in(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number behind `name` in a file of `name number` lines.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value)
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(kind))?;
        let get = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let percent = |name: &str| get(name).and_then(|v| v.parse().ok());
        Some(Stall {
            avg10: percent("avg10")?,
            avg60: percent("avg60")?,
            avg300: percent("avg300")?,
            total_us: get("total")?.trim().parse().ok()?,
        })
    };
    // "full" of the CPU came with Linux 5.13.
    Some(Pressure { some: stall("some ")?, full: stall("full ").unwrap_or_default() })
}

impl Error {
    /// Whether it says that the cgroup does not exist (any more).
    pub fn is_gone(&self) -> bool {
        const ENODEV: i32 = 19;
        match self {
            Self::File { source, .. } => {
                source.raw_os_error() == Some(ENODEV) || source.kind() == std::io::ErrorKind::NotFound
            }
            Self::NoController { .. } => true,
            _ => false,
        }
    }
}

/// Bytes sent and received by each interface, as `/proc/<pid>/net/dev` of a process shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name of the link.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors while receiving.
    pub rx_errors: u64,
    /// Packets that came and were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors while sending.
    pub tx_errors: u64,
    /// Packets that were to be sent and were dropped.
    pub tx_dropped: u64,
}

/// Interfaces of the network namespace of process `pid`, but for loopback.
///
/// # Errors
///
/// When the process is gone.
pub fn interfaces(pid: i32) -> Result<Vec<Interface>> {
    let path = Path::new("/proc").join(pid.to_string()).join("net/dev");
    let text = std::fs::read_to_string(&path).map_err(file_error("read", &path))?;
    Ok(text.lines().filter_map(parse_interface).filter(|i| i.name != "lo").collect())
}

fn parse_interface(line: &str) -> Option<Interface> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
    // Received: bytes packets errs drop fifo frame compressed multicast; sent: bytes packets errs ...
    let at = |n: usize| numbers.get(n).copied();
    Some(Interface {
        name: name.trim().to_owned(),
        rx_bytes: at(0)?,
        rx_packets: at(1)?,
        rx_errors: at(2)?,
        rx_dropped: at(3)?,
        tx_bytes: at(8)?,
        tx_packets: at(9)?,
        tx_errors: at(10)?,
        tx_dropped: at(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_set_leaves_out_idle_file_cache() {
        let v2 = "anon 100\nfile 50\ninactive_file 30\npgfault 7\npgmajfault 2\n";
        let got = memory(Layout::V2, 200, v2, Some(1000), Some(5), None);
        let expected = Memory {
            usage: 200,
            working_set: 170,
            rss: 100,
            page_faults: 7,
            major_page_faults: 2,
            limit: Some(1000),
            swap: Some(5),
            swap_limit: None,
        };
        assert_eq!(got, expected);
        let v1 = "inactive_file 1\ntotal_inactive_file 300\ntotal_rss 9\ntotal_pgfault 4\n";
        let got = memory(Layout::V1, 200, v1, Some(9_223_372_036_854_771_712), Some(260), Some(500));
        assert_eq!((got.working_set, got.rss, got.limit), (0, 9, None));
        assert_eq!((got.swap, got.swap_limit), (Some(60), Some(500)));
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=1234\n\
                    full avg10=0.50 avg60=0.00 avg300=0.00 total=99\n";
        let got = parse_pressure(text).unwrap();
        assert_eq!((got.some.avg10, got.some.total_us, got.full.total_us), (1.5, 1234, 99));
        let old = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        assert_eq!(parse_pressure(old).unwrap().full, Stall::default());
        assert_eq!(parse_pressure(""), None);
    }

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive                            |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs\n\
                    \x20   lo:     1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                    \x20 eth0:   100 2 3 4 5 6 7 8 900 10 11 12 13 14 15 16\n";
        let all: Vec<Interface> = text.lines().filter_map(parse_interface).collect();
        assert_eq!(all.len(), 2);
        let eth0 = Interface {
            name: "eth0".into(),
            rx_bytes: 100,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 900,
            tx_packets: 10,
            tx_errors: 11,
            tx_dropped: 12,
        };
        assert_eq!(all[1], eth0);
    }
}
