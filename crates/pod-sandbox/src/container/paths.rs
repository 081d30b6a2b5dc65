//! Paths that come from users and images: checked, and read without leaving the root filesystem.

use crate::error::{Kind, io_error};
use crate::flight::blocking;
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most bytes of an image's passwd or group file that are read.
const MAX_ACCOUNTS: u64 = 4 << 20;

/// How long the file system behind a mount source may take to answer.
const STAT_LIMIT: Duration = Duration::from_secs(10);

/// Text of a regular file inside `rootfs`; empty when there is none.
///
/// Symbolic links are followed inside the root only (openat2 `RESOLVE_IN_ROOT`); pipes, devices and
/// files that are too long are refused, so that an image cannot make the daemon wait or swell.
pub(super) fn read_in_root(rootfs: &Path, name: &str) -> Result<String> {
    let root = File::open(rootfs).map_err(io_error("open", rootfs))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(Error::new(Kind::Internal, format!("open {name} of the image: {e}"))),
    };
    let bad = |what: &str| Error::new(Kind::InvalidArgument, format!("{name} of the image {what}"));
    let meta = file.metadata().map_err(io_error("stat", Path::new(name)))?;
    if !meta.is_file() {
        return Err(bad("is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_ACCOUNTS + 1).read_to_end(&mut bytes).map_err(io_error("read", Path::new(name)))?;
    if bytes.len() as u64 > MAX_ACCOUNTS {
        return Err(bad("is longer than 4 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Checks that every source of a bind mount is there.
///
/// With `create`, one that is not there becomes a directory (as CRI-O and Docker do it).
///
/// A file system that does not answer (a dead network mount) fails the call after a while instead of
/// holding it; the stage is named in the error.
pub(super) async fn check_sources(sources: Vec<PathBuf>, create: bool) -> Result<()> {
    let stage = std::sync::Arc::new(std::sync::Mutex::new(PathBuf::new()));
    let shown = stage.clone();
    let check = blocking(move || {
        for source in sources {
            crate::flight::lock(&shown).clone_from(&source);
            let mut found = std::fs::metadata(&source).map(drop);
            if create && found.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
                found = std::fs::create_dir_all(&source);
            }
            if let Err(e) = found {
                let message =
                    format!("mount source {}: {e}; create it or correct the path", source.display());
                return Err(Error::new(Kind::InvalidArgument, message));
            }
        }
        Ok(())
    });
    match tokio::time::timeout(STAT_LIMIT, check).await {
        Ok(result) => result,
        Err(_) => {
            let source = crate::flight::lock(&stage).display().to_string();
            let message = format!(
                "mount source {source}: its file system did not answer within {} s; is a network mount dead?",
                STAT_LIMIT.as_secs()
            );
            Err(Error::new(Kind::DeadlineExceeded, message))
        }
    }
}

/// Where a container's log goes: below the pod's log directory, never above it.
pub(super) fn log_path(directory: &Path, asked: &str, default: Option<PathBuf>) -> Result<Option<PathBuf>> {
    if asked.is_empty() {
        return Ok(default);
    }
    if asked.starts_with('/') || asked.contains('\0') || asked.split('/').any(|part| part == "..") {
        let message = format!("log path {asked:?} must be relative and without '..'");
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    Ok(Some(directory.join(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_inside_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("passwd"), "outside").unwrap();
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert_eq!(read_in_root(&root, "etc/passwd").unwrap(), "", "the link ends at the root");
        std::fs::write(root.join("passwd"), "inside").unwrap();
        assert_eq!(read_in_root(&root, "etc/passwd").unwrap(), "inside");
        assert_eq!(read_in_root(&root, "etc/group").unwrap(), "");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("etc/group"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(read_in_root(&root, "etc/group").unwrap_err().to_string().contains("regular"));
    }

    #[test]
    fn logs_stay_below_their_directory() {
        let dir = Path::new("/logs");
        assert_eq!(log_path(dir, "a/0.log", None).unwrap(), Some("/logs/a/0.log".into()));
        assert_eq!(log_path(dir, "", Some("/d".into())).unwrap(), Some("/d".into()));
        for bad in ["../x", "a/../../x", "/etc/passwd"] {
            assert!(log_path(dir, bad, None).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_missing_source_is_named() {
        let error =
            check_sources(vec!["/proc".into(), "/nonexistent/volume".into()], false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("/nonexistent/volume"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_source_is_made_where_the_node_wants_that() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, file) = (dir.path().join("a/b"), dir.path().join("file"));
        std::fs::write(&file, "kept").unwrap();
        check_sources(vec![missing.clone(), file.clone()], true).await.unwrap();
        assert!(missing.is_dir());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
        let error = check_sources(vec![file.join("below")], true).await.unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
