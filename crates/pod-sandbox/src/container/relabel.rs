//! SELinux labels of volumes: files of a volume that asks for it get the label of the container's own files.

use crate::error::Kind;
use crate::{Error, Result};
use gantry_cri_api::v1;
use rustix::fs::XattrFlags;
use std::path::{Path, PathBuf};

/// Where the kernel keeps a file's label.
const LABEL: &str = "security.selinux";

/// Annotations of a pod by which a volume whose top has the label already is left alone: going through a large
/// one at every start takes minutes.
const SKIP: [&str; 2] =
    ["try-skip-volume-selinux-label.crio.io", "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel"];

/// Directories of the node whose files must keep their labels.
const SYSTEM: [&str; 18] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin",
    "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
];

/// Whether the pod wants volumes left alone that have the label at their top.
pub(super) fn may_skip(pod: &v1::PodSandboxConfig) -> bool {
    SKIP.iter().any(|name| pod.annotations.get(*name).is_some_and(|v| v == "true"))
}

/// Labels each volume of `mounts` that asks for it. Blocking.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] for a directory of the node itself; [`Kind::Internal`] when the kernel refuses,
/// but for file systems that have no labels.
pub(super) fn volumes(mounts: &[v1::Mount], label: &str, may_skip: bool) -> Result<()> {
    for mount in mounts.iter().filter(|m| m.selinux_relabel && m.image.is_none()) {
        let path = std::fs::canonicalize(&mount.host_path)
            .map_err(crate::error::io_error("resolve", Path::new(&mount.host_path)))?;
        if SYSTEM.iter().any(|dir| path == Path::new(dir)) {
            let message = format!(
                "mount {:.256}: {} is the node's own; it is not relabelled",
                mount.container_path,
                path.display()
            );
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        if may_skip && has(&path, label) {
            continue;
        }
        tree(&path, label)?;
    }
    Ok(())
}

/// Labels files of the pod itself. Blocking.
pub(super) fn own<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, label: &str) -> Result<()> {
    paths.into_iter().try_for_each(|path| set(path, label))
}

/// Whether a file has the label; it may end with a NUL character.
fn has(path: &Path, label: &str) -> bool {
    let mut value = [0; 256];
    let read = rustix::fs::lgetxattr(path, LABEL, &mut value);
    read.is_ok_and(|n| value[..n].strip_suffix(&[0]).unwrap_or(&value[..n]) == label.as_bytes())
}

/// Labels `root` and everything below it, its top last: one that was broken off is not taken for done.
fn tree(root: &Path, label: &str) -> Result<()> {
    let mut open = vec![root.to_owned()];
    let mut tops: Vec<PathBuf> = Vec::new();
    while let Some(path) = open.pop() {
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // Removed meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(crate::error::io_error("stat", &path)(e)),
        };
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(crate::error::io_error("list", &path))?;
            open.extend(entries.flatten().map(|e| e.path()));
        }
        match path == root {
            true => tops.push(path),
            false => set(&path, label)?,
        }
    }
    tops.iter().try_for_each(|path| set(path, label))
}

fn set(path: &Path, label: &str) -> Result<()> {
    if has(path, label) {
        return Ok(());
    }
    match rustix::fs::lsetxattr(path, LABEL, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTSUP) => Ok(()),
        Err(e) => Err(crate::error::io_error("label", path)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn mount(path: &Path, selinux_relabel: bool) -> v1::Mount {
        v1::Mount {
            host_path: path.display().to_string(),
            container_path: "/x".into(),
            selinux_relabel,
            ..Default::default()
        }
    }

    #[test]
    fn volumes_that_ask_are_labelled_with_all_that_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let (asks, other) = (dir.path().join("asks"), dir.path().join("other"));
        std::fs::create_dir_all(asks.join("deep/er")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(asks.join("deep/file"), "").unwrap();
        std::os::unix::fs::symlink(&other, asks.join("link")).unwrap();
        volumes(&[mount(&asks, true), mount(&other, false)], OURS, false).unwrap();
        for path in ["", "deep", "deep/er", "deep/file", "link"] {
            assert!(has(&asks.join(path), OURS), "{path}");
        }
        assert!(!has(&other, OURS), "links are not followed");

        // What is new in it waits for a run that does not skip.
        std::fs::write(asks.join("new"), "").unwrap();
        volumes(&[mount(&asks, true)], OURS, true).unwrap();
        assert!(!has(&asks.join("new"), OURS));
        volumes(&[mount(&asks, true)], OURS, false).unwrap();
        assert!(has(&asks.join("new"), OURS));
    }

    #[test]
    fn directories_of_the_node_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        for path in [Path::new("/"), Path::new("/etc/"), Path::new("/usr/.."), &link] {
            let error = volumes(&[mount(path, true)], OURS, false).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn the_pod_says_whether_to_skip() {
        let pod = |value: &str| v1::PodSandboxConfig {
            annotations: [(SKIP[0].to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        assert!(may_skip(&pod("true")) && !may_skip(&pod("false")));
        assert!(!may_skip(&v1::PodSandboxConfig::default()));
    }
}
