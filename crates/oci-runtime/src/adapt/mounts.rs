//! Mounts: propagation is taken out of the options and corrected afterwards, and a v1 cgroup mount
//! becomes one bind mount of the container's own cgroup per hierarchy. (libcontainer binds whole
//! hierarchies of the host where the container has a pid namespace, and writable ones always.)

use super::Host;
use crate::confine::MountFix;
use gantry_cgroup::Layout;
use libcontainer::oci_spec::runtime::{Mount, MountBuilder};
use rustix::mount::MountPropagationFlags;
use std::path::{Path, PathBuf};

/// Controllers whose cgroup libcontainer makes for a container on v1.
const V1_CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// Mounts for libcontainer, and what has to be corrected in the container.
#[derive(Debug, Default)]
pub(super) struct Adapted {
    pub(super) mounts: Vec<Mount>,
    pub(super) fixes: Vec<MountFix>,
}

/// Adapts `mounts` of a bundle; `cgroup` is the container's path where it is known.
pub(super) fn adapt<'a>(
    mounts: impl Iterator<Item = &'a Mount>,
    bundle: &Path,
    cgroup: Option<&str>,
    host: &Host,
) -> Adapted {
    let mut adapted = Adapted::default();
    for mount in mounts {
        match cgroup {
            Some(cgroup) if mount.typ().as_deref() == Some("cgroup") && host.layout() == Layout::V1 => {
                adapted.v1_cgroups(mount, cgroup, host);
            }
            _ => adapted.plain(mount, bundle),
        }
    }
    adapted
}

impl Adapted {
    fn plain(&mut self, mount: &Mount, bundle: &Path) {
        let mut mount = mount.clone();
        if mount.destination().is_relative() {
            let absolute = Path::new("/").join(mount.destination());
            mount.set_destination(absolute);
        }
        let options = mount.options().clone().unwrap_or_default();
        let is_bind =
            mount.typ().as_deref() == Some("bind") || options.iter().any(|o| o == "bind" || o == "rbind");
        if let Some(source) = mount.source().as_ref().filter(|s| is_bind && s.is_relative()) {
            let absolute = bundle.join(source);
            mount.set_source(Some(absolute));
        }
        let (ways, others): (Vec<String>, Vec<String>) =
            options.into_iter().partition(|o| propagation(o).is_some());
        let fixes = ways.iter().filter_map(|way| propagation(way));
        self.fixes.extend(fixes.map(|flags| MountFix::Propagation(mount.destination().clone(), flags)));
        mount.set_options(Some(others));
        self.mounts.push(mount);
    }

    fn v1_cgroups(&mut self, mount: &Mount, cgroup: &str, host: &Host) {
        let destination = Path::new("/").join(mount.destination());
        let readonly = mount.options().iter().flatten().any(|o| o == "ro");
        self.push("tmpfs", "cgroup".into(), destination.clone(), &["nosuid", "noexec", "nodev", "mode=755"]);
        let mut options = vec!["bind", "nosuid", "noexec", "nodev"];
        options.extend(readonly.then_some("ro"));
        let mut placed = std::collections::BTreeSet::new();
        for controller in V1_CONTROLLERS {
            let Some(hierarchy) = host.hierarchies().mount_of(controller) else { continue };
            // A hierarchy with several controllers is found under its own name and under each of theirs.
            let names = [hierarchy.file_name().and_then(|n| n.to_str()).unwrap_or(controller), controller];
            for name in names {
                if placed.insert(name) {
                    let source = hierarchy.join(cgroup.trim_start_matches('/'));
                    self.push("bind", source, destination.join(name), &options);
                }
            }
        }
        if readonly {
            self.fixes.push(MountFix::Remount(destination));
        }
    }

    fn push(&mut self, typ: &str, source: PathBuf, destination: PathBuf, options: &[&str]) {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let mount = MountBuilder::default().typ(typ).source(source).destination(destination).options(options);
        // Only refuses mappings given by halves, and there are none.
        self.mounts.extend(mount.build());
    }
}

/// The propagation that a mount option asks for.
fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (how, recursive) = match option.strip_prefix('r') {
        Some(how @ ("private" | "slave" | "shared" | "unbindable")) => (how, MountPropagationFlags::REC),
        _ => (option, MountPropagationFlags::empty()),
    };
    let flags = match how {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "shared" => MountPropagationFlags::SHARED,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(flags | recursive)
}
