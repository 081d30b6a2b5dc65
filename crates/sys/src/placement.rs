//! Placement of an image layer's entries below a directory that they cannot leave.
//!
//! A [`Placer`] owns one layer directory that nobody else writes. The parent of each entry is resolved
//! by the kernel with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`, so that links inside the layer
//! lead where they would lead a container, and never out; the final component is never followed. What
//! is placed is in overlayfs form: a whiteout is a character device 0:0, an opaque directory carries
//! `trusted.overlay.opaque` (kernel documentation, filesystems/overlayfs).
//!
//! Most layers need nothing but themselves. One that leaves out a parent directory, hard-links to a file
//! of a lower layer or goes through a lower symlink gets [`PlaceError::NeedsLower`]; the caller hands in
//! the lower layers with [`Placer::set_lower`] and repeats the call.

mod attributes;
mod error;
mod merged;
#[cfg(test)]
mod tests;

pub use attributes::{Attributes, Time};
pub use error::PlaceError;

use crate::{Error, tree};
use attributes::{OPAQUE_XATTR, apply_to_fd, apply_to_name, restore_mtime, time_of};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Prefix of a whiteout's name (OCI image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// Prefix of names that aufs kept for itself; they are no content.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// The one of them that has a meaning: it makes its directory opaque.
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Longest path of an entry in bytes, as the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4095;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Bytes that one read of an entry's content takes.
const BUFFER: usize = 128 << 10;
/// Disk space is counted in blocks of this size.
const BLOCK: u64 = 4096;

/// What one entry is.
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file with its content.
    File(&'a mut dyn Read),
    /// A symbolic link to this target, which is not looked at.
    Symlink(&'a [u8]),
    /// A second name for what is at this path of the image.
    HardLink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A character device (major, minor); 0:0 counts as a whiteout, as overlayfs would read it.
    Char(u32, u32),
    /// A block device (major, minor).
    Block(u32, u32),
}

impl fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "Directory",
            Self::File(_) => "File",
            Self::Symlink(_) => "Symlink",
            Self::HardLink(_) => "HardLink",
            Self::Fifo => "Fifo",
            Self::Char(..) => "Char",
            Self::Block(..) => "Block",
        })
    }
}

/// Places the entries of one layer, in the archive's order.
///
/// Directories keep the modification time that they were given although entries are placed in them
/// later. Memory does not depend on the number of entries.
#[derive(Debug)]
pub struct Placer {
    root: OwnedFd,
    /// Lower layers' directories, topmost first; `None` until the caller was asked for them.
    lower: Option<Vec<Arc<OwnedFd>>>,
    parent: Option<Parent>,
    buffer: Vec<u8>,
    bytes: u64,
    inodes: u64,
    root_placed: bool,
    root_opaque: bool,
}

/// The directory that the last entry was placed in.
#[derive(Debug)]
struct Parent {
    path: Vec<u8>,
    fd: OwnedFd,
    mtime: Time,
}

impl Placer {
    /// Places below `root`, an empty directory of a filesystem that supports `trusted.*` attributes.
    pub fn new(root: &Path) -> Result<Self, PlaceError> {
        let root = rustix::fs::open(root, DIRECTORY, Mode::empty())
            .map_err(|e| Error::new("open", root.display().to_string(), e))?;
        let (lower, parent, buffer) = (None, None, vec![0; BUFFER]);
        Ok(Self { root, lower, parent, buffer, bytes: 0, inodes: 0, root_placed: false, root_opaque: false })
    }

    /// Hands in the open directories of the lower layers, topmost first; empty for the lowest layer.
    pub fn set_lower(&mut self, lower: Vec<Arc<OwnedFd>>) {
        self.lower = Some(lower);
    }

    /// Whether the result depends on what lies below it.
    pub fn used_lower(&self) -> bool {
        self.lower.is_some()
    }

    /// Whether an entry gave the root directory its attributes.
    pub fn root_placed(&self) -> bool {
        self.root_placed
    }

    /// Whether the layer hides everything below it. overlayfs does not honour that on a layer's root:
    /// whoever mounts it must leave the lower layers out.
    pub fn root_opaque(&self) -> bool {
        self.root_opaque
    }

    /// Disk space placed so far, in bytes; files count in whole blocks of 4 KiB.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Inodes made so far.
    pub fn inodes(&self) -> u64 {
        self.inodes
    }

    /// Places one entry at `path`, which is taken relative to the root of the image.
    ///
    /// What an earlier entry put there is replaced, but a directory over a directory only changes its
    /// attributes. A name that starts with `.wh.` is a whiteout, whatever its kind.
    ///
    /// # Errors
    ///
    /// [`PlaceError::NeedsLower`] before anything was read from the content; the call may be repeated
    /// after [`Placer::set_lower`]. With [`PlaceError::Refused`] or [`PlaceError::Content`] the layer is bad.
    pub fn place(&mut self, path: &[u8], kind: Kind<'_>, attributes: &Attributes) -> Result<(), PlaceError> {
        let parts = components(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.place_root(path, &kind, attributes);
        };
        let (name, parents) = (*name, parents.join(&b'/'));
        if name.starts_with(WHITEOUT_META) && name != WHITEOUT_OPAQUE {
            return Ok(());
        }
        self.enter(&parents, attributes.mtime)?;
        if name == WHITEOUT_OPAQUE {
            self.root_opaque |= parents.is_empty();
            return self.with_parent(|placer, dir| placer.make_opaque(dir, path));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(PlaceError::refused(path, "a whiteout must name an entry"));
            }
            return self.with_parent(|placer, dir| placer.whiteout(dir, hidden, path));
        }
        match kind {
            Kind::Directory => self.with_parent(|placer, dir| placer.directory(dir, name, path, attributes)),
            Kind::File(content) => {
                self.with_parent(|placer, dir| placer.file(dir, name, path, content, attributes))
            }
            Kind::Symlink(target) => self.with_parent(|placer, dir| {
                placer.replacing(dir, name, path, |dir| rustix::fs::symlinkat(target, dir, name))?;
                apply_to_name(dir, name, FileType::Symlink, path, attributes)
            }),
            Kind::HardLink(target) => {
                let target = self.link_target(target, path, attributes.mtime)?;
                self.with_parent(|placer, dir| placer.hard_link(dir, name, path, &target))
            }
            Kind::Char(0, 0) => self.with_parent(|placer, dir| placer.whiteout(dir, name, path)),
            Kind::Fifo => self.node(name, path, FileType::Fifo, 0, attributes),
            Kind::Char(major, minor) => {
                let device = rustix::fs::makedev(major, minor);
                self.node(name, path, FileType::CharacterDevice, device, attributes)
            }
            Kind::Block(major, minor) => {
                let device = rustix::fs::makedev(major, minor);
                self.node(name, path, FileType::BlockDevice, device, attributes)
            }
        }
    }

    /// Settles what is owed to the last directory; call it after the last entry.
    pub fn finish(&mut self) -> Result<(), PlaceError> {
        self.leave()
    }

    fn place_root(
        &mut self,
        path: &[u8],
        kind: &Kind<'_>,
        attributes: &Attributes,
    ) -> Result<(), PlaceError> {
        if !matches!(kind, Kind::Directory) {
            return Err(PlaceError::refused(path, "the root of an image must be a directory"));
        }
        self.leave()?;
        self.root_placed = true;
        apply_to_fd(self.root.as_fd(), path, attributes)
    }

    /// Makes the directory `path` the current one.
    fn enter(&mut self, path: &[u8], mtime: Time) -> Result<(), PlaceError> {
        if self.parent.as_ref().is_some_and(|p| p.path == path) {
            return Ok(());
        }
        self.leave()?;
        let fd = self.resolve(path, mtime)?;
        let stat =
            rustix::fs::fstat(&fd).map_err(|e| Error::new("fstat", String::from_utf8_lossy(path), e))?;
        self.parent = Some(Parent { path: path.to_vec(), fd, mtime: time_of(&stat) });
        Ok(())
    }

    /// Leaves the current directory with the modification time it should have.
    fn leave(&mut self) -> Result<(), PlaceError> {
        match self.parent.take() {
            Some(parent) => restore_mtime(parent.fd.as_fd(), &parent.path, parent.mtime),
            None => Ok(()),
        }
    }

    /// Calls `f` with the current directory.
    fn with_parent<T>(
        &mut self,
        f: impl FnOnce(&mut Self, BorrowedFd<'_>) -> Result<T, PlaceError>,
    ) -> Result<T, PlaceError> {
        let Some(parent) = self.parent.take() else {
            return Err(Error::new("place", "no current directory", Errno::BADF).into());
        };
        let result = f(self, parent.fd.as_fd());
        self.parent = Some(parent);
        result
    }

    /// Opens the directory `path` of the image; parents that the layer leaves out are taken from below.
    fn resolve(&mut self, path: &[u8], mtime: Time) -> Result<OwnedFd, PlaceError> {
        let in_root = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let text: &[u8] = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(&self.root, text, DIRECTORY, Mode::empty(), in_root) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(self.walk(path, mtime)?.fd),
            Err(e) => Err(PlaceError::of("openat2", path, e)),
        }
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        attributes: &Attributes,
    ) -> Result<(), PlaceError> {
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => self.count(BLOCK),
            Err(Errno::EXIST) => {
                let stat = stat_name(dir, name, path)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.replace_by_directory(dir, name, path)?;
                }
            }
            Err(e) => return Err(PlaceError::of("mkdirat", path, e)),
        }
        let fd = open_directory(dir, name, path)?;
        apply_to_fd(fd.as_fd(), path, attributes)
    }

    /// What lay below a file, link or whiteout of this layer stays hidden when a directory replaces it.
    fn replace_by_directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), PlaceError> {
        tree::remove_at(dir, name)?;
        rustix::fs::mkdirat(dir, name, Mode::RWXU).map_err(|e| PlaceError::of("mkdirat", path, e))?;
        self.count(BLOCK);
        let fd = open_directory(dir, name, path)?;
        self.make_opaque(fd.as_fd(), path)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        content: &mut dyn Read,
        attributes: &Attributes,
    ) -> Result<(), PlaceError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut made = None;
        self.replacing(dir, name, path, |dir| {
            made = Some(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
            Ok(())
        })?;
        let Some(fd) = made else {
            return Err(PlaceError::of("openat", path, Errno::IO));
        };
        let mut file = File::from(fd);
        let size = self.copy(content, &mut file, path)?;
        self.bytes = self.bytes.saturating_add(size.next_multiple_of(BLOCK));
        apply_to_fd(file.as_fd(), path, attributes)
    }

    fn copy(&mut self, from: &mut dyn Read, to: &mut File, path: &[u8]) -> Result<u64, PlaceError> {
        let mut size = 0_u64;
        loop {
            let n = match from.read(&mut self.buffer) {
                Ok(0) => return Ok(size),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(PlaceError::Content(e)),
            };
            to.write_all(&self.buffer[..n])
                .map_err(|e| Error::from_io("write", String::from_utf8_lossy(path), &e))?;
            size += n as u64;
        }
    }

    fn node(
        &mut self,
        name: &[u8],
        path: &[u8],
        kind: FileType,
        device: u64,
        attributes: &Attributes,
    ) -> Result<(), PlaceError> {
        self.with_parent(|placer, dir| {
            placer.replacing(dir, name, path, |dir| {
                rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
            })?;
            apply_to_name(dir, name, kind, path, attributes)
        })
    }

    fn hard_link(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        target: &merged::Target,
    ) -> Result<(), PlaceError> {
        let existing = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        if existing.is_ok_and(|s| (s.st_dev, s.st_ino) == target.identity) {
            return Ok(());
        }
        self.replacing(dir, name, path, |dir| {
            rustix::fs::linkat(&target.dir, target.name.as_slice(), dir, name, AtFlags::empty())
        })?;
        // The inode was counted with its first name.
        self.inodes = self.inodes.saturating_sub(1);
        Ok(())
    }

    /// Runs `make`, after removing what an earlier entry of this layer put at `name`.
    fn replacing(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        mut make: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<(), PlaceError> {
        let made = match make(dir) {
            Err(Errno::EXIST) => {
                tree::remove_at(dir, name)?;
                make(dir)
            }
            made => made,
        };
        made.map_err(|e| PlaceError::of("place", path, e))?;
        self.count(0);
        Ok(())
    }

    /// Hides `name` of the lower layers; what this layer itself puts there stays (OCI image-spec,
    /// layer.md: whiteouts apply to lower layers only, wherever they stand in the archive).
    fn whiteout(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), PlaceError> {
        let mode = Mode::empty();
        match rustix::fs::mknodat(dir, name, FileType::CharacterDevice, mode, 0) {
            Ok(()) => {
                self.count(0);
                Ok(())
            }
            Err(Errno::EXIST) => {
                let stat = stat_name(dir, name, path)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(());
                }
                let fd = open_directory(dir, name, path)?;
                self.make_opaque(fd.as_fd(), path)
            }
            Err(e) => Err(PlaceError::of("mknodat", path, e)),
        }
    }

    fn make_opaque(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), PlaceError> {
        rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
            .map_err(|e| PlaceError::of("fsetxattr trusted.overlay.opaque", path, e))
    }

    fn count(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.inodes = self.inodes.saturating_add(1);
    }
}

/// Splits an entry's path; leading slashes and `.` fall away, `..` is refused.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, PlaceError> {
    if path.len() > MAX_PATH {
        return Err(PlaceError::refused(&path[..64], "the path is longer than 4095 bytes"));
    }
    if path.contains(&0) {
        return Err(PlaceError::refused(path, "the path holds a NUL byte"));
    }
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err(PlaceError::refused(path, "the path holds \"..\""));
    }
    Ok(parts)
}

fn stat_name(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Stat, PlaceError> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| PlaceError::of("statat", path, e))
}

fn open_directory(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd, PlaceError> {
    rustix::fs::openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| PlaceError::of("openat", path, e))
}
