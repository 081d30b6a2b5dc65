//! Programs sealed in memory, so that what runs in front of a container cannot be overwritten.

use crate::{Error, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Copies the program at `path` into a sealed, close-on-exec memfd.
///
/// A container that reaches `/proc/<pid>/exe` of such a program finds a file that nobody can write
/// (the CVE-2019-5736 defence). Every process executed from one memfd shares its pages.
pub fn seal_program(path: &Path) -> Result<OwnedFd> {
    let args = || path.display().to_string();
    let name = path.file_name().map_or("program".into(), |n| n.to_string_lossy().into_owned());
    let mut source = File::open(path).map_err(|e| Error::from_io("open", args(), &e))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name.as_str(), flags)
        .map_err(|e| Error::new("memfd_create", name.clone(), e))?;
    let mut sealed = File::from(fd);
    std::io::copy(&mut source, &mut sealed).map_err(|e| Error::from_io("copy to memfd", args(), &e))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&sealed, seals).map_err(|e| Error::new("F_ADD_SEALS", args(), e))?;
    Ok(sealed.into())
}

/// The path by which this process, or a child it spawns, executes the program behind `fd`.
pub fn exec_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
