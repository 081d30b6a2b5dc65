//! The `linux` part: namespaces, resources, masked paths, seccomp.

use super::{Ns, SpecError, SpecInput, devices, seccomp};
use gantry_cri_api::v1;
use serde_json::{Map, Value, json};

/// Paths of /proc and /sys that leak or change the host, hidden unless the request says otherwise.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths of /proc that change the host, read-only unless the request says otherwise.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Smallest memory limit with which an OCI runtime can start a process at all.
const MIN_MEMORY: i64 = 512 << 10;

/// Most processes and threads of one container: what a whole node had by default for decades, so that
/// one container cannot use up the numbers of all.
const PIDS_LIMIT: i64 = 32_768;

pub(super) fn linux(
    input: &SpecInput<'_>,
    linux: &v1::LinuxContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Value, SpecError> {
    let (nodes, rules) = devices::devices(input, security)?;
    let mut resources = resources(&linux.resources.clone().unwrap_or_default(), input)?;
    resources.insert("devices".into(), json!(rules));
    let mut all = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(input, security.privileged),
        "resources": resources,
        "devices": nodes,
    });
    if !security.privileged {
        // proto3 cannot tell "none" from "not said". The kubelet sends both lists for every pod, and both
        // empty only for one with `procMount: Unmasked`; crictl sends none and expects a safe container.
        // Hiding too much from the rare first is the safer mistake, and privileged containers are not
        // touched. One list given means that both are meant as given.
        let said = !security.masked_paths.is_empty() || !security.readonly_paths.is_empty();
        let paths = |given: &[String], default: &[&str]| match said {
            true => given.to_vec(),
            false => default.iter().map(|p| (*p).to_owned()).collect(),
        };
        all["maskedPaths"] = json!(paths(&security.masked_paths, &MASKED_PATHS));
        all["readonlyPaths"] = json!(paths(&security.readonly_paths, &READONLY_PATHS));
    }
    if let Some(profile) = seccomp::seccomp(input, security)? {
        all["seccomp"] = profile;
    }
    Ok(all)
}

fn namespaces(input: &SpecInput<'_>, privileged: bool) -> Vec<Value> {
    let wanted = [
        ("network", &input.namespaces.net),
        ("ipc", &input.namespaces.ipc),
        ("uts", &input.namespaces.uts),
        ("pid", &input.namespaces.pid),
    ];
    let mut all = vec![json!({"type": "mount"})];
    for (kind, namespace) in wanted {
        match namespace {
            Ns::Host => {}
            Ns::New => all.push(json!({"type": kind})),
            Ns::Join(path) => all.push(json!({"type": kind, "path": path})),
        }
    }
    if input.host.cgroup_v2 && !privileged {
        all.push(json!({"type": "cgroup"}));
    }
    all
}

fn resources(
    asked: &v1::LinuxContainerResources,
    input: &SpecInput<'_>,
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
        if input.host.swap_accounting {
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
    let pages = huge_pages(&asked.hugepage_limits, input.host.hugetlb)?;
    if !pages.is_empty() {
        all.insert("hugepageLimits".into(), json!(pages));
    }
    if !asked.unified.is_empty() {
        if !input.host.cgroup_v2 {
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
