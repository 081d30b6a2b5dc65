//! What is refused: features that libcontainer lacks, and would leave out without a word.

use super::Host;
use crate::error::{Error, Result, unsupported};
use gantry_cgroup::Layout;
use libcontainer::oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Process, Spec};

/// Refuses a container's configuration for what it asks besides its process.
pub(super) fn spec(spec: &Spec, systemd: bool, host: &Host) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    if systemd && host.layout() == Layout::V1 {
        return Err(unsupported("--systemd-cgroup on cgroup v1"));
    }
    namespaces(linux)?;
    if linux.mount_label().as_deref().is_some_and(|label| !label.is_empty()) {
        return Err(unsupported("linux.mountLabel (SELinux)"));
    }
    for mount in spec.mounts().iter().flatten() {
        let options = mount.options().iter().flatten();
        let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        if mapped || options.into_iter().any(|o| o == "idmap" || o == "ridmap") {
            return Err(unsupported(format!("an id-mapped mount ({})", mount.destination().display())));
        }
    }
    linux.resources().as_ref().map_or(Ok(()), |r| resources(r, host.layout()))
}

fn namespaces(linux: &Linux) -> Result<()> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    for (position, namespace) in namespaces.iter().enumerate() {
        if namespaces[..position].iter().any(|earlier| earlier.typ() == namespace.typ()) {
            return Err(Error::Invalid(format!("linux.namespaces has {} twice", namespace.typ())));
        }
    }
    let has = |wanted| namespaces.iter().any(|ns| ns.typ() == wanted);
    if !has(LinuxNamespaceType::Mount) {
        // Its mounts would be made on the host.
        return Err(Error::Invalid("linux.namespaces has no mount namespace".into()));
    }
    let mapped = |m: &Option<Vec<_>>| m.as_ref().is_some_and(|m| !m.is_empty());
    if has(LinuxNamespaceType::User) || mapped(linux.uid_mappings()) || mapped(linux.gid_mappings()) {
        // libcontainer's exec would stay outside of it, as the host's root.
        return Err(unsupported("a user namespace"));
    }
    Ok(())
}

/// Refuses limits that libcgroups takes no notice of.
pub(crate) fn resources(resources: &LinuxResources, layout: Layout) -> Result<()> {
    if resources.memory().as_ref().and_then(|m| m.disable_oom_killer()).unwrap_or(false) {
        return Err(unsupported("memory.disableOOMKiller"));
    }
    if resources.rdma().as_ref().is_some_and(|r| !r.is_empty()) {
        return Err(unsupported("resources.rdma"));
    }
    if layout == Layout::V1 && resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::Invalid("resources.unified needs cgroup v2, and this host has v1".into()));
    }
    Ok(())
}

/// Refuses what a process asks.
pub(super) fn process(process: &Process) -> Result<()> {
    if process.selinux_label().as_deref().is_some_and(|label| !label.is_empty()) {
        return Err(unsupported("process.selinuxLabel"));
    }
    Ok(())
}
