//! Space that a directory tree takes, while others may write to it.

use crate::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Most names of directories that are held on the way, and most files with several names that are
/// recognised: a bound on memory of some 100 MiB in the worst case, and next to none in the usual one.
const MAX_HELD: usize = 1 << 20;

/// Space that a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Bytes of blocks in use; holes take none.
    pub bytes: u64,
    /// Files and directories; a file with several names counts once.
    pub inodes: u64,
}

/// Adds up what `path` and everything below it takes, without following links and without leaving the
/// filesystem.
///
/// Needs one descriptor however deep the tree is. What comes and goes meanwhile is counted or not.
///
/// # Errors
///
/// `EIO` when a directory on the way was moved elsewhere, `E2BIG` for a directory with more than a million
/// others; what the kernel refuses, but for what is gone.
pub fn of_tree(path: &Path) -> Result<TreeUsage> {
    let failed = |call: &'static str| move |e| Error::new(call, path.display().to_string(), e);
    let top = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(failed("open"))?;
    let stat = rustix::fs::fstat(&top).map_err(failed("fstat"))?;
    let mut sum = Sum { device: stat.st_dev, ..Sum::default() };
    sum.add(&stat);
    sum.walk(top).map_err(failed("walk"))?;
    Ok(sum.usage)
}

#[derive(Default)]
struct Sum {
    usage: TreeUsage,
    device: u64,
    /// Files with several names that were counted.
    linked: HashSet<u64>,
    held: usize,
}

/// A directory on the way down: who it is, and which of its directories are left.
struct Level {
    identity: (u64, u64),
    left: Vec<CString>,
}

impl Sum {
    fn add(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let again = stat.st_nlink > 1
            && !is_directory
            && (self.linked.contains(&stat.st_ino)
                || (self.linked.len() < MAX_HELD && !self.linked.insert(stat.st_ino)));
        if !again {
            // Blocks are of 512 bytes, whatever the filesystem's (stat(2)).
            self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            self.usage.inodes += 1;
        }
    }

    fn walk(&mut self, top: OwnedFd) -> rustix::io::Result<()> {
        let mut here = top;
        let mut levels = vec![self.read(&here)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.left.pop() {
                self.held -= 1;
                match rustix::fs::openat(&here, &name, DIRECTORY, Mode::empty()) {
                    Ok(below) => {
                        let stat = rustix::fs::fstat(&below)?;
                        // Something mounted there belongs to somebody else.
                        if stat.st_dev == self.device {
                            here = below;
                            levels.push(self.read(&here)?);
                        }
                    }
                    // Gone, or something else now.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(e) => return Err(e),
                }
                continue;
            }
            levels.pop();
            let Some(above) = levels.last() else { break };
            here = rustix::fs::openat(&here, "..", DIRECTORY, Mode::empty())?;
            if identity(&here)? != above.identity {
                return Err(Errno::IO);
            }
        }
        Ok(())
    }

    /// Counts what is in a directory, and remembers the directories among it.
    fn read(&mut self, dir: &OwnedFd) -> rustix::io::Result<Level> {
        let mut left = Vec::new();
        for entry in Dir::read_from(dir.as_fd())? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            self.add(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_dev == self.device {
                if self.held == MAX_HELD {
                    return Err(Errno::TOOBIG);
                }
                self.held += 1;
                left.push(name.to_owned());
            }
        }
        Ok(Level { identity: identity(dir)?, left })
    }
}

fn identity(dir: &OwnedFd) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, openat};

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("gantry-usage-{name}-{}", std::process::id()));
            crate::tree::remove(&dir).unwrap();
            std::fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _left = crate::tree::remove(&self.0);
        }
    }

    #[test]
    fn links_count_once_and_are_not_followed() {
        let scratch = Scratch::new("links");
        let dir = &scratch.0;
        let empty = of_tree(dir).unwrap();
        assert_eq!(empty.inodes, 1);
        std::fs::create_dir(dir.join("d")).unwrap();
        std::fs::write(dir.join("d/a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.join("d/a"), dir.join("b")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.join("usr")).unwrap();
        let full = of_tree(dir).unwrap();
        assert_eq!(full.inodes, 4, "the top, d, the file, the link");
        let grown = full.bytes - empty.bytes;
        assert!((100_000..150_000).contains(&grown), "{grown}");
    }

    #[test]
    fn depth_costs_no_descriptors_and_holes_no_space() {
        let scratch = Scratch::new("deep");
        let mut here = rustix::fs::open(&scratch.0, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2_000 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        let file = openat(&here, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        rustix::fs::ftruncate(&file, 1 << 40).unwrap();
        let usage = of_tree(&scratch.0).unwrap();
        assert_eq!(usage.inodes, 2_002);
        assert!(usage.bytes < 1 << 30, "{}", usage.bytes);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(of_tree(Path::new("/nonexistent/gantry/usage")).is_err());
    }
}
