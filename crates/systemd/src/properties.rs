//! Limits of a pod as properties of its unit (systemd.resource-control(5)).

use crate::{Error, Result};
use gantry_cgroup::{Limits, weight};
use zbus::Variant;

/// Name and value of a unit's property.
pub type Property = (&'static str, Variant<'static>);

/// No limit, as systemd writes it.
const INFINITY: u64 = u64::MAX;

/// CPU time is rounded up to this many microseconds per second: systemd keeps whole percents, and what is
/// below the unit may ask for all of it.
const PERCENT: u64 = 10_000;

/// Highest CPU or node number that is understood.
const MAX_NUMBER: usize = 8191;

/// The properties that `limits` are. The number of tasks is limited only where that is asked for, not by
/// the default of the host.
///
/// # Errors
///
/// [`Error::NoProperty`] for what systemd does not manage (huge pages, settings of other controllers);
/// [`Error::BadLimit`] for a value that is not understood.
pub(crate) fn of(limits: &Limits) -> Result<Vec<Property>> {
    if let Some(size) = limits.hugepages.keys().next() {
        return Err(Error::NoProperty(format!("hugetlb.{size}.max")));
    }
    let mut all: Vec<Property> = vec![("TasksMax", INFINITY.into())];
    all.extend(limits.cpu_shares.map(|s| ("CPUWeight", weight(s).into())));
    if let Some(quota) = limits.cpu_quota {
        let period = limits.cpu_period.unwrap_or(100_000).max(1);
        all.push(("CPUQuotaPerSecUSec", per_second(quota, period).into()));
        all.push(("CPUQuotaPeriodUSec", period.into()));
    }
    for (name, list) in [("AllowedCPUs", &limits.cpuset_cpus), ("AllowedMemoryNodes", &limits.cpuset_mems)] {
        if let Some(list) = list {
            all.push((name, mask(name, list)?.into()));
        }
    }
    all.extend(limits.memory.map(|bytes| ("MemoryMax", unlimited(bytes).into())));
    if let Some(both) = limits.memory_swap {
        let memory = limits.memory.unwrap_or(-1);
        let swap = if both < 0 || memory < 0 { -1 } else { (both - memory).max(0) };
        all.push(("MemorySwapMax", unlimited(swap).into()));
    }
    for (file, value) in &limits.unified {
        let name = match file.as_str() {
            "cpu.weight" => "CPUWeight",
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.max" => "MemoryMax",
            "memory.min" => "MemoryMin",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            _ => return Err(Error::NoProperty(file.clone())),
        };
        let number = match value.as_str() {
            "max" => INFINITY,
            digits => digits.parse().map_err(|_| Error::BadLimit { name, value: value.clone() })?,
        };
        all.retain(|(n, _)| *n != name);
        all.push((name, number.into()));
    }
    Ok(all)
}

fn unlimited(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(INFINITY)
}

fn per_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Ok(quota) => (quota.saturating_mul(1_000_000) / period).div_ceil(PERCENT).saturating_mul(PERCENT),
        Err(_) => INFINITY,
    }
}

/// A list such as `0-2,7` as bits, the lowest first.
fn mask(name: &'static str, list: &str) -> Result<Vec<u8>> {
    let bad = || Error::BadLimit { name, value: list.to_owned() };
    let mut bits = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n <= MAX_NUMBER);
        let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
        if first > last {
            return Err(bad());
        }
        bits.resize(bits.len().max(last / 8 + 1), 0u8);
        (first..=last).for_each(|n| bits[n / 8] |= 1 << (n % 8));
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(limits: &Limits, name: &str) -> Option<u64> {
        let all = of(limits).unwrap();
        let found: Vec<_> = all.into_iter().filter(|(n, _)| *n == name).collect();
        assert!(found.len() < 2, "{name} is there once");
        found.into_iter().next().and_then(|(_, value)| u64::try_from(value).ok())
    }

    #[test]
    fn without_limits_the_hosts_default_of_tasks_is_lifted() {
        assert_eq!(find(&Limits::default(), "TasksMax"), Some(INFINITY));
        assert_eq!(of(&Limits::default()).unwrap().len(), 1);
    }

    #[test]
    fn limits_become_properties() {
        let mut limits = Limits {
            cpu_shares: Some(2048),
            cpu_quota: Some(150_500),
            cpu_period: Some(100_000),
            memory: Some(64 << 20),
            memory_swap: Some(80 << 20),
            ..Limits::default()
        };
        limits.unified.insert("memory.high".into(), "1000".into());
        limits.unified.insert("pids.max".into(), "70".into());
        for (name, value) in [
            ("CPUWeight", 79),
            ("CPUQuotaPerSecUSec", 1_510_000),
            ("CPUQuotaPeriodUSec", 100_000),
            ("MemoryMax", 64 << 20),
            ("MemorySwapMax", 16 << 20),
            ("MemoryHigh", 1000),
            ("TasksMax", 70),
        ] {
            assert_eq!(find(&limits, name), Some(value), "{name}");
        }
        let none =
            Limits { cpu_quota: Some(-1), memory: Some(-1), memory_swap: Some(-1), ..Limits::default() };
        for name in ["CPUQuotaPerSecUSec", "MemoryMax", "MemorySwapMax"] {
            assert_eq!(find(&none, name), Some(INFINITY), "{name}");
        }
    }

    #[test]
    fn lists_become_bits() {
        assert_eq!(mask("x", "0-2,7").unwrap(), [0b1000_0111]);
        assert_eq!(mask("x", "9").unwrap(), [0, 2]);
        for bad in ["", "2-1", "a", "1-", "99999", "1,,2"] {
            assert!(mask("x", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_systemd_does_not_manage_is_refused() {
        let mut limits = Limits::default();
        limits.unified.insert("hugetlb.2MB.max".into(), "1".into());
        assert!(matches!(of(&limits), Err(Error::NoProperty(_))));
        let mut limits = Limits::default();
        limits.unified.insert("memory.max".into(), "lots".into());
        assert!(matches!(of(&limits), Err(Error::BadLimit { name: "MemoryMax", .. })));
        let mut limits = Limits::default();
        limits.hugepages.insert("2MB".into(), 1);
        assert!(of(&limits).unwrap_err().to_string().contains("hugetlb.2MB.max"));
    }
}
