//! Overlay mounts of many layers.

use crate::{Error, Result, idmap};
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags,
};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes that mount(2) takes as options, less the closing NUL.
const MAX_OPTIONS: usize = 4095;
/// Bytes that fsconfig(2) takes as one string, less the closing NUL.
const MAX_STRING: usize = 255;
/// `f_type` of an overlay (statfs(2)).
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// An overlay to mount: one writable directory over read-only layers.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// Directory that `lower` is relative to.
    pub layers: PathBuf,
    /// Layers relative to `layers`, topmost first; at least one. Plain names: no `:`, `,` or `\`.
    pub lower: Vec<String>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Scratch directory on the same filesystem as `upper`.
    pub work: PathBuf,
    /// SELinux label of every file that shows in it; only for kernels that label.
    pub context: Option<String>,
}

/// How the layers reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One `fsconfig` call per layer (`lowerdir+`, kernels from 6.5).
    Fsconfig,
    /// One option string with names relative to the working directory of a thread of its own. Works
    /// everywhere, for as many layers as fit into 4095 bytes of options.
    Relative,
}

/// Mounts on `target`, in the caller's mount namespace, by the best method that the kernel has.
pub fn mount(overlay: &Overlay, target: &Path) -> Result<()> {
    // 0: not tried yet, 1: fsconfig, 2: relative names.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    if KNOWN.load(Ordering::Relaxed) != 2 {
        match mount_by(Method::Fsconfig, overlay, target) {
            // A kernel without fsopen, and one whose overlayfs does not know `lowerdir+`.
            Err(e) if KNOWN.load(Ordering::Relaxed) == 0 && is_unknown(e.errno()) => {
                mount_by(Method::Relative, overlay, target)?;
                KNOWN.store(2, Ordering::Relaxed);
                return Ok(());
            }
            result => {
                if result.is_ok() {
                    KNOWN.store(1, Ordering::Relaxed);
                }
                return result;
            }
        }
    }
    mount_by(Method::Relative, overlay, target)
}

/// As [`mount`], with the owners of the lower layers mapped as in the user namespace `userns`
/// (idmapped layers, Linux 5.19). The writable layer keeps the ids that the host sees: the kernel makes
/// files in it with the rights of who mounts, whom a mapped one would not know.
///
/// The layers are mapped in a mount namespace of a thread of its own, so that nothing but the finished
/// mount ever shows on the host, whatever happens meanwhile.
pub fn mount_mapped(overlay: &Overlay, userns: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let target = std::path::absolute(target)
        .map_err(|e| Error::from_io("getcwd", target.display().to_string(), &e))?;
    let run = || -> Result<OwnedFd> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .map_err(|e| Error::new("unshare", "CLONE_NEWNS", Errno::from_raw_os_error(e as i32)))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        crate::mount::set_propagation(Path::new("/"), private)?;
        idmap::attach(&idmap::mapped(&overlay.layers, userns, false)?, &overlay.layers)?;
        mount(overlay, &target)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(rustix::fs::CWD, &target, flags)
            .map_err(|e| Error::new("open_tree", target.display().to_string(), e))
    };
    let tree = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("overlay-idmap".into()).stack_size(256 << 10);
        let thread =
            thread.spawn_scoped(scope, run).map_err(|e| Error::from_io("clone", "mount thread", &e))?;
        thread.join().unwrap_or_else(|_| Err(Error::new("mount", target.display().to_string(), Errno::IO)))
    })?;
    idmap::attach(&tree, &target)
}

/// As [`mount`], by the given method.
pub fn mount_by(method: Method, overlay: &Overlay, target: &Path) -> Result<()> {
    let target = std::path::absolute(target)
        .map_err(|e| Error::from_io("getcwd", target.display().to_string(), &e))?;
    match method {
        Method::Fsconfig => mount_by_fsconfig(overlay, &target),
        Method::Relative => mount_relative(overlay, &target),
    }
}

/// Whether `target` is the root of an overlay mount; `false` when the path is not there.
pub fn is_mounted(target: &Path) -> Result<bool> {
    let args = || target.display().to_string();
    let stat = match rustix::fs::statx(rustix::fs::CWD, target, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
        Err(e) => return Err(Error::new("statx", args(), e)),
    };
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(false);
    }
    let fs = rustix::fs::statfs(target).map_err(|e| Error::new("statfs", args(), e))?;
    Ok(u64::try_from(fs.f_type).is_ok_and(|t| t == OVERLAYFS_MAGIC))
}

fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP)
}

fn mount_by_fsconfig(overlay: &Overlay, target: &Path) -> Result<()> {
    let args = |what: &str| format!("overlay on {}: {what}", target.display());
    let failed = |call, what: &str, errno| Error::new(call, args(what), errno);
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| failed("fsopen", "overlay", e))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layers = rustix::fs::open(&overlay.layers, flags, Mode::empty())
        .map_err(|e| failed("open", &overlay.layers.display().to_string(), e))?;
    // What was opened for a long path must stay open until the mount is made.
    let mut held = Vec::new();
    let mut set = |key: &str, path: PathBuf| -> Result<()> {
        let value = if can_be_named(&path) {
            path
        } else {
            let fd = rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|e| failed("open", &path.display().to_string(), e))?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            held.push(fd);
            short
        };
        rustix::mount::fsconfig_set_string(&context, key, value.as_os_str())
            .map_err(|e| failed("fsconfig", &format!("{key}={}", value.display()), e))
    };
    for name in &overlay.lower {
        let path = overlay.layers.join(name);
        let path = if can_be_named(&path) {
            path
        } else {
            PathBuf::from(format!("/proc/self/fd/{}/{name}", layers.as_raw_fd()))
        };
        set("lowerdir+", path)?;
    }
    set("upperdir", overlay.upper.clone())?;
    set("workdir", overlay.work.clone())?;
    if let Some(label) = &overlay.context {
        rustix::mount::fsconfig_set_string(&context, "context", label.as_str())
            .map_err(|e| failed("fsconfig", &format!("context={label}"), e))?;
    }
    rustix::mount::fsconfig_create(&context).map_err(|e| failed("fsconfig", "create", e))?;
    let mounted = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|e| failed("fsmount", "", e))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mounted.as_fd(), "", rustix::fs::CWD, target, flags)
        .map_err(|e| failed("move_mount", "", e))
}

/// Whether fsconfig(2) takes the path: it is short enough, and holds no backslash, which some parameters
/// of overlayfs take as an escape and others do not.
fn can_be_named(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.len() <= MAX_STRING && !bytes.contains(&b'\\')
}

fn mount_relative(overlay: &Overlay, target: &Path) -> Result<()> {
    let mut options = format!("lowerdir={}", overlay.lower.join(":")).into_bytes();
    for (key, path) in [("upperdir", &overlay.upper), ("workdir", &overlay.work)] {
        let path = std::path::absolute(path)
            .map_err(|e| Error::from_io("getcwd", path.display().to_string(), &e))?;
        options.extend_from_slice(format!(",{key}=").as_bytes());
        for byte in path.as_os_str().as_encoded_bytes() {
            if matches!(byte, b'\\' | b',' | b':') {
                options.push(b'\\');
            }
            options.push(*byte);
        }
    }
    if let Some(label) = &overlay.context {
        // A label has commas between its categories.
        options.extend_from_slice(format!(",context=\"{label}\"").as_bytes());
    }
    let args = || format!("overlay of {} layers on {}", overlay.lower.len(), target.display());
    if options.len() > MAX_OPTIONS {
        return Err(Error::new(
            "mount",
            format!("{}: options of {} bytes", args(), options.len()),
            Errno::TOOBIG,
        ));
    }
    let options = CString::new(options).map_err(|_| Error::new("mount", args(), Errno::INVAL))?;
    // The working directory belongs to all threads of a process, so this one gets its own.
    let run = || -> Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
            .map_err(|e| Error::new("unshare", "CLONE_FS", Errno::from_raw_os_error(e as i32)))?;
        rustix::process::chdir(&overlay.layers)
            .map_err(|e| Error::new("chdir", overlay.layers.display().to_string(), e))?;
        rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
            .map_err(|e| Error::new("mount", args(), e))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("overlay-mount".into()).stack_size(128 << 10);
        let thread =
            thread.spawn_scoped(scope, run).map_err(|e| Error::from_io("clone", "mount thread", &e))?;
        thread.join().unwrap_or_else(|_| Err(Error::new("mount", args(), Errno::IO)))
    })
}
