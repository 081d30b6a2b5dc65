//! Limits of a container: from the CRI's fields to the OCI configuration, and to those of a running cgroup.

use super::{HostFacts, SpecError};
use gantry_cgroup::Limits;
use gantry_cri_api::v1;
use serde_json::{Map, Value, json};

/// Smallest memory limit with which an OCI runtime can start a process at all.
const MIN_MEMORY: i64 = 512 << 10;

/// Most processes and threads of one container: what a whole node had by default for decades, so that
/// one container cannot use up the numbers of all.
const PIDS_LIMIT: i64 = 32_768;

/// `asked` laid over `old`: a field that is 0 or empty says nothing (CRI: `LinuxContainerResources`).
pub(crate) fn merged(
    old: &v1::LinuxContainerResources,
    asked: &v1::LinuxContainerResources,
) -> v1::LinuxContainerResources {
    let number = |old: i64, asked: i64| if asked == 0 { old } else { asked };
    let text = |old: &String, asked: &String| if asked.is_empty() { old.clone() } else { asked.clone() };
    let mut pages = old.hugepage_limits.clone();
    pages.retain(|p| asked.hugepage_limits.iter().all(|a| a.page_size != p.page_size));
    pages.extend(asked.hugepage_limits.iter().cloned());
    let mut unified = old.unified.clone();
    unified.extend(asked.unified.clone());
    // A limit on memory and swap together that nobody asked for follows the limit on memory.
    let swap = match (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes) {
        (limit, 0) if limit != 0 && old.memory_swap_limit_in_bytes == old.memory_limit_in_bytes => 0,
        (_, swap) => number(old.memory_swap_limit_in_bytes, swap),
    };
    v1::LinuxContainerResources {
        cpu_period: number(old.cpu_period, asked.cpu_period),
        cpu_quota: number(old.cpu_quota, asked.cpu_quota),
        cpu_shares: number(old.cpu_shares, asked.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, asked.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, asked.oom_score_adj),
        cpuset_cpus: text(&old.cpuset_cpus, &asked.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &asked.cpuset_mems),
        hugepage_limits: pages,
        unified,
        memory_swap_limit_in_bytes: swap,
    }
}

/// `oom_score_adj` as this host can carry it out: without `CAP_SYS_RESOURCE` nobody lowers it, and an
/// OCI runtime fails where it has to try.
pub(crate) fn oom_score(asked: i64, host: &HostFacts) -> Result<i64, SpecError> {
    if !(-1000..=1000).contains(&asked) {
        let reason = format!("{asked} is not between -1000 and 1000 (proc(5))");
        return Err(SpecError::new("resources.oom_score_adj", reason));
    }
    let may_lower = host.bounding.iter().any(|c| c == "CAP_SYS_RESOURCE");
    Ok(if may_lower { asked } else { asked.max(0) })
}

/// What [`oci`] decided, for a cgroup that exists already.
pub(crate) fn limits(oci: &Map<String, Value>) -> Limits {
    let part = |name: &str| oci.get(name).cloned().unwrap_or_default();
    let (cpu, memory) = (part("cpu"), part("memory"));
    let text = |name: &str| cpu[name].as_str().map(str::to_owned);
    let pages = part("hugepageLimits");
    let pages = pages.as_array().into_iter().flatten();
    let unified = part("unified");
    let unified = unified.as_object().into_iter().flatten();
    Limits {
        cpu_shares: cpu["shares"].as_u64(),
        cpu_quota: cpu["quota"].as_i64(),
        cpu_period: cpu["period"].as_u64(),
        cpuset_cpus: text("cpus"),
        cpuset_mems: text("mems"),
        memory: memory["limit"].as_i64(),
        memory_swap: memory["swap"].as_i64(),
        hugepages: pages
            .filter_map(|p| Some((p["pageSize"].as_str()?.to_owned(), p["limit"].as_u64()?)))
            .collect(),
        unified: unified.filter_map(|(file, v)| Some((file.clone(), v.as_str()?.to_owned()))).collect(),
    }
}

/// `linux.resources` of the OCI configuration, without devices.
///
/// # Errors
///
/// Values that make no sense, and what no controller of this host could enforce.
pub(crate) fn oci(
    asked: &v1::LinuxContainerResources,
    host: &HostFacts,
) -> Result<Map<String, Value>, SpecError> {
    let bad = |field: &str, reason: String| SpecError::new(format!("resources.{field}"), reason);
    let mut cpu = Map::new();
    let mut put = |name: &str, value: i64, field: &str| match value {
        0 => Ok(()),
        value if value < 0 && name != "quota" => Err(bad(field, format!("{value} is negative"))),
        value => {
            cpu.insert(name.into(), json!(value));
            Ok(())
        }
    };
    put("shares", asked.cpu_shares, "cpu_shares")?;
    put("period", asked.cpu_period, "cpu_period")?;
    put("quota", asked.cpu_quota, "cpu_quota")?;
    for (name, text) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if !text.is_empty() {
            cpu.insert(name.into(), json!(text));
        }
    }
    let mut memory = Map::new();
    let limit = asked.memory_limit_in_bytes;
    if limit < -1 {
        return Err(bad("memory_limit_in_bytes", format!("{limit} is negative; -1 stands for no limit")));
    }
    if limit == -1 {
        memory.insert("limit".into(), json!(-1));
        if host.swap_accounting {
            memory.insert("swap".into(), json!(-1));
        }
    }
    if limit > 0 {
        if limit < MIN_MEMORY {
            let reason = format!("{limit} is too small for any process; use at least {MIN_MEMORY}");
            return Err(bad("memory_limit_in_bytes", reason));
        }
        memory.insert("limit".into(), json!(limit));
        let swap = asked.memory_swap_limit_in_bytes;
        if swap != 0 && swap < limit && swap != -1 {
            let reason =
                format!("{swap} is below the memory limit {limit}; it counts memory and swap together");
            return Err(bad("memory_swap_limit_in_bytes", reason));
        }
        // Without a word about swap, a limit on memory is meant as a limit on both.
        if host.swap_accounting {
            memory.insert("swap".into(), json!(if swap == 0 { limit } else { swap }));
        }
    }
    let mut all = Map::new();
    if !cpu.is_empty() {
        all.insert("cpu".into(), Value::Object(cpu));
    }
    if !memory.is_empty() {
        all.insert("memory".into(), Value::Object(memory));
    }
    // A positive one is what every runtime takes; the pod's own limit is the kubelet's.
    all.insert("pids".into(), json!({"limit": PIDS_LIMIT}));
    let pages = huge_pages(&asked.hugepage_limits, host.hugetlb)?;
    if !pages.is_empty() {
        all.insert("hugepageLimits".into(), json!(pages));
    }
    if !asked.unified.is_empty() {
        if !host.cgroup_v2 {
            return Err(bad("unified", "this host has cgroup v1; unified settings need v2".into()));
        }
        all.insert("unified".into(), json!(asked.unified));
    }
    Ok(all)
}

/// Limits on huge pages by their size. The kubelet sends one for every size that the node has, 0 for
/// those that the pod does not ask for; without a controller only these can be met.
fn huge_pages(asked: &[v1::HugepageLimit], controller: bool) -> Result<Vec<Value>, SpecError> {
    let mut all = Vec::new();
    for limit in asked {
        let bad = |reason: &str| SpecError::new(format!("hugepage_limits[{:.16}]", limit.page_size), reason);
        let digits = limit.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        if !number || !["KB", "MB", "GB"].contains(&&limit.page_size[digits.len()..]) {
            return Err(bad("write the size of a page as 2MB or 1GB"));
        }
        match (controller, limit.limit) {
            (true, bytes) => all.push(json!({"pageSize": limit.page_size, "limit": bytes})),
            (false, 0) => {}
            (false, _) => return Err(bad("this host has no hugetlb controller that could enforce it")),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts { swap_accounting: true, ..HostFacts::default() }
    }

    #[test]
    fn what_is_not_said_stays() {
        let old = v1::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 20_000,
            memory_limit_in_bytes: 64 << 20,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let asked = v1::LinuxContainerResources { cpu_shares: 1024, ..Default::default() };
        let both = merged(&old, &asked);
        assert_eq!((both.cpu_shares, both.cpu_quota), (1024, 20_000));
        assert_eq!((both.memory_limit_in_bytes, both.cpuset_cpus.as_str()), (64 << 20, "0"));
        assert_eq!(merged(&old, &v1::LinuxContainerResources::default()), old);
    }

    #[test]
    fn swap_follows_memory_unless_it_was_asked_for() {
        let get = |old: (i64, i64), asked: (i64, i64)| {
            let make = |(memory, swap)| v1::LinuxContainerResources {
                memory_limit_in_bytes: memory,
                memory_swap_limit_in_bytes: swap,
                ..Default::default()
            };
            let oci = oci(&merged(&make(old), &make(asked)), &host()).unwrap();
            let limits = limits(&oci);
            (limits.memory.unwrap() >> 20, limits.memory_swap.unwrap() >> 20)
        };
        const M: i64 = 1 << 20;
        assert_eq!(get((10 * M, 0), (20 * M, 0)), (20, 20));
        assert_eq!(get((10 * M, 10 * M), (20 * M, 0)), (20, 20));
        assert_eq!(get((10 * M, 30 * M), (20 * M, 0)), (20, 30));
        assert_eq!(get((10 * M, 0), (20 * M, 50 * M)), (20, 50));
    }

    #[test]
    fn every_field_reaches_the_cgroup() {
        let asked = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 2,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            memory_limit_in_bytes: -1,
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 4096 }],
            unified: [("memory.high".to_owned(), "5".to_owned())].into(),
            ..Default::default()
        };
        let host = HostFacts { cgroup_v2: true, hugetlb: true, ..host() };
        let expected = Limits {
            cpu_shares: Some(2),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            memory: Some(-1),
            memory_swap: Some(-1),
            hugepages: [("2MB".to_owned(), 4096)].into(),
            unified: [("memory.high".to_owned(), "5".to_owned())].into(),
        };
        assert_eq!(limits(&oci(&asked, &host).unwrap()), expected);
    }
}
