//! The `linux` part: namespaces, masked paths, seccomp.

use super::{Ns, SpecError, SpecInput, devices, resources, seccomp};
use gantry_cri_api::v1;
use gantry_monitor_api::IdMap;
use serde_json::{Value, json};

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

pub(super) fn linux(
    input: &SpecInput<'_>,
    linux: &v1::LinuxContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Value, SpecError> {
    let (nodes, rules) = devices::devices(input, security)?;
    let mut resources = resources::oci(&linux.resources.clone().unwrap_or_default(), input.host)?;
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
    if let Some(user) = &input.namespaces.user {
        // Runtimes want the maps also where they join a namespace that has them.
        let maps = |maps: &[IdMap]| -> Vec<Value> {
            maps.iter()
                .map(|m| json!({"containerID": m.inside, "hostID": m.outside, "size": m.length}))
                .collect()
        };
        all["uidMappings"] = json!(maps(&user.maps.uids));
        all["gidMappings"] = json!(maps(&user.maps.gids));
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
    if let Some(user) = &input.namespaces.user {
        all.push(json!({"type": "user", "path": user.path}));
    }
    if input.host.cgroup_v2 && !privileged {
        all.push(json!({"type": "cgroup"}));
    }
    all
}
