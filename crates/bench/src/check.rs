//! Is what was asked for really there? A runtime that leaves out limits or seccomp would win every race.

use crate::cgroups::Hierarchies;
use crate::kubelet::{self, Pod};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::Path;

/// The bit of `CAP_SYS_ADMIN` in the masks of `/proc/<pid>/status`.
const SYS_ADMIN: u64 = 1 << 21;

/// Checks a running container by its first process: seccomp, limits, namespaces, mounts, DNS, environment.
///
/// `pause` is the pod's own process where it has one: the container must share its network and IPC.
pub(crate) fn container(pid: i32, pause: Option<i32>, pod: &Pod, hierarchies: &Hierarchies) -> Result<()> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let status = read("status")?;
    let field = |name: &str| status_field(&status, name);
    ensure!(field("Seccomp") == Some("2"), "seccomp is {:?}, not 2 (a filter)", field("Seccomp"));
    let effective = field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    ensure!(
        effective.is_some_and(|caps| caps & SYS_ADMIN == 0),
        "it has CAP_SYS_ADMIN: {:?}",
        field("CapEff")
    );
    ensure!(read("oom_score_adj")?.trim() == "994", "oom_score_adj is not 994");

    limits(&cgroups_in(&read("cgroup")?), pod, hierarchies)?;
    namespaces(pid, pause)?;
    mounts(&read("mountinfo")?)?;

    let root = format!("/proc/{pid}/root");
    let inside = |path: &str| {
        fs::read_to_string(format!("{root}{path}")).with_context(|| format!("read {path} in the container"))
    };
    ensure!(
        inside("/etc/resolv.conf")?.contains(kubelet::NAME_SERVER),
        "resolv.conf has another name server"
    );
    ensure!(
        inside("/etc/hosts")?.contains("written for a benchmark"),
        "/etc/hosts is not the one that was mounted"
    );
    ensure!(
        inside(&format!("{}/namespace", kubelet::TOKEN_DIR))? == kubelet::NAMESPACE,
        "another token directory"
    );
    let environment = read("environ")?;
    for pair in ["BENCH=yes", "KUBERNETES_SERVICE_HOST=10.96.0.1"] {
        ensure!(environment.split('\0').any(|e| e == pair), "{pair} is not in the environment");
    }
    let log = Path::new(&pod.sandbox.log_directory).join(&pod.container.log_path);
    ensure!(log.exists(), "the container has no log at {}", log.display());
    Ok(())
}

fn limits(paths: &[String], pod: &Pod, hierarchies: &Hierarchies) -> Result<()> {
    let own: Vec<&String> = paths.iter().filter(|path| path.starts_with(&pod.cgroup)).collect();
    ensure!(!own.is_empty(), "no control group below {}", pod.cgroup);
    let read = |file: &str| own.iter().find_map(|path| hierarchies.read(path, file));
    let memory = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
    ensure!(
        memory.as_deref() == Some(&kubelet::MEMORY_LIMIT.to_string()),
        "the memory limit is {memory:?}, not {}",
        kubelet::MEMORY_LIMIT
    );
    let cpu = read("cpu.max")
        .or_else(|| Some(format!("{} {}", read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)));
    let wanted = format!("{} {}", kubelet::CPU_QUOTA, kubelet::CPU_PERIOD);
    ensure!(cpu.as_deref() == Some(&wanted), "the CPU limit is {cpu:?}, not {wanted}");
    if let Some(shares) = read("cpu.shares") {
        ensure!(
            shares == kubelet::CPU_SHARES.to_string(),
            "the CPU shares are {shares}, not {}",
            kubelet::CPU_SHARES
        );
    }
    Ok(())
}

fn namespaces(pid: i32, pause: Option<i32>) -> Result<()> {
    let link = |pid: &str, kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        fs::read_link(&path).with_context(|| format!("read {path}"))
    };
    for kind in ["pid", "mnt", "net", "ipc", "uts"] {
        let own = link(&pid.to_string(), kind)?;
        ensure!(own != link("self", kind)?, "the container has the host's {kind} namespace");
        if let Some(pause) = pause {
            let shared = own == link(&pause.to_string(), kind)?;
            let wanted = matches!(kind, "net" | "ipc" | "uts");
            ensure!(shared == wanted, "{kind} namespace shared with the pod: {shared}, asked: {wanted}");
        }
    }
    Ok(())
}

fn mounts(mountinfo: &str) -> Result<()> {
    for (path, wanted) in [
        (kubelet::TOKEN_DIR, "ro"),
        ("/etc/hosts", "rw"),
        (kubelet::TERMINATION_LOG, "rw"),
        ("/proc/sys", "ro"),
    ] {
        // The image's /var/run may be a link to /run.
        let point = path.strip_prefix("/var").unwrap_or(path);
        let options = mountinfo.lines().rev().find_map(|line| {
            let mut parts = line.split(' ').skip(4);
            let at = parts.next()?;
            (at == path || at == point).then(|| parts.next()).flatten()
        });
        let Some(options) = options else { bail!("nothing is mounted on {path}") };
        ensure!(options.split(',').any(|o| o == wanted), "{path} is mounted {options}, not {wanted}");
    }
    Ok(())
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Paths of a process in each hierarchy, from `/proc/<pid>/cgroup`.
fn cgroups_in(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "1 0 0:1 / / rw - overlay overlay rw\n\
        2 1 0:2 /x /etc/hosts rw,relatime - ext4 /dev/a rw\n\
        3 1 0:2 /y /dev/termination-log rw - ext4 /dev/a rw\n\
        4 1 0:3 /sys /proc/sys ro,nosuid - proc proc rw\n";

    #[test]
    fn mounts_are_found_with_their_options() {
        let token = "5 1 0:2 /z /run/secrets/kubernetes.io/serviceaccount ro - ext4 /dev/a rw\n";
        mounts(&format!("{MOUNTINFO}{token}")).unwrap();
        assert!(mounts(MOUNTINFO).unwrap_err().to_string().contains("nothing is mounted"));
        let writable = token.replace(" ro ", " rw ");
        let error = mounts(&format!("{MOUNTINFO}{writable}")).unwrap_err().to_string();
        assert!(error.contains("not ro"), "{error}");
    }

    #[test]
    fn fields_and_paths_are_read() {
        assert_eq!(status_field("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", "Seccomp"), Some("2"));
        assert_eq!(cgroups_in("4:memory:/a/b\n0::/c:d\n"), ["/a/b", "/c:d"]);
    }

    #[test]
    fn this_process_has_no_container() {
        let me = std::process::id().cast_signed();
        assert!(namespaces(me, None).unwrap_err().to_string().contains("the host's"));
    }
}
