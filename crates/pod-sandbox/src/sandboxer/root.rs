//! The container that is the sandbox: its root filesystem, without any image, and its configuration.

use super::sandbox_cgroup;
use crate::error::io_error;
use crate::{PodRecord, Result};
use gantry_cri_api::v1;
use serde_json::{Map, Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Directory below the handlers' one that is the root of every sandbox; read-only to all of them.
pub(crate) const PAUSE_ROOT: &str = "pause";

/// The program in it, which is the monitor's own.
const PROGRAM: &str = "pause";

/// User and group of the pause program: nobody's, on every distribution.
const NOBODY: u32 = 65535;

/// Makes the root filesystem of sandboxes in `root`: one static program and places to mount on.
///
/// Replaces an older one by rename; sandboxes that run keep what they have open.
pub(crate) fn prepare_pause_root(root: &Path, program: &Path) -> Result<()> {
    for dir in ["proc", "dev", "sys"].map(|d| root.join(d)) {
        std::fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
    }
    let (new, place) = (root.join(".pause.new"), root.join(PROGRAM));
    std::fs::copy(program, &new).map_err(io_error("copy the pause program to", &new))?;
    let mode = std::fs::Permissions::from_mode(0o555);
    std::fs::set_permissions(&new, mode).map_err(io_error("chmod", &new))?;
    std::fs::rename(&new, &place).map_err(io_error("rename the pause program to", &place))
}

/// OCI configuration of the sandbox of `pod`, in the network namespace `netns`.
pub(super) fn config(pod: &PodRecord, root: &Path, hostname: &str, netns: &Path) -> Value {
    let meta = pod.config.metadata.clone().unwrap_or_default();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": NOBODY, "gid": NOBODY},
            "args": [format!("/{PROGRAM}"), "pause"],
            "cwd": "/", "env": ["PATH=/"], "noNewPrivileges": true,
            "capabilities": {"bounding": [], "effective": [], "permitted": []},
        },
        "root": {"path": root, "readonly": true},
        "hostname": hostname,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755"]},
        ],
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": pod.id,
            "io.kubernetes.cri.sandbox-name": meta.name,
            "io.kubernetes.cri.sandbox-namespace": meta.namespace,
            "io.kubernetes.cri.sandbox-uid": meta.uid,
        },
        "linux": {
            "cgroupsPath": sandbox_cgroup(pod),
            "resources": resources(&pod.config),
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": netns},
            ],
        },
    })
}

/// Limits of the whole sandbox: what the pod's containers may use together, and its overhead.
fn resources(config: &v1::PodSandboxConfig) -> Value {
    let linux = config.linux.clone().unwrap_or_default();
    let (pod, overhead) = (linux.resources.unwrap_or_default(), linux.overhead.unwrap_or_default());
    // No limit stays no limit, whatever the overhead.
    let sum = |limit: i64, more: i64| (limit > 0).then(|| limit.saturating_add(more.max(0)));
    let mut cpu = Map::new();
    for (name, value) in [
        ("shares", sum(pod.cpu_shares, overhead.cpu_shares)),
        ("period", sum(pod.cpu_period, 0)),
        ("quota", sum(pod.cpu_quota, overhead.cpu_quota)),
    ] {
        cpu.extend(value.map(|v| (name.to_owned(), json!(v))));
    }
    let mut all = Map::new();
    if !cpu.is_empty() {
        all.insert("cpu".into(), Value::Object(cpu));
    }
    if let Some(limit) = sum(pod.memory_limit_in_bytes, overhead.memory_limit_in_bytes) {
        all.insert("memory".into(), json!({"limit": limit}));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(
        pod: v1::LinuxContainerResources,
        overhead: v1::LinuxContainerResources,
    ) -> v1::PodSandboxConfig {
        let linux = v1::LinuxPodSandboxConfig {
            resources: Some(pod),
            overhead: Some(overhead),
            ..Default::default()
        };
        v1::PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    #[test]
    fn limits_are_the_pods_and_its_overhead() {
        let pod = v1::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: 5000,
            cpu_period: 100_000,
            ..Default::default()
        };
        let overhead = v1::LinuxContainerResources {
            memory_limit_in_bytes: 7,
            cpu_shares: 9,
            cpu_period: 100_000,
            ..Default::default()
        };
        let all = resources(&config_of(pod, overhead.clone()));
        let expected = json!({"cpu": {"period": 100_000, "quota": 5000}, "memory": {"limit": (1 << 20) + 7}});
        assert_eq!(all, expected);
        let unlimited = resources(&config_of(v1::LinuxContainerResources::default(), overhead));
        assert_eq!(unlimited, json!({}), "an overhead alone is no limit");
    }

    #[test]
    fn the_root_is_made_again_over_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let root = dir.path().join("root");
        for text in ["one", "two"] {
            std::fs::write(&program, text).unwrap();
            prepare_pause_root(&root, &program).unwrap();
            assert_eq!(std::fs::read_to_string(root.join(PROGRAM)).unwrap(), text);
        }
        let mode = std::fs::metadata(root.join(PROGRAM)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o555);
    }
}
