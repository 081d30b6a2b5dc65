//! Files of a container in a user namespace: volumes whose owners are mapped.
//!
//! The mapping is made by us and not by the OCI runtime, so that every runtime that knows user namespaces
//! can have it; on disk the owners stay as they are.

use super::Container;
use crate::error::{Kind, io_error};
use crate::journal::Undo;
use crate::pod::{Pod, namespace_path, user_namespace};
use crate::{Error, Result};
use gantry_cri_api::v1;
use gantry_monitor_api::{IdMap, UserNamespace};
use gantry_sys::idmap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// The user namespace that a sandbox holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) fd: File,
    maps: UserNamespace,
}

impl Held {
    /// The host's ids of a user and a group of the pod.
    pub(super) fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((IdMap::outside_of(&self.maps.uids, uid)?, IdMap::outside_of(&self.maps.gids, gid)?))
    }
}

/// The user namespace of `pod`; `None` where it uses the host's.
pub(super) fn user_namespace(pod: &Pod) -> Result<Option<Held>> {
    let (maps, pause) = {
        let record = pod.record();
        (user_namespace::wanted(&record)?, record.pause)
    };
    let Some(maps) = maps else { return Ok(None) };
    let pause =
        pause.ok_or_else(|| Error::new(Kind::FailedPrecondition, "its sandbox has no pause child"))?;
    let path = namespace_path(pause.pid, "user");
    let fd = File::open(&path).map_err(io_error("open", &path))?;
    Ok(Some(Held { fd, maps }))
}

/// Replaces the source of each mount that asks for mapped owners by a mapped copy of it. Blocking.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] for maps that are not the sandbox's: there is no namespace that has them.
pub(super) fn map_sources(
    container: &Container,
    mounts: &mut [v1::Mount],
    held: Option<&Held>,
) -> Result<()> {
    let asks = |m: &v1::Mount| !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty();
    let dir = container.dir.join("mounts");
    for (number, mount) in mounts.iter_mut().enumerate().filter(|(_, m)| asks(m)) {
        let bad = |why: &str| {
            Error::new(Kind::InvalidArgument, format!("mount {:.256}: {why}", mount.container_path))
        };
        let held = held.ok_or_else(|| bad("mapped owners need a sandbox with a user namespace"))?;
        let uids = user_namespace::maps("uids", &mount.uid_mappings)?;
        let gids = user_namespace::maps("gids", &mount.gid_mappings)?;
        if (&uids, &gids) != (&held.maps.uids, &held.maps.gids) {
            return Err(bad("its maps of owners must be those of the sandbox's user namespace"));
        }
        if mount.propagation != i32::from(v1::MountPropagation::PropagationPrivate) {
            return Err(bad("mapped owners need private propagation"));
        }
        let source = Path::new(&mount.host_path);
        if !dir.exists() {
            std::fs::DirBuilder::new().mode(0o711).create(&dir).map_err(io_error("create", &dir))?;
        }
        let target = dir.join(number.to_string());
        match source.is_dir() {
            true => std::fs::create_dir(&target),
            false => File::create(&target).map(drop),
        }
        .map_err(io_error("create", &target))?;
        container.promise(Undo::Unmount(target.clone()))?;
        idmap::attach(&idmap::mapped(source, held.fd.as_fd(), true)?, &target)?;
        mount.host_path = target.display().to_string();
        mount.uid_mappings.clear();
        mount.gid_mappings.clear();
    }
    Ok(())
}
