//! Which kernel settings a pod may have for itself.

use crate::error::Kind;
use crate::{Error, Result};
use gantry_cri_api::v1;

/// A namespace that has settings of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Network,
    Ipc,
}

/// Settings of the IPC namespace that are not all of one family (namespaces(7)).
const IPC: [&str; 9] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg_next_id",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Whose setting it is; `None` for one of the whole node.
fn owner(name: &str) -> Option<Owner> {
    let ipc = IPC.contains(&name)
        || matches!(name, "kernel.shm_next_id" | "kernel.shm_rmid_forced")
        || name.starts_with("fs.mqueue.");
    match name {
        _ if ipc => Some(Owner::Ipc),
        name if name.starts_with("net.") => Some(Owner::Network),
        _ => None,
    }
}

fn is_host(mode: i32) -> bool {
    mode == i32::from(v1::NamespaceMode::Node)
}

/// Refuses settings that would change the node, or that the pod shares with it.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] naming the setting.
pub(super) fn check(config: &v1::PodSandboxConfig) -> Result<()> {
    let Some(linux) = &config.linux else { return Ok(()) };
    let options =
        linux.security_context.as_ref().and_then(|s| s.namespace_options.clone()).unwrap_or_default();
    for name in linux.sysctls.keys() {
        let why = match owner(&name.replace('/', ".")) {
            None => "it is a setting of the whole node",
            Some(Owner::Network) if is_host(options.network) => "the pod uses the node's network",
            Some(Owner::Ipc) if is_host(options.ipc) => "the pod uses the node's IPC namespace",
            Some(_) => continue,
        };
        let message = format!("sysctl {name:.128?} cannot be set for a pod: {why}");
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::NamespaceMode::{Node, Pod};

    fn asks(name: &str, network: v1::NamespaceMode, ipc: v1::NamespaceMode) -> Result<()> {
        let options = v1::NamespaceOption { network: network.into(), ipc: ipc.into(), ..Default::default() };
        let security =
            v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = v1::LinuxPodSandboxConfig {
            sysctls: [(name.to_owned(), "1".to_owned())].into(),
            security_context: Some(security),
            ..Default::default()
        };
        check(&v1::PodSandboxConfig { linux: Some(linux), ..Default::default() })
    }

    #[test]
    fn only_what_is_the_pods_own() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
            "net.ipv4.conf.eth0/1.rp_filter",
            "kernel.shm_rmid_forced",
            "kernel.shmmax",
            "kernel.msgmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            asks(name, Pod, Pod).unwrap();
            assert!(asks(name, Node, Node).is_err(), "{name} of the node");
        }
        for name in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.panic",
            "kernel.modprobe",
            "kernel.shm",
            "kernel.semaphore",
            "kernel.hostname",
            "fs.file-max",
            "vm.swappiness",
            "user.max_user_namespaces",
            "network",
            "net",
            "",
        ] {
            let error = asks(name, Pod, Pod).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        asks("net.core.somaxconn", Pod, Node).unwrap();
        assert!(asks("net.core.somaxconn", Node, Pod).is_err());
        asks("kernel.sem", Node, Pod).unwrap();
        assert!(asks("kernel.sem", Pod, Node).unwrap_err().to_string().contains("IPC"));
    }
}
