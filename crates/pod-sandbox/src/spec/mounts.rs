//! Mounts: what every container has, the pod's files, and what the request asks for.

use super::{Ns, SpecError, SpecInput};
use gantry_cri_api::v1;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) fn mounts(
    input: &SpecInput<'_>,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Vec<Value>, SpecError> {
    let asked: BTreeSet<String> = input.container.mounts.iter().map(|m| clean(&m.container_path)).collect();
    let mut all: Vec<(String, Value)> = defaults(security.privileged)
        .into_iter()
        .chain(pod_files(input, security.readonly_rootfs))
        .filter(|(destination, _)| !asked.contains(destination))
        .collect();
    for mount in &input.container.mounts {
        all.push((clean(&mount.container_path), user_mount(mount)?));
    }
    // Parents before what lies in them; the sort is stable, so later requests stay on top of earlier ones.
    all.sort_by_key(|(destination, _)| Path::new(destination).components().count());
    Ok(all.into_iter().map(|(_, mount)| mount).collect())
}

/// Propagation that the root of the container needs for its mounts' own propagation to have an effect.
pub(super) fn rootfs_propagation(mounts: &[v1::Mount]) -> Option<&'static str> {
    let any = |p: v1::MountPropagation| mounts.iter().any(|m| m.propagation == i32::from(p));
    if any(v1::MountPropagation::PropagationBidirectional) {
        Some("rshared")
    } else if any(v1::MountPropagation::PropagationHostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

/// The path without empty parts, `.` and a trailing slash, so that one place has one name.
fn clean(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.fold(String::new(), |path, part| path + "/" + part)
}

fn defaults(privileged: bool) -> Vec<(String, Value)> {
    let sys = if privileged { "rw" } else { "ro" };
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        let value = json!({"destination": destination, "type": kind, "source": source, "options": options});
        (destination.to_owned(), value)
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        // A sysfs of its own in every case: binding the host's tree would bring what is mounted below it,
        // the host's control groups first of all, and writable.
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
    ]
}

fn pod_files(input: &SpecInput<'_>, readonly: bool) -> Vec<(String, Value)> {
    let bind = |destination: &str, source: &Path, options: &[&str]| {
        let value = json!({"destination": destination, "type": "bind", "source": source, "options": options});
        (destination.to_owned(), value)
    };
    let writable = if readonly { "ro" } else { "rw" };
    let file = ["bind", "rprivate", "nosuid", "noexec", "nodev", writable];
    let shm = match input.namespaces.ipc {
        Ns::Host => Path::new("/dev/shm"),
        _ => input.files.shm.as_path(),
    };
    vec![
        bind("/etc/hosts", &input.files.hosts, &file),
        bind("/etc/hostname", &input.files.hostname, &file),
        bind("/etc/resolv.conf", &input.files.resolv_conf, &file),
        bind("/dev/shm", shm, &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]),
    ]
}

fn user_mount(mount: &v1::Mount) -> Result<Value, SpecError> {
    let destination = mount.container_path.as_str();
    let bad = |reason: &str| Err(SpecError::new(format!("mount {destination:.256}"), reason));
    if !destination.starts_with('/') || destination.contains('\0') || clean(destination).is_empty() {
        return bad("the path in the container must be absolute and below /");
    }
    if destination.split('/').any(|part| part == "..") {
        return bad("the path in the container must not contain '..'");
    }
    if mount.image.is_some() {
        // Its path is where the image was mounted for this container. Read-only and without programs that could
        // be run, whatever the request says (CRI: `Mount.image`).
        return match mount.host_path.starts_with('/') {
            true => Ok(json!({
                "destination": clean(destination),
                "type": "bind",
                "source": mount.host_path,
                "options": ["bind", "rprivate", "ro", "noexec", "nosuid", "nodev"],
            })),
            false => bad("its image is not mounted"),
        };
    }
    if !mount.host_path.starts_with('/') {
        return bad("the path on the host must be absolute");
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return bad("this handler cannot map the owners of mounted files (idmapped mounts)");
    }
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => "rprivate",
        Ok(v1::MountPropagation::PropagationHostToContainer) => "rslave",
        Ok(v1::MountPropagation::PropagationBidirectional) => "rshared",
        Err(_) => return bad("the propagation mode is unknown"),
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, false) if mount.readonly => "ro",
        (_, false) => "rw",
        (true, true) if propagation == "rprivate" => "rro",
        (true, true) => return bad("recursive read-only needs private propagation"),
        (false, true) => return bad("recursive read-only needs readonly, too"),
    };
    Ok(json!({
        "destination": clean(destination),
        "type": "bind",
        "source": mount.host_path,
        "options": ["rbind", propagation, access],
    }))
}
