//! Mounts that show files with other owners (mount_setattr(2), `MOUNT_ATTR_IDMAP`).

use crate::{Error, Result};
use nix::libc;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// A detached copy of the mount of `path` (with what is mounted below it, if `recursive`) whose owners are
/// mapped as in the user namespace `userns`: what is owned by its inner id on disk shows as the outer one.
///
/// # Errors
///
/// `EINVAL` when a filesystem below does not support it; `EPERM` without the right to it.
pub fn mapped(path: &Path, userns: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mut at = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
        at |= libc::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .map_err(|e| Error::new("open_tree", path.display().to_string(), e))?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.as_raw_fd() as u64,
    };
    // SAFETY: the path is an empty C string, and the kernel reads one mount_attr of the size that is given;
    // both live across the call, as do the two descriptors.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(tree);
    }
    let error = std::io::Error::last_os_error();
    Err(Error::from_io("mount_setattr", format!("{}, MOUNT_ATTR_IDMAP", path.display()), &error))
}

/// Attaches a detached mount at `target`.
pub fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", rustix::fs::CWD, target, flags)
        .map_err(|e| Error::new("move_mount", target.display().to_string(), e))
}
