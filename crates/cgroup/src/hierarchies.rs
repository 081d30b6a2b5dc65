//! The hierarchies that are mounted on this host.

use crate::container::tree;
use crate::{Error, Result, file_error};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// How the host lays out its control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One cgroup2 hierarchy with all controllers.
    V2,
    /// Controllers on v1 hierarchies, perhaps with a cgroup2 mount beside them (hybrid).
    V1,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// Controllers of a v1 hierarchy (or `name=systemd`); empty for cgroup2.
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    /// A v1 cpuset refuses tasks until cpus and mems are set; a cgroup2 mount beside v1 controllers
    /// moves whole processes only. Neither limits anything for a monitor.
    fn takes_threads(&self) -> bool {
        !self.controllers.is_empty() && !self.controllers.iter().any(|c| c == "cpuset")
    }
}

fn move_thread(dir: &Path) -> Result<()> {
    let file = dir.join("tasks");
    let tid = rustix::thread::gettid().as_raw_nonzero();
    std::fs::write(&file, tid.to_string()).map_err(file_error("write", &file))
}

/// All hierarchies of the host, read once at start.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    layout: Layout,
    all: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Reads what is mounted from `/proc/self/mountinfo`.
    pub fn detect() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(file_error("read", path))?;
        Self::parse(&text)
    }

    /// As [`Hierarchies::detect`], from the text of a mountinfo file.
    pub fn parse(mountinfo: &str) -> Result<Self> {
        let mut all: Vec<Hierarchy> = mountinfo.lines().filter_map(parse_line).collect();
        // The same hierarchy may be mounted more than once (in containers); the first is the usual place.
        let mut seen = std::collections::HashSet::new();
        all.retain(|h| seen.insert(h.controllers.clone()));
        let v1 = all.iter().any(|h| !h.controllers.is_empty() && !h.controllers[0].starts_with("name="));
        match (v1, all.is_empty()) {
            (_, true) => Err(Error::NoHierarchy),
            (true, _) => Ok(Self { layout: Layout::V1, all }),
            (false, _) => {
                all.retain(|h| h.controllers.is_empty());
                if all.is_empty() { Err(Error::NoHierarchy) } else { Ok(Self { layout: Layout::V2, all }) }
            }
        }
    }

    /// The layout of this host.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Mount point of the hierarchy that has `controller`; the cgroup2 mount on v2.
    pub fn mount_of(&self, controller: &str) -> Option<&Path> {
        match self.layout {
            Layout::V2 => self.all.first().map(|h| h.mount.as_path()),
            Layout::V1 => {
                let has = |h: &&Hierarchy| h.controllers.iter().any(|c| c == controller);
                self.all.iter().find(has).map(|h| h.mount.as_path())
            }
        }
    }

    /// Mount points of all hierarchies, in the kernel's order.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.all.iter().map(|h| h.mount.as_path())
    }

    /// Moves the calling thread into the cgroup `path` of every v1 hierarchy, creating it; children
    /// that it forks from then on start there. Does nothing on v2, where threads cannot be told apart
    /// from their process: use [`Hierarchies::place`] on the child.
    ///
    /// Each move waits for an RCU grace period (milliseconds), which is why all monitors are forked
    /// from one thread that has been moved once.
    pub fn enter_thread(&self, path: &str) -> Result<()> {
        let relative = checked(path)?;
        for h in self.all.iter().filter(|h| h.takes_threads()) {
            let dir = h.mount.join(relative);
            std::fs::create_dir_all(&dir).map_err(file_error("create", &dir))?;
            move_thread(&dir)?;
        }
        Ok(())
    }

    /// Moves the calling thread back to the root of every v1 hierarchy, so that the cgroup that it was
    /// in can be removed.
    pub fn leave_thread(&self) -> Result<()> {
        self.all.iter().filter(|h| h.takes_threads()).try_for_each(|h| move_thread(&h.mount))
    }

    /// Moves the process `pid` into the cgroup `path` of the v2 hierarchy, creating it. Does nothing
    /// on v1, where the child was forked in its place ([`Hierarchies::enter_thread`]).
    pub fn place(&self, path: &str, pid: u32) -> Result<()> {
        let relative = checked(path)?;
        if self.layout == Layout::V2 {
            for h in &self.all {
                let dir = h.mount.join(relative);
                std::fs::create_dir_all(&dir).map_err(file_error("create", &dir))?;
                let file = dir.join("cgroup.procs");
                std::fs::write(&file, pid.to_string()).map_err(file_error("write", &file))?;
            }
        }
        Ok(())
    }

    /// Moves the process `pid` into the cgroup `path` of the v2 hierarchy, which must be there.
    pub fn join(&self, path: &str, pid: u32) -> Result<()> {
        let relative = checked(path)?;
        self.all.iter().filter(|h| h.controllers.is_empty()).try_for_each(|h| {
            let file = h.mount.join(relative).join("cgroup.procs");
            // Never made by this: a file of the kernel's, or none.
            let mut procs =
                std::fs::File::options().write(true).open(&file).map_err(file_error("open", &file))?;
            procs.write_all(pid.to_string().as_bytes()).map_err(file_error("write", &file))
        })
    }

    /// Paths of all cgroups that are called `name`, below the root of any hierarchy, each once.
    pub fn find(&self, name: &str) -> Result<Vec<String>> {
        let mut found = std::collections::BTreeSet::new();
        for h in &self.all {
            for dir in tree(&h.mount)? {
                if dir.file_name().is_some_and(|n| n == name)
                    && let Ok(below) = dir.strip_prefix(&h.mount)
                {
                    found.insert(format!("/{}", below.display()));
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Removes the cgroup `path` from every hierarchy where it is empty; what is in use stays.
    pub fn remove_if_empty(&self, path: &str) -> Result<()> {
        let relative = checked(path)?;
        for h in &self.all {
            // Not empty (EBUSY) and not there (ENOENT) are both fine.
            let _busy_or_gone = std::fs::remove_dir(h.mount.join(relative));
        }
        Ok(())
    }
}

/// The part of an absolute cgroup path below the mount points.
pub(crate) fn checked(path: &str) -> Result<&str> {
    let relative = path.strip_prefix('/').ok_or_else(|| Error::Path(path.into()))?;
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if relative.is_empty() || relative.split('/').any(bad) {
        return Err(Error::Path(path.into()));
    }
    Ok(relative)
}

fn parse_line(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = PathBuf::from(left.split(' ').nth(4)?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    if !mount.starts_with("/sys/fs/cgroup") {
        return None;
    }
    match kind {
        "cgroup2" => Some(Hierarchy { mount, controllers: Vec::new() }),
        "cgroup" => {
            const NOT_CONTROLLERS: [&str; 8] =
                ["rw", "ro", "xattr", "noprefix", "clone_children", "all", "none", "favordynmods"];
            let keep = |o: &&str| !NOT_CONTROLLERS.contains(o) && !o.starts_with("release_agent=");
            let controllers = options.split(',').filter(keep).map(str::to_owned).collect();
            Some(Hierarchy { mount, controllers })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 27 0:9 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
31 30 0:10 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
32 30 0:11 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
33 30 0:12 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
34 30 0:13 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn layouts_are_told_apart() {
        let hybrid = Hierarchies::parse(HYBRID).unwrap();
        assert_eq!(hybrid.layout(), Layout::V1);
        assert_eq!(hybrid.mount_of("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(hybrid.mount_of("hugetlb"), None);
        let v2 = "30 27 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let v2 = Hierarchies::parse(v2).unwrap();
        assert_eq!((v2.layout(), v2.mount_of("memory")), (Layout::V2, Some(Path::new("/sys/fs/cgroup"))));
        assert!(matches!(Hierarchies::parse("1 1 0:1 / / rw - ext4 a rw"), Err(Error::NoHierarchy)));
    }

    #[test]
    fn paths_that_could_leave_the_root_are_refused() {
        for bad in ["", "/", "a/b", "/a/../b", "/a//b", "/./a", "/a/"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        assert_eq!(checked("/kubepods/pod1").unwrap(), "kubepods/pod1");
    }
}
