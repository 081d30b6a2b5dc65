//! Control groups of pods, made and removed as the kubelet does it.

use anyhow::{Context as _, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The hierarchies of this host: where each is mounted.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchies {
    mounts: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    unified: bool,
}

impl Hierarchies {
    /// Reads them from the mount table.
    pub(crate) fn of_host() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        Ok(Self { mounts: mounts(&text) })
    }

    /// Makes `path`, which begins with a slash, in every hierarchy; what is there stays.
    pub(crate) fn make(&self, path: &str) -> Result<()> {
        for mount in &self.mounts {
            let mut dir = mount.point.clone();
            for part in path.split('/').filter(|part| !part.is_empty()) {
                if mount.unified {
                    enable_controllers(&dir);
                }
                let parent = dir.clone();
                dir.push(part);
                match fs::create_dir(&dir) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    other => other.with_context(|| format!("make {}", dir.display()))?,
                }
                inherit_cpuset(&parent, &dir)?;
            }
        }
        Ok(())
    }

    /// Removes `path` and what is below it from every hierarchy.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        for mount in &self.mounts {
            remove_tree(&mount.point.join(path.trim_start_matches('/')))?;
        }
        Ok(())
    }

    /// Reads `file` of the control group `path` in the hierarchy that has it.
    pub(crate) fn read(&self, path: &str, file: &str) -> Option<String> {
        self.mounts
            .iter()
            .find_map(|mount| {
                fs::read_to_string(mount.point.join(path.trim_start_matches('/')).join(file)).ok()
            })
            .map(|text| text.trim().to_owned())
    }
}

/// A new cpuset of version 1 has no CPUs, and nothing can run in it.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        if !fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
            continue;
        }
        if let Ok(text) = fs::read_to_string(parent.join(file)).map(|t| t.trim().to_owned())
            && !text.is_empty()
        {
            fs::write(&own, text).with_context(|| format!("write {}", own.display()))?;
        }
    }
    Ok(())
}

/// Lets children of `dir` be limited; a controller that the kernel refuses is one that the checks will miss.
fn enable_controllers(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for name in available.split_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("list {}", dir.display()))?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove the control group {}", dir.display())),
    }
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let kind = right.split(' ').next()?;
            let point = PathBuf::from(left.split(' ').nth(4)?);
            matches!(kind, "cgroup" | "cgroup2").then(|| Mount { point, unified: kind == "cgroup2" })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn hierarchies_are_read_from_the_mount_table() {
        let mount = |point: &str, unified| Mount { point: PathBuf::from(point), unified };
        assert_eq!(
            mounts(TABLE),
            [mount("/sys/fs/cgroup/memory", false), mount("/sys/fs/cgroup/unified", true)]
        );
    }

    #[test]
    fn a_path_is_made_and_removed_in_each() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for point in [&one, &two] {
            fs::create_dir(point).unwrap();
        }
        let mounts = [&one, &two].map(|point| Mount { point: point.clone(), unified: false }).to_vec();
        let all = Hierarchies { mounts };
        all.make("/a/b").unwrap();
        all.make("/a/b").unwrap();
        assert!(one.join("a/b").is_dir() && two.join("a/b").is_dir());
        fs::write(two.join("a/b/limit"), "7\n").unwrap();
        assert_eq!(all.read("/a/b", "limit").as_deref(), Some("7"));
        assert_eq!(all.read("/a/b", "other"), None);
        fs::remove_file(two.join("a/b/limit")).unwrap();
        all.remove("/a").unwrap();
        all.remove("/a").unwrap();
        assert!(!one.join("a").exists() && !two.join("a").exists());
    }
}
