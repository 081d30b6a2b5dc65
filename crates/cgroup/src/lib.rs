#![forbid(unsafe_code)]
//! Control groups: which hierarchies this host has, where a container lives in them, how to kill
//! everything in it and take it away again, what it uses, and how to change its limits.
//!
//! The first limits are written by the OCI runtime from the container's spec; this crate names the
//! paths and owns what outlives the runtime's processes. [`Hierarchies`] knows three layouts: v2 alone, v1
//! alone, and hybrid (v1 controllers beside a cgroup2 mount, cgroups(7)).

mod container;
mod detail;
mod ensure;
mod hierarchies;
mod limits;
mod stats;

pub use container::{Cgroup, KillReport};
pub use detail::{Detail, DeviceIo, HugePages, MemoryDetail};
pub use hierarchies::{Hierarchies, Layout};
pub use limits::{Applied, Limits, weight};
pub use stats::{Interface, Memory, Pressure, Stall, Stats, StatsReader, interfaces};

/// Why an operation on a control group failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the cgroup file system could not be read or written.
    #[error("cgroup {call} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// The file or directory.
        path: std::path::PathBuf,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// The path is not one that names a cgroup below the root.
    #[error("cgroup path {0:?} is not absolute or contains '..'; give a path such as /kubepods/pod1")]
    Path(String),
    /// The host has no cgroup mounted where it is expected.
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup; mount cgroup2 there")]
    NoHierarchy,
    /// No controller of this host enforces what is asked for, or the cgroup is gone.
    #[error("cgroup {path}: there is no {controller} controller for it; enable it, or ask for less")]
    NoController {
        /// The controller.
        controller: &'static str,
        /// The cgroup.
        path: String,
    },
    /// The memory limit is below what is in use; the kernel would kill processes for it.
    #[error("cgroup {path}: a memory limit of {limit} bytes is below the {usage} bytes in use; ask for more")]
    BelowUsage {
        /// The cgroup.
        path: String,
        /// The limit that was asked for, in bytes.
        limit: i64,
        /// Bytes in use.
        usage: u64,
    },
    /// The name is no setting of a cgroup v2 controller.
    #[error("{file:.64?} is no setting of a cgroup v2 controller; write one such as memory.high")]
    NotASetting {
        /// As it was given.
        file: String,
    },
    /// Processes were still alive after they had been killed and the time was up.
    #[error(
        "cgroup {path}: {count} processes survived SIGKILL; they wait in the kernel (state D), look at their stacks"
    )]
    Survivors {
        /// The cgroup.
        path: String,
        /// How many were left.
        count: usize,
    },
}

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file_error(
    call: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { call, path, source }
}
