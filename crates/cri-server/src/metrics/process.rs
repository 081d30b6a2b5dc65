//! What the daemon itself uses, by the names that Prometheus gives such metrics.

use super::Maker;
use prometheus::Gauge;
use std::sync::Mutex;

/// Gauges about this process, read from `/proc/self` (proc(5)).
///
/// CPU time only grows and is a counter for who reads it; it is set from what the kernel counts.
#[derive(Debug)]
pub(super) struct Process {
    cpu: prometheus::Counter,
    /// Seconds that `cpu` has; a counter can only be added to.
    told: Mutex<f64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start_time: Gauge,
}

impl Process {
    pub(super) fn new(maker: &mut Maker) -> prometheus::Result<Self> {
        let cpu = maker.add(prometheus::Counter::new(
            "process_cpu_seconds_total",
            "CPU time of the daemon, user and system",
        ))?;
        let mut gauge = |name: &str, help: &str| maker.add(Gauge::new(name, help));
        Ok(Self {
            cpu,
            told: Mutex::default(),
            resident: gauge("process_resident_memory_bytes", "memory of the daemon that is in RAM")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "address space of the daemon")?,
            open_fds: gauge("process_open_fds", "open file descriptors of the daemon")?,
            max_fds: gauge("process_max_fds", "most file descriptors that the daemon may open")?,
            threads: gauge("process_threads", "threads of the daemon")?,
            start_time: gauge("process_start_time_seconds", "start of the daemon, Unix time")?,
        })
    }

    /// Reads everything anew. What the kernel does not tell keeps its value.
    pub(super) fn refresh(&self) {
        let stat = std::fs::read_to_string("/proc/self/stat").ok();
        if let Some(stat) = stat.as_deref().and_then(Stat::parse) {
            let ticks = rustix::param::clock_ticks_per_second() as f64;
            let page = rustix::param::page_size() as f64;
            let seconds = stat.cpu_ticks as f64 / ticks;
            let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if seconds > *told {
                self.cpu.inc_by(seconds - *told);
                *told = seconds;
            }
            self.resident.set(stat.resident_pages as f64 * page);
            self.virtual_memory.set(stat.virtual_bytes as f64);
            self.threads.set(stat.threads as f64);
            if let Some(boot) = boot_time() {
                self.start_time.set(boot + stat.start_ticks as f64 / ticks);
            }
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            self.open_fds.set(fds.count().saturating_sub(1) as f64);
        }
        if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            self.max_fds.set(limit as f64);
        }
    }
}

/// The fields of `/proc/<pid>/stat` that are of use here.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name in the second field may hold blanks and brackets; field 3 follows the last bracket.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_last_bracket() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 7 0 1234 8192 99 18446744073709551615";
        let stat =
            Stat { cpu_ticks: 110, threads: 7, start_ticks: 1234, virtual_bytes: 8192, resident_pages: 99 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("42 (x) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_has_plausible_values() {
        let mut maker = Maker { registry: prometheus::Registry::new(), names: Vec::new() };
        let process = Process::new(&mut maker).unwrap();
        process.refresh();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let start = process.start_time.get();
        assert!(start > 1e9 && start < now + 2.0, "{start}");
        assert!(process.resident.get() > 1e5 && process.virtual_memory.get() > process.resident.get());
        assert!(process.threads.get() >= 1.0 && process.open_fds.get() >= 3.0);
        assert!(process.max_fds.get() >= process.open_fds.get());
    }
}
