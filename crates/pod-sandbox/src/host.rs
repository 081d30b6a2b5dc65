//! What must be known of the host to write a container's configuration; read once at start.

use crate::spec::CAPABILITIES;
use crate::spec::{HostDevice, HostFacts};
use gantry_cgroup::{Hierarchies, Layout};
use rustix::fs::{FileType, major, minor};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Most device nodes that a privileged container is given.
const MAX_DEVICES: usize = 4096;

/// Reads the facts of this host; what cannot be read counts as absent.
pub(crate) fn facts(hierarchies: &Hierarchies) -> HostFacts {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = hierarchies.mount_of("memory");
    HostFacts {
        bounding: bounding(&status),
        cgroup_v2: hierarchies.layout() == Layout::V2,
        swap_accounting: match hierarchies.layout() {
            Layout::V1 => memory.is_some_and(|m| m.join("memory.memsw.limit_in_bytes").exists()),
            Layout::V2 => true,
        },
        apparmor: std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        hugetlb: hugetlb(hierarchies),
        x32: x32(&status),
    }
}

/// Says once for this daemon that the host lets nobody lower `oom_score_adj`.
pub(crate) fn warn_oom_score(asked: i64) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            asked,
            "this host does not allow to lower oom_score_adj (CAP_SYS_RESOURCE is missing); going on without"
        );
    });
}

/// Whether huge pages can be limited where the OCI runtimes look: on v1 not in a cgroup2 mount beside.
fn hugetlb(hierarchies: &Hierarchies) -> bool {
    match (hierarchies.layout(), hierarchies.mount_of("hugetlb")) {
        (Layout::V1, mount) => mount.is_some(),
        (Layout::V2, Some(mount)) => std::fs::read_to_string(mount.join("cgroup.controllers"))
            .is_ok_and(|all| all.split_whitespace().any(|c| c == "hugetlb")),
        (Layout::V2, None) => false,
    }
}

/// Whether the kernel has x32 calls; one that cannot be asked without risk counts as having them.
///
/// A filter on the daemon itself may kill whoever tries one.
fn x32(status: &str) -> bool {
    let free = status.lines().any(|l| l.split_whitespace().eq(["Seccomp:", "0"]));
    !free || gantry_sys::seccomp::has_x32_calls()
}

/// Names of the capabilities in the bounding set (`CapBnd` of proc(5)'s status).
fn bounding(status: &str) -> Vec<String> {
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    let has = |(number, _): &(usize, &&str)| mask >> number & 1 == 1;
    CAPABILITIES.iter().enumerate().filter(has).map(|(_, name)| (*name).to_owned()).collect()
}

/// Device nodes for a container: those below each of `asked` (a node, a directory, or a link to one), by the
/// path that was asked for, and with `all` every one of the host. Read at each creation: devices come and go.
pub(crate) fn device_nodes<'a>(asked: impl Iterator<Item = &'a str>, all: bool) -> Vec<HostDevice> {
    let mut found = if all { devices(Path::new("/dev")) } else { Vec::new() };
    for path in asked.map(|p| Path::new(p.trim_end_matches('/'))) {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => found.extend(devices(path)),
            Ok(meta) => found.extend(device(path, &meta)),
            // Refused by name where the configuration is made.
            Err(error) => tracing::debug!(path = %path.display(), %error, "device not found"),
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup();
    found
}

fn device(path: &Path, meta: &std::fs::Metadata) -> Option<HostDevice> {
    let kind = match FileType::from_raw_mode(meta.mode()) {
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => return None,
    };
    Some(HostDevice {
        path: path.display().to_string(),
        kind,
        major: major(meta.rdev()),
        minor: minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// Device nodes below `root`, but for what a container has of its own (pts, shm, mqueue, console).
fn devices(root: &Path) -> Vec<HostDevice> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let own = ["pts", "shm", "mqueue", "console", "fd", ".udev", "ptmx"];
            if dir == Path::new("/dev") && own.iter().any(|o| name == *o) {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                open.push(path);
                continue;
            }
            let Some(device) = device(&path, &meta) else { continue };
            if found.len() == MAX_DEVICES {
                tracing::warn!(limit = MAX_DEVICES, "more device nodes than privileged containers are given");
                return found;
            }
            found.push(device);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x32_is_not_tried_below_a_filter() {
        assert!(x32("Seccomp:\t2\n") && x32(""));
    }

    #[test]
    fn the_bounding_set_is_read() {
        let all = bounding("Name:\tx\nCapBnd:\t000001ffffffffff\n");
        assert_eq!(all.len(), CAPABILITIES.len());
        let less = bounding("CapBnd:\t000001fffeffffff\n");
        assert!(!less.contains(&"CAP_SYS_RESOURCE".to_owned()) && less.len() == all.len() - 1);
        assert!(bounding("").is_empty());
    }

    #[test]
    fn this_host_has_a_null_device() {
        let null = devices(Path::new("/dev")).into_iter().find(|d| d.path == "/dev/null").unwrap();
        assert_eq!((null.kind, null.major, null.minor), ('c', 1, 3));
    }

    #[test]
    fn asked_devices_are_found_by_the_path_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("by-name");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let link = link.to_str().unwrap();
        let found = device_nodes([link, "/dev/null/", "/dev/none", "/etc"].into_iter(), false);
        let seen: Vec<_> = found.iter().map(|d| (d.path.as_str(), d.major, d.minor)).collect();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen.contains(&(link, 1, 5)) && seen.contains(&("/dev/null", 1, 3)), "{seen:?}");
        assert!(device_nodes(std::iter::empty(), true).len() > 5);
    }
}
