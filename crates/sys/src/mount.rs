//! Mounts, each named with its target in the error.

use crate::{Error, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Mounts a tmpfs on `target` with nosuid and nodev.
///
/// `options` are the filesystem's own (`size=64m,mode=0700`).
pub fn tmpfs(target: &Path, options: &str, extra: MountFlags) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | extra;
    let data = c_string("mount", options)?;
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, data.as_c_str())
        .map_err(|e| Error::new("mount", format!("tmpfs on {}, {options}", target.display()), e))
}

/// Binds `source` (with what is mounted below it) on `target`.
pub fn bind_recursive(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|e| Error::new("mount", format!("bind {} on {}", source.display(), target.display()), e))
}

/// Binds `source` alone on `target`; both are files or both are directories.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind(source, target)
        .map_err(|e| Error::new("mount", format!("bind {} on {}", source.display(), target.display()), e))
}

/// Sets how mount events travel to and from `target` (mount_namespaces(7)).
pub fn set_propagation(target: &Path, how: MountPropagationFlags) -> Result<()> {
    rustix::mount::mount_change(target, how)
        .map_err(|e| Error::new("mount", format!("{how:?} on {}", target.display()), e))
}

/// Detaches whatever is mounted on `target`; succeeds when nothing is, or when the path is not there.
///
/// The detach is lazy: it returns at once even while files below are open.
pub fn detach(target: &Path) -> Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::new("umount2", format!("{}, MNT_DETACH", target.display()), e)),
    }
}

/// Whether `path` is the root of a mount.
///
/// # Errors
///
/// What the table of mounts cannot be read with.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    Ok(points(&table()?).any(|p| Path::new(&p) == path))
}

/// Mount points below `dir`, in the order of the kernel's table.
pub fn points_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let below = |p: &PathBuf| p.starts_with(dir) && p != dir;
    Ok(points(&table()?).map(PathBuf::from).filter(below).collect())
}

/// The mount table of the calling thread, which may have a mount namespace of its own.
fn table() -> Result<String> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    std::fs::read_to_string(TABLE).map_err(|e| Error::from_io("read", TABLE, &e))
}

/// Mount points listed in the text of a mountinfo file, unescaped.
pub fn points(mountinfo: &str) -> impl Iterator<Item = String> + '_ {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape)
}

/// Undoes the octal escapes of mountinfo (proc(5)): blank, tab, newline, backslash.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn c_string(call: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(call, format!("{text:?}"), Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:5 / /a\\040b\\134c rw - tmpfs t rw\n";
        assert_eq!(points(text).collect::<Vec<_>>(), ["/", "/a b\\c"]);
    }

    #[test]
    fn detaching_what_is_not_mounted_succeeds() {
        detach(Path::new("/nonexistent/gantry")).unwrap();
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/self")).unwrap());
    }
}
