//! Changing the limits of a cgroup that is in use: all of them, or none.

use crate::{Cgroup, Error, Hierarchies, Layout, Result, file_error};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Limits to set; what is `None` or empty stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Weight against other cgroups, in v1's shares (2 to 262144; 1024 is the kernel's default).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds of a period.
    pub cpu_period: Option<u64>,
    /// CPUs, as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// NUMA nodes, as `0-1`.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory; -1 for no limit.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit. Ignored where the kernel does not account swap.
    pub memory_swap: Option<i64>,
    /// Bytes of huge pages by their size (`2MB`).
    pub hugepages: BTreeMap<String, u64>,
    /// Files of cgroup v2 and what to write to them.
    pub unified: BTreeMap<String, String>,
}

/// Limits that were set, and what was there before.
#[derive(Debug)]
#[must_use = "revert it when the change as a whole fails"]
pub struct Applied {
    before: Vec<(PathBuf, String)>,
}

impl Applied {
    /// Puts the earlier limits back, newest first.
    ///
    /// # Errors
    ///
    /// The first that the kernel refuses; the others are put back all the same.
    pub fn revert(self) -> Result<()> {
        let mut result = Ok(());
        for (file, old) in self.before.iter().rev() {
            let written = write(file, old);
            result = result.and(written);
        }
        result
    }
}

impl Cgroup {
    /// Sets `limits`. When one is refused, those set before it are put back.
    ///
    /// # Errors
    ///
    /// [`Error::BelowUsage`] for a memory limit below what is in use: the kernel would kill;
    /// [`Error::NoController`] for a limit that no controller of this host enforces;
    /// [`Error::File`] with the kernel's refusal.
    pub fn set_limits(&self, hierarchies: &Hierarchies, limits: &Limits) -> Result<Applied> {
        let mut applied = Applied { before: Vec::new() };
        for (file, value) in self.writes(hierarchies, limits)? {
            let old = read(&file)?;
            if old == value {
                continue;
            }
            if let Err(error) = write(&file, &value) {
                // What cannot be put back is worth less than the reason of the refusal.
                let _partly = applied.revert();
                return Err(error);
            }
            applied.before.push((file, old));
        }
        Ok(applied)
    }

    fn writes(&self, hierarchies: &Hierarchies, limits: &Limits) -> Result<Vec<(PathBuf, String)>> {
        let dir = |controller: &'static str| {
            let dir = self.controller_dir(hierarchies, controller);
            dir.filter(|d| d.is_dir())
                .ok_or_else(|| Error::NoController { controller, path: self.path().to_owned() })
        };
        let v2 = hierarchies.layout() == Layout::V2;
        let mut all = Vec::new();
        if limits.cpu_shares.is_some() || limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            let dir = dir("cpu")?;
            all.extend(if v2 { cpu_v2(&dir, limits)? } else { cpu_v1(&dir, limits)? });
        }
        for (name, value) in [("cpus", &limits.cpuset_cpus), ("mems", &limits.cpuset_mems)] {
            if let Some(value) = value {
                all.push((dir("cpuset")?.join(format!("cpuset.{name}")), value.clone()));
            }
        }
        if limits.memory.is_some() || limits.memory_swap.is_some() {
            let dir = dir("memory")?;
            all.extend(if v2 { self.memory_v2(&dir, limits)? } else { memory_v1(&dir, limits)? });
        }
        for (size, bytes) in &limits.hugepages {
            let file = format!("hugetlb.{size}.{}", if v2 { "max" } else { "limit_in_bytes" });
            all.push((dir("hugetlb")?.join(file), bytes.to_string()));
        }
        for (file, value) in &limits.unified {
            if !v2 || !is_plain_setting(file) {
                return Err(Error::NotASetting { file: file.clone() });
            }
            all.push((dir("unified")?.join(file), value.clone()));
        }
        Ok(all)
    }

    fn memory_v2(&self, dir: &Path, limits: &Limits) -> Result<Vec<(PathBuf, String)>> {
        let mut all = Vec::new();
        let now = read(&dir.join("memory.max"))?;
        let limit = match limits.memory {
            Some(limit) => limit,
            None => now.parse().unwrap_or(-1),
        };
        if let Some(asked) = limits.memory {
            let usage: u64 = read(&dir.join("memory.current"))?.parse().unwrap_or(0);
            if u64::try_from(asked).is_ok_and(|asked| asked < usage) {
                return Err(Error::BelowUsage { path: self.path().to_owned(), limit: asked, usage });
            }
            all.push((dir.join("memory.max"), bytes_v2(asked)));
        }
        let swap = dir.join("memory.swap.max");
        if let Some(both) = limits.memory_swap
            && swap.exists()
        {
            let only = if both < 0 || limit < 0 { both.min(0) } else { (both - limit).max(0) };
            all.push((swap, bytes_v2(only)));
        }
        Ok(all)
    }
}

/// A file of a controller, and no path: the files of the hierarchy itself (`cgroup.procs`) stay ours.
fn is_plain_setting(file: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    file.contains('.') && !file.starts_with('.') && !file.starts_with("cgroup.") && file.chars().all(plain)
}

fn bytes_v2(bytes: i64) -> String {
    if bytes < 0 { "max".to_owned() } else { bytes.to_string() }
}

/// The weight of cgroup v2 (1 to 10000) that stands for v1's shares, as every OCI runtime reckons it.
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpu_v2(dir: &Path, limits: &Limits) -> Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        all.push((dir.join("cpu.weight"), weight(shares).to_string()));
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let file = dir.join("cpu.max");
        let now = read(&file)?;
        let (quota, period) = now.split_once(' ').unwrap_or((&now, "100000"));
        let quota = limits.cpu_quota.map_or_else(|| quota.to_owned(), bytes_v2);
        let period = limits.cpu_period.map_or_else(|| period.to_owned(), |p| p.to_string());
        all.push((file, format!("{quota} {period}")));
    }
    Ok(all)
}

fn cpu_v1(dir: &Path, limits: &Limits) -> Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        all.push((dir.join("cpu.shares"), shares.to_string()));
    }
    let (quota, period) = (dir.join("cpu.cfs_quota_us"), dir.join("cpu.cfs_period_us"));
    let old: i64 = if quota.exists() { read(&quota)?.parse().unwrap_or(-1) } else { -1 };
    let new = limits.cpu_quota.map(|q| (quota, q.to_string()));
    let period = limits.cpu_period.map(|p| (period, p.to_string()));
    // Each write alone must not exceed what the parent allows: the step in between is the smaller one.
    let quota_first = match (limits.cpu_quota, limits.cpu_period) {
        (Some(q), _) if q < 0 => true,
        (Some(_), _) if old < 0 => false,
        (Some(q), _) => q < old,
        (None, _) => false,
    };
    if quota_first {
        all.extend(new.into_iter().chain(period));
    } else {
        all.extend(period.into_iter().chain(new));
    }
    Ok(all)
}

/// Memory must never exceed memory and swap together: who goes first depends on the direction.
fn memory_v1(dir: &Path, limits: &Limits) -> Result<Vec<(PathBuf, String)>> {
    let (file, both) = (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
    let old: u64 = read(&file)?.parse().unwrap_or(u64::MAX);
    let grows = limits.memory.is_some_and(|new| u64::try_from(new).is_ok_and(|new| new > old) || new < 0);
    let memory = limits.memory.map(|bytes| (file, bytes.to_string()));
    let swap = limits.memory_swap.filter(|_| both.exists()).map(|bytes| (both, bytes.to_string()));
    Ok(if grows {
        swap.into_iter().chain(memory).collect()
    } else {
        memory.into_iter().chain(swap).collect()
    })
}

fn read(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).map_err(file_error("read", file))?;
    Ok(text.trim_end().to_owned())
}

fn write(file: &Path, value: &str) -> Result<()> {
    std::fs::write(file, value).map_err(|source| Error::File {
        call: "write",
        path: format!("{} ({value})", file.display()).into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (2048, 79), (262_144, 10_000), (0, 1)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn only_files_of_controllers_are_settings() {
        for good in ["memory.high", "cpu.weight", "io.max", "hugetlb.2MB.max"] {
            assert!(is_plain_setting(good), "{good}");
        }
        for bad in ["cgroup.procs", "../memory.max", "memory/max", "memory", ".x", "a b.c", ""] {
            assert!(!is_plain_setting(bad), "{bad}");
        }
    }

    fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), format!("{text}\n")).unwrap();
        }
        dir
    }

    fn names(writes: &[(PathBuf, String)]) -> Vec<String> {
        let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        writes.iter().map(|(p, v)| format!("{}={v}", name(p))).collect()
    }

    #[test]
    fn memory_and_swap_are_written_in_the_order_that_the_kernel_takes() {
        let dir = dir_with(&[("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "2000")]);
        let both = |memory, swap| {
            let limits = Limits { memory: Some(memory), memory_swap: Some(swap), ..Limits::default() };
            names(&memory_v1(dir.path(), &limits).unwrap())
        };
        let (memory, swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        assert_eq!(both(5000, 6000), [format!("{swap}=6000"), format!("{memory}=5000")]);
        assert_eq!(both(500, 600), [format!("{memory}=500"), format!("{swap}=600")]);
        assert_eq!(both(-1, -1), [format!("{swap}=-1"), format!("{memory}=-1")]);
    }

    #[test]
    fn cpu_time_is_written_in_the_order_that_the_parent_allows() {
        let order = |old: &str, quota, period| {
            let dir = dir_with(&[("cpu.cfs_quota_us", old), ("cpu.cfs_period_us", "100000")]);
            let limits = Limits { cpu_quota: Some(quota), cpu_period: Some(period), ..Limits::default() };
            let writes = names(&cpu_v1(dir.path(), &limits).unwrap());
            writes.iter().map(|w| w.contains("quota")).collect::<Vec<_>>()
        };
        assert_eq!(order("50000", 20000, 50000), [true, false]);
        assert_eq!(order("50000", 90000, 50000), [false, true]);
        assert_eq!(order("-1", 90000, 50000), [false, true]);
        assert_eq!(order("50000", -1, 50000), [true, false]);
    }

    #[test]
    fn cpu_max_keeps_what_is_not_said() {
        let dir = dir_with(&[("cpu.max", "max 100000")]);
        let max = |quota, period| {
            let limits = Limits { cpu_quota: quota, cpu_period: period, ..Limits::default() };
            names(&cpu_v2(dir.path(), &limits).unwrap())
        };
        assert_eq!(max(Some(5000), None), ["cpu.max=5000 100000"]);
        assert_eq!(max(None, Some(50000)), ["cpu.max=max 50000"]);
        assert_eq!(max(Some(-1), Some(7)), ["cpu.max=max 7"]);
    }
}
