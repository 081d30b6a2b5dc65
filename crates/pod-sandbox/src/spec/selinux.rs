//! SELinux labels: of a container's processes, and of the files that are made for it.

use super::{HostFacts, SpecError};
use crate::policy::ContainerPolicy;
use gantry_cri_api::v1::{self, NamespaceMode};

/// Number of categories of a policy (`c0` to `c1023`).
const CATEGORIES: u64 = 1024;

/// Labels of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its files, at the level of its processes.
    pub files: String,
}

/// The labels of a container of the pod `pod_id`; `None` where the kernel does not label, and for one that is
/// not to be confined by labels.
///
/// What the container does not say, the pod says; what neither says is `container_t` (`spc_t`, unconfined, for
/// a privileged one) with two categories of the pod's own, by which SELinux keeps pods apart, if
/// `handler_labels`, that is if the handler can label.
///
/// # Errors
///
/// Options that cannot be part of a label.
pub(crate) fn labels(
    security: &v1::LinuxContainerSecurityContext,
    pod: &v1::PodSandboxConfig,
    pod_id: &str,
    host: &HostFacts,
    policy: &ContainerPolicy,
    handler_labels: bool,
) -> Result<Option<Labels>, SpecError> {
    if !host.selinux {
        // Elsewhere options say nothing, as the Kubernetes API means them.
        return Ok(None);
    }
    let of_pod = pod.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let asked = security.selinux_options.as_ref();
    let asked = asked.or_else(|| of_pod.and_then(|s| s.selinux_options.as_ref()));
    let options = of_pod.and_then(|s| s.namespace_options.as_ref());
    let host_mode = |mode: Option<i32>| mode == Some(NamespaceMode::Node.into());
    let shares = host_mode(options.map(|o| o.pid)) || host_mode(options.map(|o| o.ipc));
    let shares_network = policy.hostnetwork_disable_selinux && host_mode(options.map(|o| o.network));
    if asked.is_none() && (shares || shares_network || !handler_labels) {
        // A pod that shares what the node's own processes have must be able to reach them. A handler that
        // cannot label says so itself to who asks for a label.
        return Ok(None);
    }
    let asked = asked.cloned().unwrap_or_default();
    let level = match (asked.level.as_str(), security.privileged) {
        ("", true) => "s0".to_owned(),
        ("", false) => own_level(pod_id),
        (level, _) => level.to_owned(),
    };
    let or = |given: &str, default: &str| if given.is_empty() { default } else { given }.to_owned();
    let kind = or(&asked.r#type, if security.privileged { "spc_t" } else { "container_t" });
    let (user, role) = (or(&asked.user, "system_u"), or(&asked.role, "system_r"));
    for (field, part) in [("user", &user), ("role", &role), ("type", &kind)] {
        let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !part.chars().all(good) {
            let reason = format!("{part:.64?} cannot be part of a label");
            return Err(SpecError::new(format!("selinux_options.{field}"), reason));
        }
    }
    let good = |c: char| c.is_ascii_alphanumeric() || ":,.-".contains(c);
    if !level.starts_with('s') || !level.chars().all(good) {
        let reason = format!("{level:.64?} is no level such as s0:c1,c2");
        return Err(SpecError::new("selinux_options.level", reason));
    }
    Ok(Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        files: format!("system_u:object_r:container_file_t:{level}"),
    }))
}

/// A level with two different categories that follow from a pod's id.
fn own_level(pod_id: &str) -> String {
    // Ids are random; FNV-1a spreads whatever they are made of.
    let hash = pod_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let first = hash % CATEGORIES;
    let second = (first + 1 + (hash >> 32) % (CATEGORIES - 1)) % CATEGORIES;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = Option<v1::SeLinuxOption>;

    fn option(kind: &str, level: &str) -> Asked {
        Some(v1::SeLinuxOption { r#type: kind.into(), level: level.into(), ..Default::default() })
    }

    fn get(own: Asked, of_pod: Asked, privileged: bool, network: NamespaceMode) -> Option<String> {
        let security =
            v1::LinuxContainerSecurityContext { selinux_options: own, privileged, ..Default::default() };
        let namespaces = v1::NamespaceOption { network: network.into(), ..Default::default() };
        let context = v1::LinuxSandboxSecurityContext {
            selinux_options: of_pod,
            namespace_options: Some(namespaces),
            ..Default::default()
        };
        let linux = v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        let pod = v1::PodSandboxConfig { linux: Some(linux), ..Default::default() };
        let host = HostFacts { selinux: true, ..Default::default() };
        let policy = ContainerPolicy { hostnetwork_disable_selinux: true, ..Default::default() };
        let labels = labels(&security, &pod, "p1", &host, &policy, true).unwrap();
        labels.map(|l| {
            let level = l.files.strip_prefix("system_u:object_r:container_file_t:").unwrap();
            assert!(l.process.ends_with(level), "{l:?}");
            l.process
        })
    }

    #[test]
    fn the_container_says_then_the_pod_then_gantry() {
        let own = own_level("p1");
        let label = |kind: &str, level: &str| Some(format!("system_u:system_r:{kind}:{level}"));
        let pod = NamespaceMode::Pod;
        assert_eq!(get(option("a_t", "s0:c1"), option("b_t", "s0"), false, pod), label("a_t", "s0:c1"));
        assert_eq!(get(None, option("b_t", "s0:c9"), false, pod), label("b_t", "s0:c9"));
        assert_eq!(get(option("", "s0:c1,c2"), None, false, pod), label("container_t", "s0:c1,c2"));
        assert_eq!(get(None, None, false, pod), label("container_t", &own));
        assert_eq!(get(None, None, true, pod), label("spc_t", "s0"));
        assert_eq!(get(None, None, false, NamespaceMode::Node), None);
        assert_eq!(get(option("a_t", "s0"), None, false, NamespaceMode::Node), label("a_t", "s0"));
    }

    #[test]
    fn what_is_no_part_of_a_label_is_refused() {
        for (kind, level) in [("a b", "s0"), ("a:b", "s0"), ("", "c1"), ("", "s0 c1")] {
            let security = v1::LinuxContainerSecurityContext {
                selinux_options: option(kind, level),
                ..Default::default()
            };
            let host = HostFacts { selinux: true, ..Default::default() };
            let (pod, policy) = Default::default();
            assert!(labels(&security, &pod, "p", &host, &policy, true).is_err(), "{kind:?} {level:?}");
            let none = labels(&security, &pod, "p", &HostFacts::default(), &policy, true).unwrap();
            assert_eq!(none, None, "a kernel without labels");
        }
    }

    #[test]
    fn a_handler_that_cannot_label_is_not_asked_to() {
        let host = HostFacts { selinux: true, ..Default::default() };
        let (pod, policy) = Default::default();
        let mut security = v1::LinuxContainerSecurityContext::default();
        assert_eq!(labels(&security, &pod, "p", &host, &policy, false).unwrap(), None);
        security.selinux_options = option("a_t", "s0");
        assert!(labels(&security, &pod, "p", &host, &policy, false).unwrap().is_some());
    }

    #[test]
    fn categories_of_a_pod_are_two_and_in_order() {
        for id in ["", "a", "b", "0123456789abcdef"] {
            let level = own_level(id);
            let numbers: Vec<u64> =
                level.strip_prefix("s0:").unwrap().split(',').map(|c| c[1..].parse().unwrap()).collect();
            assert!(numbers[0] < numbers[1] && numbers[1] < CATEGORIES, "{level}");
        }
        assert_ne!(own_level("a"), own_level("b"));
    }
}
