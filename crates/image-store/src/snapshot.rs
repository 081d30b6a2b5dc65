//! Writable snapshots of containers, and the leases that keep their layers.

use crate::digest::Digest;
use crate::disk::records::{self, Lease};
use crate::disk::{Disk, EMPTY_LAYER, make_dir};
use crate::publish::Publisher;
use crate::state::{Holder, State};
use crate::{Error, ImageId, Realm, Result, Snapshot};
use gantry_sys::overlay::{self, Overlay};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Longest container id in bytes.
const MAX_ID: usize = 128;

/// Makes the snapshot of a container; the same call again finds the first one's.
pub(crate) fn prepare(
    publisher: &Publisher,
    realm: Realm,
    container_id: &str,
    image: &ImageId,
) -> Result<Snapshot> {
    check_id(container_id)?;
    let image = Digest::parse(image.as_str())?;
    publisher.exclusively(|| {
        let state = publisher.shared.lock();
        match state.snapshots.get(container_id) {
            Some(Holder::Leased(lease)) if lease.image == image && lease.realm == realm => {
                return Ok(describe(&publisher.disk, &state, container_id, lease));
            }
            Some(Holder::Leased(_)) => {
                return Err(Error::InUse {
                    object: format!("container id {container_id}"),
                    reason: "it has a snapshot of another image or realm; remove that first".into(),
                });
            }
            Some(Holder::Unreadable) => return Err(unreadable(container_id)),
            None => {}
        }
        let entry = state.images.get(&image).filter(|_| state.refs.contains_key(&(realm, image.to_string())));
        let Some(entry) = entry else {
            return Err(Error::not_found(
                format!("image {image}"),
                format!("realm {realm} does not have it"),
            ));
        };
        let lease = Lease::new(realm, image, entry.layers.clone());
        let root = root_layer(&state, &lease.layers);
        drop(state);

        let staged = publisher.disk.stage_dir()?;
        let record = staged.path().join("lease.json");
        std::fs::write(&record, records::encode(&lease)?)
            .map_err(|e| Error::io("write", record.display().to_string(), e))?;
        make_dir(&staged.path().join("work"), 0o700)?;
        let upper = staged.path().join("upper");
        make_dir(&upper, 0o755)?;
        copy_root(&publisher.disk.layer_fs(root), &upper)?;
        staged.publish(&publisher.disk.container(container_id))?;

        let mut state = publisher.shared.lock();
        let snapshot = describe(&publisher.disk, &state, container_id, &lease);
        state.snapshots.insert(container_id.to_owned(), Holder::Leased(lease));
        Ok(snapshot)
    })
}

/// The snapshot of a container, if it has one whose record can be read.
pub(crate) fn get(publisher: &Publisher, container_id: &str) -> Option<Snapshot> {
    let state = publisher.shared.lock();
    match state.snapshots.get(container_id)? {
        Holder::Leased(lease) => Some(describe(&publisher.disk, &state, container_id, lease)),
        Holder::Unreadable => None,
    }
}

/// Whose files are whose in a container with a user namespace.
#[derive(Clone, Copy)]
pub struct Owners<'a> {
    /// The user namespace.
    pub userns: BorrowedFd<'a>,
    /// The host's ids of a user and a group of the image; `None` for those that the namespace lacks.
    pub outside: &'a dyn Fn(u32, u32) -> Option<(u32, u32)>,
}

impl std::fmt::Debug for Owners<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners").field("userns", &self.userns).finish_non_exhaustive()
    }
}

/// Mounts the snapshot, with owners mapped if `owners` are given and every file labelled `context`; a target that has an overlay on
/// it stays as it is.
pub(crate) fn mount(
    publisher: &Publisher,
    container_id: &str,
    target: &Path,
    owners: Option<&Owners<'_>>,
    context: Option<&str>,
) -> Result<()> {
    let lease = match publisher.shared.lock().snapshots.get(container_id) {
        Some(Holder::Leased(lease)) => lease.clone(),
        Some(Holder::Unreadable) => return Err(unreadable(container_id)),
        None => {
            let object = format!("snapshot of container {container_id}");
            return Err(Error::not_found(object, "it was never prepared, or was removed"));
        }
    };
    let failed = |e: gantry_sys::Error| Error::io("mount", target.display().to_string(), e.into());
    if overlay::is_mounted(target).map_err(failed)? {
        return Ok(());
    }
    let visible = visible(&publisher.shared.lock(), &lease.layers);
    let names = visible.into_iter().map(|n| format!("{n}/fs"));
    let own = publisher.disk.container(container_id);
    let overlay = Overlay {
        layers: publisher.disk.layers(),
        lower: names.collect(),
        upper: own.join("upper"),
        work: own.join("work"),
        context: context.map(str::to_owned),
    };
    let Some(owners) = owners else { return overlay::mount(&overlay, target).map_err(failed) };
    map_root(&overlay.upper, owners)?;
    overlay::mount_mapped(&overlay, owners.userns, target).map_err(failed)
}

/// Deletes the snapshot and its lease.
pub(crate) fn remove(publisher: &Publisher, container_id: &str) -> Result<()> {
    check_id(container_id)?;
    let orphaned = publisher.exclusively(|| {
        publisher.disk.trash.discard(&publisher.disk.container(container_id));
        let mut state = publisher.shared.lock();
        match state.snapshots.remove(container_id) {
            Some(Holder::Leased(lease)) => !state.images.contains_key(&lease.image),
            Some(Holder::Unreadable) => true,
            None => false,
        }
    });
    if orphaned {
        publisher.collect();
    }
    Ok(())
}

fn unreadable(container_id: &str) -> Error {
    let object = format!("snapshot of container {container_id}");
    Error::corrupt(object, "its lease cannot be read; remove the container")
}

fn describe(disk: &Disk, state: &State, container_id: &str, lease: &Lease) -> Snapshot {
    let own = disk.container(container_id);
    Snapshot {
        image: ImageId(lease.image.to_string()),
        lower: visible(state, &lease.layers).into_iter().map(|n| disk.layer_fs(n)).collect(),
        upper: own.join("upper"),
        work: own.join("work"),
    }
}

/// Layers to mount, topmost first: those above one that hides the rest. Never empty.
fn visible(state: &State, layers: &[u64]) -> Vec<u64> {
    let mut shown = Vec::new();
    for number in layers.iter().rev() {
        // A layer that occurs twice shows where it is topmost; overlayfs refuses it a second time.
        if !shown.contains(number) {
            shown.push(*number);
        }
        if state.layers.get(number).is_some_and(|l| l.root_opaque) {
            break;
        }
    }
    if shown.is_empty() {
        shown.push(EMPTY_LAYER);
    }
    shown
}

/// The layer whose root directory the container sees: the topmost that describes it.
fn root_layer(state: &State, layers: &[u64]) -> u64 {
    let described = |n: &u64| state.layers.get(n).is_some_and(|l| l.root_placed);
    visible(state, layers).into_iter().find(described).unwrap_or(EMPTY_LAYER)
}

/// The root of an overlay has the attributes of its upper directory.
fn copy_root(from: &Path, to: &Path) -> Result<()> {
    let failed = |call| move |e| Error::io(call, to.display().to_string(), e);
    let m = std::fs::metadata(from).map_err(failed("stat"))?;
    std::os::unix::fs::chown(to, Some(m.uid()), Some(m.gid())).map_err(failed("chown"))?;
    let mode = std::fs::Permissions::from_mode(m.mode() & 0o7777);
    std::fs::set_permissions(to, mode).map_err(failed("chmod"))?;
    let times = std::fs::FileTimes::new().set_modified(m.modified().map_err(failed("stat"))?);
    std::fs::File::open(to).and_then(|f| f.set_times(times)).map_err(failed("utimensat"))
}

/// Gives the upper directory, which the container sees as its root, to whom it belongs on the host.
fn map_root(upper: &Path, owners: &Owners<'_>) -> Result<()> {
    let failed = |call| move |e| Error::io(call, upper.display().to_string(), e);
    let m = std::fs::metadata(upper).map_err(failed("stat"))?;
    let Some((uid, gid)) = (owners.outside)(m.uid(), m.gid()) else { return Ok(()) };
    std::os::unix::fs::chown(upper, Some(uid), Some(gid)).map_err(failed("chown"))
}

/// A container id is a directory name of the store: nothing else may come of it.
fn check_id(id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let starts = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && id.len() <= MAX_ID && id.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::invalid(id, "a container id has letters, digits, dots, dashes and underscores, 128 at most"))
}
