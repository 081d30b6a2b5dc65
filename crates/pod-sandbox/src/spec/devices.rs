//! Device nodes and the rules that let a container use them.

use super::{SpecError, SpecInput};
use gantry_cri_api::v1;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Path on the host.
    pub path: String,
    /// `c` for a character device, `b` for a block device.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// `linux.devices` and `linux.resources.devices`.
pub(super) fn devices(
    input: &SpecInput<'_>,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<(Vec<Value>, Vec<Value>), SpecError> {
    let mut nodes = BTreeMap::new();
    if security.privileged && input.with_host_devices {
        nodes.extend(input.devices.iter().map(|d| (d.path.clone(), node(d, &d.path))));
    }
    // Nothing but the standard devices (null, zero, full, random, urandom, tty, pts), which every OCI
    // runtime adds by itself, and what is asked for.
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    for asked in &input.container.devices {
        let bad = |reason: String| SpecError::new(format!("device {:.256}", asked.host_path), reason);
        let inside = asked.container_path.trim_end_matches('/');
        if !inside.starts_with("/dev/") || inside.split('/').any(|part| part == "..") {
            return Err(bad(format!("its path in the container {inside:.256?} must be below /dev")));
        }
        if asked.permissions.is_empty() || asked.permissions.chars().any(|c| !"rwm".contains(c)) {
            return Err(bad(format!("permissions {:.16?} must be some of r, w and m", asked.permissions)));
        }
        let wanted = asked.host_path.trim_end_matches('/');
        let below = format!("{wanted}/");
        let found: Vec<&HostDevice> =
            input.devices.iter().filter(|d| d.path == wanted || d.path.starts_with(&below)).collect();
        if found.is_empty() {
            return Err(bad("the host has no such device".into()));
        }
        for device in found {
            let inside = format!("{inside}{}", &device.path[wanted.len()..]);
            // Of two for one path the later counts.
            nodes.insert(inside.clone(), node(device, &inside));
            rules.push(json!({
                "allow": true,
                "type": device.kind,
                "major": device.major,
                "minor": device.minor,
                "access": asked.permissions,
            }));
        }
    }
    if security.privileged && input.with_host_devices {
        rules = vec![json!({"allow": true, "access": "rwm"})];
    }
    Ok((nodes.into_values().collect(), rules))
}

fn node(device: &HostDevice, path: &str) -> Value {
    json!({
        "path": path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}
