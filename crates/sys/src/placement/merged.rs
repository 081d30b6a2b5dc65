//! Paths that this layer alone does not hold: they are walked component by component through the view
//! that a container would see, and what they need from below is copied up.

use super::attributes::{OPAQUE_XATTR, apply_to_name, is_whiteout, restore_mtime, time_of};
use super::{
    AtFlags, Attributes, BorrowedFd, DIRECTORY, File, FileType, MAX_PATH, Mode, OFlags, OwnedFd, PlaceError,
    Placer, ResolveFlags, Stat, Time, components, open_directory, stat_name,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::AsFd;

/// Symbolic links that one path may go through, as the kernel's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

/// A directory of the image, present in this layer.
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// Its path without links.
    path: Vec<Vec<u8>>,
    /// Lower layers (by index) whose directory of this path is visible, topmost first.
    visible: Vec<usize>,
}

/// What a hard link names, present in this layer.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) dir: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) identity: (u64, u64),
}

/// What lower layers have at a path.
enum Below {
    Nothing,
    Directory(Vec<usize>),
    Other(usize, Stat),
}

impl Placer {
    /// Opens the directory `path` of the image, and makes those of its components that this layer
    /// leaves out: as they are below, or with mode 0755 of root when they are nowhere.
    pub(super) fn walk(&mut self, path: &[u8], mtime: Time) -> Result<Directory, PlaceError> {
        let mut todo: VecDeque<Vec<u8>> = components(path)?.into_iter().map(<[u8]>::to_vec).collect();
        let mut here = self.top()?;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                let mut up = here.path;
                up.pop();
                here = self.reopen(up)?;
                continue;
            }
            match self.step(&here, &name, path, mtime)? {
                Step::Into(next) => here = next,
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS || target.len() > MAX_PATH {
                        return Err(PlaceError::refused(path, "too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        here = self.top()?;
                    }
                    let parts = target.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b"."));
                    for part in parts.rev() {
                        todo.push_front(part.to_vec());
                    }
                }
            }
        }
        Ok(here)
    }

    /// Finds what a hard link at `path` names, and copies it up when only a lower layer has it.
    pub(super) fn link_target(
        &mut self,
        target: &[u8],
        path: &[u8],
        mtime: Time,
    ) -> Result<Target, PlaceError> {
        let parts = components(target)?;
        let Some((name, parents)) = parts.split_last() else {
            return Err(PlaceError::refused(path, "a hard link to the root directory"));
        };
        let (name, parents) = (*name, parents.join(&b'/'));
        let dir = self.resolve(&parents, mtime)?;
        let missing = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => false,
            Ok(stat) => return found(dir, name, &stat, path),
            Err(Errno::NOENT) => true,
            Err(e) => return Err(PlaceError::of("statat", path, e)),
        };
        let absent = || PlaceError::refused(path, "a hard link to what is not there");
        if !missing {
            return Err(absent());
        }
        if self.lower.is_none() {
            return Err(PlaceError::NeedsLower);
        }
        let here = self.walk(&parents, mtime)?;
        let Below::Other(index, stat) = self.below(&here, name)? else {
            return Err(absent());
        };
        let held = restoring(here.fd.as_fd(), path, |fd| {
            self.copy_up(fd, name, &here.path, index, &stat, path)?;
            stat_name(fd, name, path)
        })?;
        found(here.fd, name, &held, path)
    }

    fn top(&self) -> Result<Directory, PlaceError> {
        let fd = rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty())
            .map_err(|e| PlaceError::of("openat", b"/", e))?;
        let layers = self.lower.as_ref().map_or(0, Vec::len);
        let visible = if self.root_opaque { Vec::new() } else { (0..layers).collect() };
        Ok(Directory { fd, path: Vec::new(), visible })
    }

    /// Opens a path that was walked before, so that every component is a directory of this layer.
    fn reopen(&self, path: Vec<Vec<u8>>) -> Result<Directory, PlaceError> {
        let mut here = self.top()?;
        for name in path {
            let fd = open_directory(here.fd.as_fd(), &name, &name)?;
            let visible = self.seen_through(&here, &name, fd.as_fd())?;
            here.path.push(name);
            here = Directory { fd, path: here.path, visible };
        }
        Ok(here)
    }

    fn step(&mut self, here: &Directory, name: &[u8], path: &[u8], mtime: Time) -> Result<Step, PlaceError> {
        let mut child = here.path.clone();
        child.push(name.to_vec());
        let stat = match rustix::fs::statat(&here.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(PlaceError::of("statat", path, e)),
        };
        let Some(stat) = stat else {
            if self.lower.is_none() {
                return Err(PlaceError::NeedsLower);
            }
            let (attributes, visible) = match self.below(here, name)? {
                Below::Nothing => (Attributes::default_directory(mtime), Vec::new()),
                Below::Directory(visible) => {
                    let fd = self.open_below(visible[0], &child, DIRECTORY)?;
                    (Attributes::of_fd(fd.as_fd(), path)?, visible)
                }
                Below::Other(index, stat) => return self.link_below(index, &child, &stat, path),
            };
            restoring(here.fd.as_fd(), path, |dir| self.directory(dir, name, path, &attributes))?;
            let fd = open_directory(here.fd.as_fd(), name, path)?;
            return Ok(Step::Into(Directory { fd, path: child, visible }));
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let fd = open_directory(here.fd.as_fd(), name, path)?;
                let visible = self.seen_through(here, name, fd.as_fd())?;
                Ok(Step::Into(Directory { fd, path: child, visible }))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&here.fd, name, Vec::new())
                    .map_err(|e| PlaceError::of("readlinkat", path, e))?;
                Ok(Step::Link(target.into_bytes()))
            }
            _ if is_whiteout(&stat) => {
                let attributes = Attributes::default_directory(mtime);
                restoring(here.fd.as_fd(), path, |dir| self.directory(dir, name, path, &attributes))?;
                let fd = open_directory(here.fd.as_fd(), name, path)?;
                Ok(Step::Into(Directory { fd, path: child, visible: Vec::new() }))
            }
            _ => Err(PlaceError::refused(path, "a parent of the entry is not a directory")),
        }
    }

    fn link_below(
        &self,
        index: usize,
        child: &[Vec<u8>],
        stat: &Stat,
        path: &[u8],
    ) -> Result<Step, PlaceError> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(PlaceError::refused(path, "a parent of the entry is no directory in a lower layer"));
        }
        let target = self.read_link_below(index, child)?;
        Ok(Step::Link(target))
    }

    /// Lower layers that show through the directory `name` of this layer.
    fn seen_through(
        &self,
        here: &Directory,
        name: &[u8],
        fd: BorrowedFd<'_>,
    ) -> Result<Vec<usize>, PlaceError> {
        if is_opaque(fd) {
            return Ok(Vec::new());
        }
        match self.below(here, name)? {
            Below::Directory(visible) => Ok(visible),
            Below::Nothing | Below::Other(..) => Ok(Vec::new()),
        }
    }

    /// What the lower layers that `here` shows have at `name`.
    fn below(&self, here: &Directory, name: &[u8]) -> Result<Below, PlaceError> {
        let mut child = here.path.clone();
        child.push(name.to_vec());
        let mut visible = Vec::new();
        for &index in &here.visible {
            let path = child.join(&b'/');
            let root = self.root_below(index)?;
            let stat = match rustix::fs::statat(root, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(PlaceError::of("statat", &path, e)),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                visible.push(index);
                if is_opaque(self.open_below(index, &child, DIRECTORY)?.as_fd()) {
                    break;
                }
            } else if visible.is_empty() && !is_whiteout(&stat) {
                return Ok(Below::Other(index, stat));
            } else {
                break;
            }
        }
        Ok(if visible.is_empty() { Below::Nothing } else { Below::Directory(visible) })
    }

    /// Copies what lower layer `index` has at `parents/name` to `name` in `dir`, which is that path here.
    fn copy_up(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        parents: &[Vec<u8>],
        index: usize,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), PlaceError> {
        let mut child = parents.to_vec();
        child.push(name.to_vec());
        let attributes = Attributes::of_stat(stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let fd = self.open_below(index, &child, OFlags::RDONLY | OFlags::CLOEXEC)?;
                let attributes = Attributes::of_fd(fd.as_fd(), path)?;
                self.file(dir, name, path, &mut File::from(fd), &attributes)
            }
            FileType::Symlink => {
                let target = self.read_link_below(index, &child)?;
                self.replacing(dir, name, path, |dir| rustix::fs::symlinkat(target.as_slice(), dir, name))?;
                apply_to_name(dir, name, kind, path, &attributes)
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                self.replacing(dir, name, path, |dir| {
                    rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)
                })?;
                apply_to_name(dir, name, kind, path, &attributes)
            }
            _ => Err(PlaceError::refused(path, "a hard link to what cannot be linked")),
        }
    }

    fn root_below(&self, index: usize) -> Result<&OwnedFd, PlaceError> {
        self.lower.as_ref().and_then(|l| l.get(index)).map(AsRef::as_ref).ok_or(PlaceError::NeedsLower)
    }

    /// Opens a path of a lower layer whose parents were walked, so that none of them is a link.
    fn open_below(&self, index: usize, path: &[Vec<u8>], flags: OFlags) -> Result<OwnedFd, PlaceError> {
        let path = path.join(&b'/');
        let root = self.root_below(index)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(root, path.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty(), resolve)
            .map_err(|e| PlaceError::of("openat2", &path, e))
    }

    fn read_link_below(&self, index: usize, path: &[Vec<u8>]) -> Result<Vec<u8>, PlaceError> {
        let path = path.join(&b'/');
        let root = self.root_below(index)?;
        let target = rustix::fs::readlinkat(root, path.as_slice(), Vec::new())
            .map_err(|e| PlaceError::of("readlinkat", &path, e))?;
        Ok(target.into_bytes())
    }
}

enum Step {
    Into(Directory),
    Link(Vec<u8>),
}

fn found(dir: OwnedFd, name: &[u8], stat: &Stat, path: &[u8]) -> Result<Target, PlaceError> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(PlaceError::refused(path, "a hard link to a directory"));
    }
    Ok(Target { dir, name: name.to_vec(), identity: (stat.st_dev, stat.st_ino) })
}

fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE_XATTR, &mut value), Ok(1)) && value == *b"y"
}

/// Calls `f` and gives the directory its modification time back.
fn restoring<T>(
    dir: BorrowedFd<'_>,
    path: &[u8],
    f: impl FnOnce(BorrowedFd<'_>) -> Result<T, PlaceError>,
) -> Result<T, PlaceError> {
    let stat = rustix::fs::fstat(dir).map_err(|e| PlaceError::of("fstat", path, e))?;
    let result = f(dir)?;
    restore_mtime(dir, path, time_of(&stat))?;
    Ok(result)
}
