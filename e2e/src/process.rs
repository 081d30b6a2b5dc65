//! Processes of the host, read from /proc.

use crate::watch::{LIMIT, wait_readable};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A process as /proc shows it; fields that could not be read any more are empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    /// Process id.
    pub(crate) pid: u32,
    /// Parent's process id.
    pub(crate) parent: u32,
    /// State letter of /proc/pid/stat (`Z` is a zombie).
    pub(crate) state: char,
    /// Name of up to 15 letters.
    pub(crate) name: String,
    /// Command line, words joined with spaces.
    pub(crate) command: String,
    /// Lines of /proc/pid/cgroup.
    pub(crate) cgroups: String,
    /// Namespaces by kind, as `net:[4026531840]`.
    pub(crate) namespaces: BTreeMap<&'static str, String>,
}

/// Every process but kernel threads, by id.
pub(crate) fn processes() -> Vec<Running> {
    let names = fs::read_dir("/proc").expect("list /proc").flatten();
    let pids = names.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok()));
    let mut all: Vec<Running> = pids.filter_map(read).collect();
    all.retain(|p| p.pid != 2 && p.parent != 2);
    all.sort_by_key(|p| p.pid);
    all
}

/// Processes in a cgroup whose path contains `part`.
pub fn pids_in_cgroup(part: &str) -> Vec<u32> {
    processes().iter().filter(|p| p.cgroups.contains(part) && p.state != 'Z').map(|p| p.pid).collect()
}

/// The namespace of `kind` of a process, as `net:[4026531840]`; `None` when it is gone.
pub fn namespace(pid: u32, kind: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Waits until a process has ended. Panics when it goes on for longer than [`LIMIT`].
#[track_caller]
pub fn wait_ended(pid: u32) {
    let ended = pidfd(pid).is_none_or(|fd| wait_readable(&[&fd], LIMIT));
    assert!(ended, "process {pid} goes on");
}

/// A pidfd; `None` when the process is gone.
pub(crate) fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn read(pid: u32) -> Option<Running> {
    let dir = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name is in parentheses and may hold any letter, also a parenthesis.
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let command = fs::read(dir.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    let kinds = ["net", "mnt", "pid", "ipc", "uts", "user"];
    Some(Running {
        pid,
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        name: head.split_once('(')?.1.to_owned(),
        command: words.join(" ").trim_end().to_owned(),
        cgroups: fs::read_to_string(dir.join("cgroup")).unwrap_or_default(),
        namespaces: kinds.into_iter().filter_map(|k| Some((k, namespace(pid, k)?))).collect(),
    })
}
