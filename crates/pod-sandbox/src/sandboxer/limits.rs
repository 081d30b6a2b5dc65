//! What a sandbox with a kernel of its own cannot do: refused by name, never run with less.

use super::SandboxerKind;
use crate::error::Kind;
use crate::{Error, Result};
use gantry_cri_api::v1::{self, NamespaceMode};

/// Refuses a sandbox that asks for what its handler cannot do.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] naming the handler and the field.
pub(crate) fn check_pod(kind: SandboxerKind, handler: &str, config: &v1::PodSandboxConfig) -> Result<()> {
    if kind == SandboxerKind::Namespaces {
        return Ok(());
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let options = security.namespace_options.unwrap_or_default();
    let node = |mode: i32| mode == i32::from(NamespaceMode::Node);
    refuse(
        handler,
        &[
            (node(options.network), "the host's network (namespace_options.network)"),
            (node(options.ipc), "the host's IPC objects (namespace_options.ipc)"),
            (node(options.pid), "the host's processes (namespace_options.pid)"),
            (options.userns_options.is_some_and(|u| !node(u.mode)), "a user namespace (userns_options)"),
            (security.privileged, "privileged sandboxes (privileged)"),
            (!linux.sysctls.is_empty(), "sysctls (linux.sysctls)"),
        ],
    )
}

/// Refuses a container that asks for what the handler of its sandbox cannot do.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] naming the handler and the field.
pub(crate) fn check_container(
    kind: SandboxerKind,
    handler: &str,
    pod: &v1::PodSandboxConfig,
    config: &v1::ContainerConfig,
) -> Result<()> {
    if kind == SandboxerKind::Namespaces {
        return Ok(());
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let options = security.namespace_options.clone().unwrap_or_default();
    let asked = linux.resources.unwrap_or_default();
    let limits = pod.linux.as_ref().and_then(|l| l.resources.clone()).unwrap_or_default();
    let private = i32::from(v1::MountPropagation::PropagationPrivate);
    let mode = |m: NamespaceMode| i32::from(m);
    let localhost = |p: &Option<v1::SecurityProfile>| {
        p.as_ref().is_some_and(|p| p.profile_type == i32::from(v1::security_profile::ProfileType::Localhost))
    };
    refuse(
        handler,
        &[
            (security.privileged, "privileged containers (privileged)"),
            (
                options.pid == mode(NamespaceMode::Target),
                "another container's processes (namespace_options.pid)",
            ),
            (options.pid == mode(NamespaceMode::Node), "the host's processes (namespace_options.pid)"),
            (!config.devices.is_empty() || !config.cdi_devices.is_empty(), "devices of the host (devices)"),
            (
                config.mounts.iter().any(|m| m.propagation != private),
                "mount propagation (mounts.propagation)",
            ),
            (config.mounts.iter().any(|m| m.recursive_read_only), "recursive read-only mounts (mounts)"),
            (localhost(&security.seccomp), "seccomp profiles of the node (security_context.seccomp)"),
            (localhost(&security.apparmor), "AppArmor profiles of the node (security_context.apparmor)"),
            (
                asked.memory_limit_in_bytes > 0 && limits.memory_limit_in_bytes <= 0,
                "a memory limit on one container; give the sandbox one (linux.resources.memory_limit_in_bytes)",
            ),
            (
                asked.cpu_quota > 0 && limits.cpu_quota <= 0,
                "a CPU quota on one container; give the sandbox one (linux.resources.cpu_quota)",
            ),
            (
                !asked.cpuset_cpus.is_empty() || !asked.cpuset_mems.is_empty(),
                "CPU sets of one container (linux.resources.cpuset_cpus, cpuset_mems)",
            ),
            (
                asked.hugepage_limits.iter().any(|l| l.limit > 0),
                "huge pages (linux.resources.hugepage_limits)",
            ),
            (!asked.unified.is_empty(), "cgroup settings of one container (linux.resources.unified)"),
        ],
    )
}

fn refuse(handler: &str, table: &[(bool, &str)]) -> Result<()> {
    match table.iter().find(|(asked, _)| *asked) {
        None => Ok(()),
        Some((_, what)) => {
            let message = format!(
                "runtime handler {handler:?} has a kernel of its own and cannot provide {what}; use another handler"
            );
            Err(Error::new(Kind::InvalidArgument, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(
        change: fn(&mut v1::LinuxPodSandboxConfig, &mut v1::LinuxSandboxSecurityContext),
    ) -> v1::PodSandboxConfig {
        let (mut linux, mut security) = Default::default();
        change(&mut linux, &mut security);
        linux.security_context = Some(security);
        v1::PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    fn options(network: i32, pid: i32, ipc: i32) -> Option<v1::NamespaceOption> {
        Some(v1::NamespaceOption { network, pid, ipc, ..Default::default() })
    }

    #[test]
    fn pods_are_refused_by_name() {
        type Change = fn(&mut v1::LinuxPodSandboxConfig, &mut v1::LinuxSandboxSecurityContext);
        let table: [(&str, Change); 6] = [
            ("network", |_, s| s.namespace_options = options(2, 1, 0)),
            ("processes", |_, s| s.namespace_options = options(0, 2, 0)),
            ("IPC", |_, s| s.namespace_options = options(0, 0, 2)),
            ("user namespace", |_, s| {
                let userns_options = Some(v1::UserNamespace::default());
                s.namespace_options = Some(v1::NamespaceOption { userns_options, ..Default::default() });
            }),
            ("privileged", |_, s| s.privileged = true),
            ("sysctls", |l, _| {
                l.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
            }),
        ];
        for (word, change) in table {
            let error = check_pod(SandboxerKind::OciSandbox, "gvisor", &pod(change)).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(
                error.to_string().contains(word) && error.to_string().contains("gvisor"),
                "{word}: {error}"
            );
            check_pod(SandboxerKind::Namespaces, "runc", &pod(change)).unwrap();
        }
        check_pod(SandboxerKind::OciSandbox, "gvisor", &pod(|_, _| {})).unwrap();
    }

    #[test]
    fn containers_are_refused_by_name() {
        type Change = fn(&mut v1::ContainerConfig);
        let table: [(&str, Change); 5] = [
            ("privileged", |c| {
                let security = v1::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
                c.linux =
                    Some(v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
            }),
            ("devices", |c| c.devices.push(v1::Device::default())),
            ("propagation", |c| c.mounts.push(v1::Mount { propagation: 2, ..Default::default() })),
            ("memory limit", |c| c.linux = Some(limited(1 << 26, ""))),
            ("CPU sets", |c| c.linux = Some(limited(0, "0"))),
        ];
        let unlimited = v1::PodSandboxConfig::default();
        for (word, change) in table {
            let mut config = v1::ContainerConfig::default();
            change(&mut config);
            let check = |kind| check_container(kind, "gvisor", &unlimited, &config);
            let error = check(SandboxerKind::OciSandbox).unwrap_err();
            assert!(error.to_string().contains(word), "{word}: {error}");
            check(SandboxerKind::Namespaces).unwrap();
        }
        let sandbox = pod(|l, _| l.resources = limited(1 << 27, "").resources);
        let config = v1::ContainerConfig { linux: Some(limited(1 << 26, "")), ..Default::default() };
        check_container(SandboxerKind::OciSandbox, "gvisor", &sandbox, &config).unwrap();
    }

    fn limited(memory: i64, cpus: &str) -> v1::LinuxContainerConfig {
        let resources = v1::LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpuset_cpus: cpus.into(),
            ..Default::default()
        };
        v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() }
    }
}
