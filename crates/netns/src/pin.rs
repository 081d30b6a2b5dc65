//! Network namespaces pinned in the file system, where agents of nodes look for them.
//!
//! A pin is an empty file with the namespace bound on it, as `ip netns` makes it. The name is derived from
//! the pod's id, so that daemons that share the directory never meet.

use crate::{Error, Result};
use gantry_sys::mount;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Most mounts on one pin: more than one is only there if the directory was bound on itself meanwhile.
const MAX_STACKED: usize = 8;

/// Magic number of the file system that namespaces are files of (`NSFS_MAGIC` of linux/magic.h).
const NSFS: u64 = 0x6e73_6673;

/// Where the namespace of a pod is pinned below `dir`.
pub(crate) fn path(dir: &Path, pod_id: &str) -> PathBuf {
    dir.join(format!("gantry-{pod_id}"))
}

/// Pins a namespace; a pin that is there already is made anew. Tells whether `dir` had to be made.
pub(crate) fn pin(dir: &Path, path: &Path, netns: BorrowedFd<'_>) -> Result<bool> {
    let mut made = make_dir(dir)?;
    unpin(path)?;
    if let Err(error) = create(path) {
        // Another daemon that ended may just have taken the empty directory away.
        if error.kind() != std::io::ErrorKind::NotFound {
            return Err(Error::io(format!("create {}", path.display()), &error));
        }
        made |= make_dir(dir)?;
        create(path).map_err(|e| Error::io(format!("create {}", path.display()), &e))?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", netns.as_raw_fd()));
    mount::bind(&source, path).map_err(|e| Error::failed(format!("pin {}", path.display()), e))?;
    Ok(made)
}

/// Removes a pin; succeeds when there is none. The namespace ends when nothing else holds it.
pub(crate) fn unpin(path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("unpin {}", path.display()), e);
    for _ in 0..MAX_STACKED {
        mount::detach(path).map_err(|e| failed(&e))?;
        match std::fs::remove_file(path) {
            // Something is mounted on it still.
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {}
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&e)),
            _ => return Ok(()),
        }
    }
    Err(failed(&"something else is mounted on it; unmount it by hand"))
}

/// Whether a namespace is pinned there.
pub(crate) fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|kind| kind == NSFS))
}

fn make_dir(dir: &Path) -> Result<bool> {
    match std::fs::DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) => {
            let failed = |e| Error::io(format!("create {}", dir.display()), &e);
            std::fs::create_dir_all(dir).map_err(failed)?;
            Ok(true)
        }
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpinning_what_is_not_pinned_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let place = path(dir.path(), "a1");
        assert_eq!(place, dir.path().join("gantry-a1"));
        unpin(&place).unwrap();
        std::fs::write(&place, "").unwrap();
        assert!(!is_pinned(&place));
        unpin(&place).unwrap();
        assert!(!place.exists());
        assert!(is_pinned(Path::new("/proc/self/ns/net")));
    }
}
