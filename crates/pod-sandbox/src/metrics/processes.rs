//! Processes of a container and what they have open.

use super::Out;
use crate::engine::Inner;
use std::path::Path;

/// Most processes whose open files are counted, and most files. Of a container with more the figure is
/// left out: a wrong one is worth less than none.
const MAX_PROCESSES: usize = 1024;
const MAX_FILES: u64 = 1 << 16;

/// Adds what is known of the processes in `cgroup`, of which `first` is the container's own.
pub(super) fn put(out: &mut Out<'_>, inner: &Inner, cgroup: &str, first: i32) {
    let Ok(pids) = inner.cgroup(cgroup).and_then(|c| Ok(c.pids()?)) else { return };
    out.put("container_processes", &[], pids.len() as u64);
    if let Some((files, sockets)) = open_files(&pids) {
        out.put("container_file_descriptors", &[], files);
        out.put("container_sockets", &[], sockets);
    }
    let limits = std::fs::read_to_string(format!("/proc/{first}/limits")).unwrap_or_default();
    out.put("container_ulimits_soft", &["max_open_files"], max_open_files(&limits));
}

fn open_files(pids: &[i32]) -> Option<(u64, u64)> {
    if pids.len() > MAX_PROCESSES {
        return None;
    }
    let (mut files, mut sockets) = (0, 0);
    for pid in pids {
        // A process that ended meanwhile has none.
        let dir = Path::new("/proc").join(pid.to_string()).join("fd");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            files += 1;
            if files > MAX_FILES {
                return None;
            }
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    Some((files, sockets))
}

/// The soft limit on open files in the table of proc(5)'s limits; `None` for no limit.
fn max_open_files(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max open files            1024                 524288               files     \n";
        assert_eq!(max_open_files(table), Some(1024));
        assert_eq!(max_open_files("Max open files            unlimited            unlimited  files\n"), None);
    }

    #[test]
    fn open_files_of_this_process_are_counted() {
        let own = [std::process::id() as i32];
        let (before, sockets_before) = open_files(&own).unwrap();
        let (_one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (files, sockets) = open_files(&own).unwrap();
        // Other tests of this program open and close files, too.
        assert!(files > 0 && before > 0 && sockets >= 2, "{files} {sockets} {sockets_before}");
        assert!(open_files(&vec![1; MAX_PROCESSES + 1]).is_none());
    }
}
