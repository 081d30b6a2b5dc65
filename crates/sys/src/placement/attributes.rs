//! Mode, owner, time and extended attributes of an entry.

use super::PlaceError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// Marks a directory that hides what lies below it (kernel documentation, filesystems/overlayfs).
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Bits of a mode that an entry can set: permissions, set-id and sticky.
const MODE_BITS: u32 = 0o7777;
/// Bytes that one list of attribute names, or one value, may take (`XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// A point in time, as tar and the kernel count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, 0 to 999,999,999.
    pub nanos: u32,
}

/// What an entry looks like apart from its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission, set-id and sticky bits; others are ignored.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes by full name. Only `security.capability` and `user.*` are set; overlayfs's own
    /// and labels of other hosts are left out, as are those that the filesystem cannot hold.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Attributes of a directory that nothing describes.
    pub(super) fn default_directory(mtime: Time) -> Self {
        Self { mode: 0o755, mtime, ..Self::default() }
    }

    /// Attributes of an open file.
    pub(super) fn of_fd(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Self, PlaceError> {
        let stat = rustix::fs::fstat(fd).map_err(|e| PlaceError::of("fstat", path, e))?;
        let mut attributes = Self::of_stat(&stat);
        let mut names = vec![0; XATTR_MAX];
        let length = match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => return Ok(attributes),
            Err(e) => return Err(PlaceError::of("flistxattr", path, e)),
        };
        for name in names[..length].split(|b| *b == 0).filter(|n| may_set(n)) {
            let mut value = vec![0; XATTR_MAX];
            let length = rustix::fs::fgetxattr(fd, name, value.as_mut_slice())
                .map_err(|e| PlaceError::of("fgetxattr", path, e))?;
            value.truncate(length);
            attributes.xattrs.push((name.to_vec(), value));
        }
        Ok(attributes)
    }

    /// Attributes of a stat result, without extended ones.
    pub(super) fn of_stat(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & MODE_BITS,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: time_of(stat),
            xattrs: Vec::new(),
        }
    }
}

/// Sets everything on an open file or directory. The owner comes first: changing it clears set-id bits
/// and capabilities.
pub(super) fn apply_to_fd(fd: BorrowedFd<'_>, path: &[u8], a: &Attributes) -> Result<(), PlaceError> {
    let (uid, gid) = owner(a, path)?;
    rustix::fs::fchown(fd, uid, gid).map_err(|e| PlaceError::of("fchown", path, e))?;
    for (name, value) in a.xattrs.iter().filter(|(name, _)| may_set(name)) {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(PlaceError::of("fsetxattr", path, e)),
        }
    }
    let mode = Mode::from_raw_mode(a.mode & MODE_BITS);
    rustix::fs::fchmod(fd, mode).map_err(|e| PlaceError::of("fchmod", path, e))?;
    restore_mtime(fd, path, a.mtime)
}

/// Sets everything on a name that was just made in `dir` and is no regular file or directory.
pub(super) fn apply_to_name(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    path: &[u8],
    a: &Attributes,
) -> Result<(), PlaceError> {
    let (uid, gid) = owner(a, path)?;
    rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| PlaceError::of("fchownat", path, e))?;
    if kind != FileType::Symlink {
        // Nobody else writes here, so the name still is the node that was just made.
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(a.mode & MODE_BITS), AtFlags::empty())
            .map_err(|e| PlaceError::of("fchmodat", path, e))?;
    }
    rustix::fs::utimensat(dir, name, &timestamps(a.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| PlaceError::of("utimensat", path, e))
}

/// Sets the modification time of an open file or directory.
pub(super) fn restore_mtime(fd: BorrowedFd<'_>, path: &[u8], mtime: Time) -> Result<(), PlaceError> {
    rustix::fs::futimens(fd, &timestamps(mtime)).map_err(|e| PlaceError::of("futimens", path, e))
}

/// Modification time in a stat result.
pub(super) fn time_of(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Whether this is what overlayfs takes for a whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn owner(a: &Attributes, path: &[u8]) -> Result<(Option<Uid>, Option<Gid>), PlaceError> {
    // The kernel takes -1 for "leave it as it is".
    if a.uid == u32::MAX || a.gid == u32::MAX {
        return Err(PlaceError::refused(path, "owner 4294967295 is not a user or group"));
    }
    Ok((Some(Uid::from_raw(a.uid)), Some(Gid::from_raw(a.gid))))
}

fn may_set(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: i64::from(mtime.nanos.min(999_999_999)),
        },
    }
}
