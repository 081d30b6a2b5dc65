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
    let mut tries = 1;
    loop {
        match rustix::fs::fcntl_add_seals(&sealed, seals) {
            Ok(()) => return Ok(sealed.into()),
            // The kernel waits some 150 ms for pages that somebody still holds (a scan, a batch of another
            // CPU), then gives up; on a busy machine that can be too short.
            Err(rustix::io::Errno::BUSY) if tries < SEAL_TRIES => tries += 1,
            Err(e) => return Err(Error::new("F_ADD_SEALS", args(), e)),
        }
    }
}

/// Attempts to seal; each waits in the kernel.
const SEAL_TRIES: u32 = 40;

/// The path by which this process, or a child it spawns, executes the program behind `fd`.
pub fn exec_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_sealed_program_runs_and_cannot_be_written() {
        let sealed = seal_program(Path::new("/bin/true")).unwrap();
        assert!(std::process::Command::new(exec_path(sealed.as_fd())).status().unwrap().success());
        let mut file = File::from(sealed.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err());
        assert!(
            File::options()
                .write(true)
                .open(exec_path(sealed.as_fd()))
                .and_then(|mut f| f.write_all(b"x"))
                .is_err()
        );
        let error = seal_program(Path::new("/nonexistent/program")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/program"), "{error}");
    }
}
