//! Image volumes: the content of images as read-only directories of a container (CRI: `Mount.image`).
//!
//! Each has a snapshot of its own, whose lease keeps the image's layers while the container exists, whatever
//! becomes of the image's name.

use super::{Container, create};
use crate::engine::Inner;
use crate::error::{Kind, io_error};
use crate::flight::blocking;
use crate::journal::Undo;
use crate::{Error, Realm, Result};
use gantry_cri_api::v1;
use gantry_image_store::{ImageId, Owners};
use gantry_stage::Stage;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the kubelet looks for in an error to name the reason (cri-api, `ErrImageVolumeMountFailed`).
const MOUNT_FAILED: &str = "ImageVolumeMountFailed";

/// One image volume: which of the container's mounts, and which image.
#[derive(Debug)]
pub(super) struct Volume {
    number: usize,
    image: ImageId,
}

/// The image volumes of a request.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] for a mount that also names a path of the host or maps owners, for a sub path
/// that leaves the image, and for one without an image; [`Kind::NotFound`] for an image that is not here.
pub(super) fn wanted(inner: &Inner, realm: Realm, config: &v1::ContainerConfig) -> Result<Vec<Volume>> {
    let mut all = Vec::new();
    for (number, mount) in config.mounts.iter().enumerate() {
        let bad = |why: &str| {
            Error::new(Kind::InvalidArgument, format!("mount {:.256}: {why}", mount.container_path))
        };
        let Some(spec) = &mount.image else {
            match mount.image_sub_path.as_str() {
                "" => continue,
                _ => return Err(bad("a path in an image (image_sub_path) needs an image")),
            }
        };
        if !mount.host_path.is_empty() {
            return Err(bad("either an image or a path of the host can be mounted, not both"));
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(bad("an image's owners are mapped as the sandbox says"));
        }
        let sub = Path::new(&mount.image_sub_path);
        let climbs = |c: std::path::Component<'_>| matches!(c, std::path::Component::ParentDir);
        if sub.is_absolute() || sub.components().any(climbs) || mount.image_sub_path.contains('\0') {
            return Err(bad("the path in the image must be relative and without '..'"));
        }
        let image = create::image(inner, realm, Some(spec))
            .map_err(|e| e.context(format!("mount {:.256}", mount.container_path)))?;
        all.push(Volume { number, image: image.id });
    }
    Ok(all)
}

fn snapshot(container: &Container, volume: &Volume) -> String {
    format!("{}.image{}", container.id, volume.number)
}

/// Leases the images for the container.
pub(super) async fn lease(inner: &Arc<Inner>, container: &Container, volumes: &[Volume]) -> Result<()> {
    for volume in volumes {
        let id = snapshot(container, volume);
        container.promise(Undo::RemoveSnapshot(id.clone()))?;
        let (images, image, realm) = (inner.images.clone(), volume.image.clone(), container.pod.realm);
        let leasing = blocking(move || images.prepare(realm, &id, &image).map(drop).map_err(Error::from));
        Stage::ContainerImage.run(leasing).await?;
    }
    Ok(())
}

/// Mounts each image and points its mount of `mounts` at it. Blocking.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] for a path that the image does not have.
pub(super) fn mount(
    inner: &Inner,
    container: &Container,
    volumes: &[Volume],
    mounts: &mut [v1::Mount],
    owners: Option<&Owners<'_>>,
    context: Option<&str>,
) -> Result<()> {
    let dir = container.dir.join("images");
    for volume in volumes {
        let Some(mount) = mounts.get_mut(volume.number) else { continue };
        if !dir.exists() {
            std::fs::DirBuilder::new().mode(0o711).create(&dir).map_err(io_error("create", &dir))?;
        }
        let target = dir.join(volume.number.to_string());
        std::fs::create_dir(&target).map_err(io_error("create", &target))?;
        container.promise(Undo::Unmount(target.clone()))?;
        let id = snapshot(container, volume);
        inner.images.mount_as(&id, &target, owners, context)?;
        let source = within(&target, &mount.image_sub_path).map_err(|e| {
            let image = mount.image.as_ref().map_or("", |i| i.image.as_str());
            let message = format!(
                "{MOUNT_FAILED}: mount {:.256}: image {image:.256} has no {:.256?}: {e}",
                mount.container_path, mount.image_sub_path
            );
            Error::new(Kind::InvalidArgument, message)
        })?;
        mount.host_path = source.display().to_string();
    }
    Ok(())
}

/// The path of `sub` in the directory `root`, with its symbolic links followed inside only.
fn within(root: &Path, sub: &str) -> std::io::Result<PathBuf> {
    if sub.is_empty() {
        return Ok(root.to_owned());
    }
    let root = File::open(root)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(&root, sub, flags, Mode::empty(), resolve)?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_an_image_stay_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("data/models")).unwrap();
        std::os::unix::fs::symlink("/data", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", root.join("out")).unwrap();
        let root = std::fs::canonicalize(&root).unwrap();
        assert_eq!(within(&root, "").unwrap(), root);
        assert_eq!(within(&root, "data/models").unwrap(), root.join("data/models"));
        assert_eq!(within(&root, "link/models").unwrap(), root.join("data/models"));
        for missing in ["out", "out/passwd", "data/none"] {
            assert!(within(&root, missing).is_err(), "{missing}");
        }
    }
}
