//! What is kept of a container between two runs of this program.
//!
//! `<root>/<id>/` is made exclusively, so that of two `create` calls with one id exactly one goes on.
//! It holds `record.json` (ours), `config.json` (the configuration as libcontainer gets it, see
//! [`crate::adapt`]) and `<id>/` (libcontainer's own state). The record is written before anything is
//! made and again when init is known, so that `delete --force` can clean up after a `create` that was
//! killed at any point: it knows the cgroup.

use crate::error::{Error, Result, file};
use gantry_cgroup::{Cgroup, Hierarchies};
use gantry_sys::pidfd::Process;
use libcontainer::container::{Container, ContainerStatus};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Format of `record.json`.
const VERSION: u32 = 1;

/// Largest configuration or record that is read: real ones stay below 100 KiB.
pub(crate) const FILE_LIMIT: u64 = 16 * 1024 * 1024;

/// Longest container id; a directory name has to hold it.
const ID_LIMIT: usize = 255;

/// A process that is still itself: a recycled pid has another start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Init {
    /// Process id in this program's pid namespace.
    pub(crate) pid: i32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
}

/// `record.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The container.
    pub(crate) id: String,
    /// The caller's bundle.
    pub(crate) bundle: PathBuf,
    /// Root file system, absolute.
    pub(crate) rootfs: PathBuf,
    /// Path below the root of each hierarchy; `None` until systemd has chosen it.
    pub(crate) cgroup: Option<String>,
    /// systemd manages the cgroup.
    pub(crate) systemd: bool,
    /// When `create` began, RFC 3339.
    pub(crate) created: String,
    /// The container's first process; `None` while it is being created.
    pub(crate) init: Option<Init>,
}

impl Record {
    /// A container about to be created.
    pub(crate) fn new(id: &str, bundle: &Path, rootfs: &Path, cgroup: Option<String>, systemd: bool) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs: rootfs.to_owned(),
            cgroup,
            systemd,
            created: crate::report::timestamp(rustix::time::clock_gettime(rustix::time::ClockId::Realtime)),
            init: None,
        }
    }

    /// Init, if it is alive and not a zombie.
    pub(crate) fn living_init(&self) -> Option<Process> {
        let init = self.init?;
        Process::open_exact(init.pid, init.start_time).ok().filter(|p| !p.has_exited())
    }

    /// Names the container's cgroup on this host; `None` when it was never known.
    pub(crate) fn cgroup(&self) -> Result<Option<Cgroup>> {
        let Some(path) = &self.cgroup else { return Ok(None) };
        Ok(Some(Cgroup::new(&Hierarchies::detect()?, path)?))
    }
}

/// A container's state, in the words of the OCI runtime specification and runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// `create` is at work, or was killed while it was.
    Creating,
    /// Waits for `start`.
    Created,
    /// Runs its program.
    Running,
    /// Frozen.
    Paused,
    /// Init has exited.
    Stopped,
}

impl Status {
    /// As it is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// One container's directory below `--root`.
#[derive(Debug)]
pub(crate) struct Entry {
    dir: PathBuf,
    id: String,
}

impl Entry {
    /// Makes the directory of a new container.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when the id is taken, also by a `create` that is still at work.
    pub(crate) fn reserve(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true).create(root).map_err(file("create", root))?;
        let dir = root.join(id);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => Ok(Self { dir, id: id.to_owned() }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists(id.to_owned())),
            Err(e) => Err(file("create", &dir)(e)),
        }
    }

    /// Opens the directory of a container that exists.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let dir = root.join(id);
        if dir.is_dir() { Ok(Self { dir, id: id.to_owned() }) } else { Err(Error::Unknown(id.to_owned())) }
    }

    /// All containers below `root`, by id.
    pub(crate) fn all(root: &Path) -> Result<Vec<Self>> {
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(file("list", root)(e)),
        };
        let mut ids: Vec<String> = entries
            .filter_map(|e| e.ok().filter(|e| e.path().is_dir())?.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids.into_iter().map(|id| Self { dir: root.join(&id), id }).collect())
    }

    /// The container's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The directory, which is also the bundle that libcontainer gets.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where libcontainer keeps its state of this container.
    pub(crate) fn library_dir(&self) -> PathBuf {
        self.dir.join(&self.id)
    }

    /// Path of the adapted configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// Keeps other commands that change this container's state out until the guard is dropped.
    ///
    /// Not to be held across a fork whose child stays: the child would keep it.
    pub(crate) fn lock(&self) -> Result<File> {
        let dir = File::open(&self.dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Unknown(self.id.clone()),
            _ => file("open", &self.dir)(e),
        })?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| file("lock", &self.dir)(e.into()))?;
        Ok(dir)
    }

    /// Reads the record; `None` when `create` was killed before it wrote one.
    pub(crate) fn load(&self) -> Result<Option<Record>> {
        let path = self.dir.join("record.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| Error::Json { path: path.clone(), source }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file("read", &path)(e)),
        }
    }

    /// Reads the record of a container that is no longer being created.
    pub(crate) fn load_created(&self) -> Result<Record> {
        let what = "wait for create to finish, or delete it with --force";
        let creating = || Error::State { id: self.id.clone(), state: Status::Creating.name(), what };
        self.load()?.filter(|r| r.init.is_some()).ok_or_else(creating)
    }

    /// Publishes the record: written beside it and renamed, so that a reader sees a whole one.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|source| Error::Json { path: self.dir.join("record.json"), source })?;
        write_atomically(&self.dir.join("record.json"), &bytes)
    }

    /// What the container is doing now. Init decides; libcontainer only knows what came last.
    pub(crate) fn status(&self, record: Option<&Record>) -> Status {
        match record.filter(|r| r.init.is_some()) {
            None => Status::Creating,
            Some(record) if record.living_init().is_none() => Status::Stopped,
            Some(_) => match Container::load(self.library_dir()).map(|c| c.status()) {
                Ok(ContainerStatus::Created) => Status::Created,
                Ok(ContainerStatus::Paused) => Status::Paused,
                Ok(ContainerStatus::Running) => Status::Running,
                // Its state file is gone or damaged while the process lives: signals still reach it.
                Ok(ContainerStatus::Creating | ContainerStatus::Stopped) | Err(_) => Status::Running,
            },
        }
    }

    /// Takes the directory away; nothing is left to be found.
    pub(crate) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file("remove", &self.dir)(e)),
            _ => Ok(()),
        }
    }
}

/// Writes a file under a temporary name beside it and renames it over `path`.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, bytes).map_err(file("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(file("rename", &temporary))
}

/// Reads a whole file of at most [`FILE_LIMIT`] bytes.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let opened = File::open(path).map_err(file("open", path))?;
    opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(file("read", path))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Error::Invalid(format!("{} is larger than {FILE_LIMIT} bytes", path.display())));
    }
    Ok(bytes)
}

fn check_id(id: &str) -> Result<()> {
    let bad = |why| Err(Error::Id { id: id.to_owned(), why });
    if id.is_empty() || id == "." || id == ".." {
        return bad("does not name a container");
    }
    if id.len() > ID_LIMIT {
        return bad("is longer than 255 characters");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if !id.chars().all(allowed) {
        return bad("has a character other than letters, digits and _+-.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "A-1_b+c.d", "..a", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_id_is_reserved_once() {
        let root = tempfile::tempdir().unwrap();
        let entry = Entry::reserve(root.path(), "c1").unwrap();
        assert!(matches!(Entry::reserve(root.path(), "c1"), Err(Error::Exists(_))));
        // Killed before the record was written: known, being created, removable.
        assert_eq!(entry.load().unwrap(), None);
        assert_eq!(entry.status(None), Status::Creating);
        assert!(matches!(entry.load_created(), Err(Error::State { state: "creating", .. })));
        entry.remove().unwrap();
        assert!(matches!(Entry::open(root.path(), "c1"), Err(Error::Unknown(_))));
        entry.remove().unwrap();
    }

    #[test]
    fn a_recycled_pid_is_a_stopped_container() {
        let root = tempfile::tempdir().unwrap();
        let entry = Entry::reserve(root.path(), "c1").unwrap();
        let mut record = Record::new("c1", Path::new("/b"), Path::new("/b/rootfs"), None, false);
        let pid = std::process::id() as i32;
        let start_time = gantry_sys::pidfd::start_time(pid).unwrap();
        record.init = Some(Init { pid, start_time: start_time + 1 });
        entry.save(&record).unwrap();
        let record = entry.load_created().unwrap();
        assert_eq!(entry.status(Some(&record)), Status::Stopped);
    }
}
