//! Deletion of directory trees of any depth, whatever their modes.

use crate::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Deletes `path` and everything below it; succeeds when there is nothing.
///
/// Links are deleted, not followed. Depth costs 16 bytes a level, not a descriptor or a stack frame,
/// because a container can nest directories without end. Needs no disk space. The tree must not be
/// changed by others meanwhile; a directory that was moved away stops the deletion with `EIO`.
pub fn remove(path: &Path) -> Result<()> {
    let args = || path.display().to_string();
    let Some(name) = path.file_name() else {
        return Err(Error::new("remove", args(), Errno::INVAL));
    };
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(dir) => remove_at(dir.as_fd(), name.as_encoded_bytes()),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::new("open", parent.display().to_string(), e)),
    }
}

/// As [`remove`], for one name in `dir`.
pub fn remove_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let args = || String::from_utf8_lossy(name).into_owned();
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(Error::new("unlinkat", args(), e)),
    }
    let top = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
        .map_err(|e| Error::new("openat", args(), e))?;
    empty(top)?;
    remove_directory(dir, name).map_err(|e| Error::new("rmdir", args(), e))
}

/// Deletes everything in the directory `path`, which stays.
pub fn remove_contents(path: &Path) -> Result<()> {
    let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
        .map_err(|e| Error::new("open", path.display().to_string(), e))?;
    empty(fd)
}

/// Deletes everything in `here`, going down and up by descriptor.
fn empty(mut here: OwnedFd) -> Result<()> {
    let mut above: Vec<(u64, u64)> = Vec::new();
    loop {
        match clear_files(here.as_fd())? {
            Some(name) => {
                let next = rustix::fs::openat(&here, &name, DIRECTORY, Mode::empty())
                    .map_err(|e| Error::new("openat", name.to_string_lossy(), e))?;
                above.push(identity(here.as_fd())?);
                here = next;
            }
            None => {
                let Some(expected) = above.pop() else {
                    return Ok(());
                };
                here = rustix::fs::openat(&here, "..", DIRECTORY, Mode::empty())
                    .map_err(|e| Error::new("openat", "..", e))?;
                if identity(here.as_fd())? != expected {
                    return Err(Error::new("remove", "the tree was moved meanwhile", Errno::IO));
                }
            }
        }
    }
}

/// Deletes entries of `dir` until a directory that is not empty comes; that one's name is returned.
fn clear_files(dir: BorrowedFd<'_>) -> Result<Option<CString>> {
    let entries = Dir::read_from(dir).map_err(|e| Error::new("getdents64", "", e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::new("getdents64", "", e))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let file = match entry.file_type() {
            FileType::Directory => Err(Errno::ISDIR),
            _ => rustix::fs::unlinkat(dir, name, AtFlags::empty()),
        };
        let removed = match file {
            Err(Errno::ISDIR | Errno::PERM) => remove_directory(dir, name.to_bytes()),
            file => file,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
            Err(e) => return Err(Error::new("unlinkat", name.to_string_lossy(), e)),
        }
    }
    Ok(None)
}

fn remove_directory(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn identity(dir: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir).map_err(|e| Error::new("fstat", "", e))?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, openat};

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("gantry-tree-{name}-{}", std::process::id()));
        remove(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn what_is_not_there_is_removed() {
        remove(Path::new("/nonexistent/gantry/tree")).unwrap();
    }

    #[test]
    fn links_are_deleted_and_not_followed() {
        let dir = scratch("links");
        let kept = dir.join("kept");
        std::fs::create_dir_all(kept.join("inside")).unwrap();
        let doomed = dir.join("doomed");
        std::fs::create_dir(&doomed).unwrap();
        std::os::unix::fs::symlink(&kept, doomed.join("link")).unwrap();
        remove(&doomed).unwrap();
        assert!(kept.join("inside").is_dir());
        assert!(!doomed.exists());
        remove(&dir).unwrap();
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let dir = scratch("deep");
        let mut here = rustix::fs::open(&dir, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3_000 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(here);
        remove(&dir).unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn modes_do_not_hinder_root_and_wide_trees_go_too() {
        use std::os::unix::fs::PermissionsExt;
        let dir = scratch("wide");
        for i in 0..300 {
            let sub = dir.join(format!("sub{i}"));
            std::fs::create_dir(&sub).unwrap();
            std::fs::write(sub.join("file"), b"x").unwrap();
            std::fs::set_permissions(&sub, std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_contents(&dir).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        remove(&dir).unwrap();
    }
}
