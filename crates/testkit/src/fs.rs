//! Directories on a real filesystem, mounts that nobody else sees, and trees described for comparison.

use gantry_sys::mount;
use rustix::fs::FileType;
use rustix::mount::{MountFlags, MountPropagationFlags};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `f_type` of overlayfs and tmpfs (statfs(2)).
const UNSUITABLE: [(u64, &str); 2] = [(0x794c_7630, "overlayfs"), (0x0102_1994, "tmpfs")];

/// A new directory on a disk filesystem, which can carry the upper layer of an overlay; deleted on drop.
///
/// It is made below `$GANTRY_TEST_DIR`, or `/var/tmp` when that is not set. Panics when that is on an
/// overlay or in memory: say where a real filesystem is with `GANTRY_TEST_DIR`.
pub fn disk_dir() -> tempfile::TempDir {
    let base = std::env::var_os("GANTRY_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let fs = rustix::fs::statfs(&base).unwrap_or_else(|e| panic!("statfs {}: {e}", base.display()));
    let kind = u64::try_from(fs.f_type).unwrap_or_default();
    if let Some((_, name)) = UNSUITABLE.iter().find(|(magic, _)| *magic == kind) {
        panic!("{} is on {name}: set GANTRY_TEST_DIR to a directory on a disk filesystem", base.display());
    }
    let named = tempfile::Builder::new().prefix("gantry-test-").tempdir_in(&base);
    named.unwrap_or_else(|e| panic!("make a directory in {}: {e}", base.display()))
}

/// Runs `test` on a thread of its own whose mounts nobody else sees and which vanish with it.
///
/// Threads that `test` starts (a tokio runtime made inside it, too) share those mounts.
pub fn in_private_mounts<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("unshare(CLONE_NEWNS): these tests run as root");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount::set_propagation(Path::new("/"), private).expect("make mounts private");
            test()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Mounts a tmpfs of `bytes` on `dir`; only within [`in_private_mounts`].
pub fn small_disk(dir: &Path, bytes: u64) {
    let options = format!("size={bytes},mode=0700");
    // Device nodes and set-id files are content here.
    rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), &*c_string(&options))
        .unwrap_or_else(|e| panic!("mount a tmpfs on {}: {e}", dir.display()));
}

fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).expect("no NUL in mount options")
}

/// One line for each path below `root` (and `.` for itself): type, mode, owner, size, digest of the
/// content, link target, device number, modification time, extended attributes, and the first name of
/// its inode. Two trees are alike when these maps are.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    describe_into(root, Path::new("."), &mut lines, &mut inodes);
    // A link count does not tell: names may lie outside of the tree, or hidden below an overlay.
    for group in inodes.into_values().filter(|names: &Vec<String>| names.len() > 1) {
        for name in &group {
            lines
                .entry(name.clone())
                .and_modify(|line: &mut String| *line += &format!(" inode-of={}", group[0]));
        }
    }
    lines
}

fn describe_into(
    root: &Path,
    path: &Path,
    lines: &mut BTreeMap<String, String>,
    inodes: &mut BTreeMap<(u64, u64), Vec<String>>,
) {
    let full = root.join(path);
    let name = path.to_string_lossy().into_owned();
    let m = std::fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
    let kind = FileType::from_raw_mode(m.mode());
    let mut line = format!("{kind:?} {:04o} {}:{}", m.mode() & 0o7777, m.uid(), m.gid());
    line += &format!(" mtime={}.{:09}", m.mtime(), m.mtime_nsec());
    match kind {
        FileType::RegularFile => {
            let content = std::fs::read(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
            line += &format!(" size={} sha256={}", m.len(), hex::encode(Sha256::digest(content)));
        }
        FileType::Symlink => {
            let target = std::fs::read_link(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
            line += &format!(" -> {}", target.display());
        }
        FileType::CharacterDevice | FileType::BlockDevice => line += &format!(" device={:x}", m.rdev()),
        _ => {}
    }
    for (key, value) in xattrs(&full) {
        line += &format!(" {key}={}", hex::encode(value));
    }
    if kind != FileType::Directory {
        inodes.entry((m.dev(), m.ino())).or_default().push(name.clone());
    }
    lines.insert(name, line);
    if kind == FileType::Directory {
        let mut names: Vec<_> = std::fs::read_dir(&full)
            .unwrap_or_else(|e| panic!("{}: {e}", full.display()))
            .map(|e| e.expect("read a directory").file_name())
            .collect();
        names.sort();
        for name in names {
            describe_into(root, &path.join(name), lines, inodes);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut all = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let key = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, key, value.as_mut_slice()).unwrap_or(0);
        value.truncate(length);
        all.insert(key.to_string_lossy().into_owned(), value);
    }
    all
}

/// Lines that differ between two descriptions, as `path: left | right`; empty when they are alike.
pub fn differences(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> Vec<String> {
    let mut paths: Vec<&String> = left.keys().chain(right.keys()).collect();
    paths.sort();
    paths.dedup();
    let shown = |side: Option<&String>| side.cloned().unwrap_or_else(|| "(absent)".into());
    paths
        .into_iter()
        .filter(|p| left.get(*p) != right.get(*p))
        .map(|p| format!("{p}: {} | {}", shown(left.get(p)), shown(right.get(p))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_show_what_differs() {
        let dir = disk_dir();
        for side in ["a", "b"] {
            let root = dir.path().join(side);
            std::fs::create_dir(&root).unwrap();
            std::fs::write(root.join("same"), b"x").unwrap();
            std::fs::write(root.join("file"), side).unwrap();
            std::fs::hard_link(root.join("same"), root.join("linked")).unwrap();
        }
        let [a, b] = ["a", "b"].map(|s| describe(&dir.path().join(s)));
        let content = differences(&a, &b);
        assert!(content.iter().any(|l| l.starts_with("./file: ")), "{content:?}");
        assert!(a["./same"].ends_with("inode-of=./linked"), "{}", a["./same"]);
        assert!(differences(&a, &a).is_empty());
    }

    #[test]
    fn private_mounts_vanish() {
        let dir = disk_dir();
        let size = || rustix::fs::statvfs(dir.path()).unwrap().f_blocks;
        let outside = size();
        in_private_mounts(|| {
            small_disk(dir.path(), 1 << 20);
            std::fs::write(dir.path().join("file"), b"x").unwrap();
            assert_ne!(size(), outside);
        });
        assert_eq!(size(), outside);
        assert!(!dir.path().join("file").exists());
    }
}
