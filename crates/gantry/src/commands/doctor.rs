//! `gantry doctor`: what the daemon sees, and what can be seen without one.

use crate::cli::Format;
use crate::client::Client;
use crate::output::{list, one_line};
use anyhow::{Context as _, Result};
use gantry_cri_api::local::v1::{DoctorCheck, DoctorRequest};
use std::process::ExitCode;

pub(super) async fn run(socket: &str, format: Format) -> Result<ExitCode> {
    let mut checks = host_checks();
    match daemon_checks(socket).await {
        Ok(more) => checks.extend(more),
        Err(error) => checks.push(check("daemon", Err(one_line(&error)), "start it: `gantry serve`")),
    }
    let healthy = checks.iter().all(|c| c.ok);
    let rows = checks.iter().map(|c| {
        let verdict = if c.ok { "ok" } else { "PROBLEM" };
        vec![verdict.to_owned(), c.name.clone(), c.message.clone(), c.remedy.clone()]
    });
    list(format, &["", "CHECK", "FOUND", "WHAT TO DO"], rows.collect(), || {
        let checks = checks.iter().map(
            |c| serde_json::json!({"name": c.name, "ok": c.ok, "message": c.message, "remedy": c.remedy}),
        );
        Ok(serde_json::json!({"healthy": healthy, "checks": checks.collect::<Vec<_>>()}))
    })?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn daemon_checks(socket: &str) -> Result<Vec<DoctorCheck>> {
    let mut client = Client::connect(socket).await?;
    let answer = client.local.doctor(DoctorRequest {}).await.context("ask the daemon")?;
    let mut checks = vec![check("daemon", Ok(format!("answers on {socket}")), "")];
    checks.extend(answer.into_inner().checks);
    Ok(checks)
}

/// What can be looked at without a daemon.
fn host_checks() -> Vec<DoctorCheck> {
    let user = match rustix::process::geteuid() {
        id if id.is_root() => Ok("root".to_owned()),
        id => Err(format!("user {}", id.as_raw())),
    };
    let overlay = read("/proc/filesystems").and_then(|text| overlay(&text));
    let cgroup = read("/proc/self/mounts").and_then(|text| cgroup(&text));
    vec![
        check("user", user, "run gantry as root"),
        check("overlay", overlay, "load the kernel module: `modprobe overlay`"),
        check("cgroup", cgroup, "mount cgroup2 on /sys/fs/cgroup"),
    ]
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// Whether the kernel's list of file systems has overlay.
fn overlay(filesystems: &str) -> Result<String, String> {
    match filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        true => Ok("known to the kernel".into()),
        false => Err("unknown to the kernel".into()),
    }
}

/// Which versions of cgroups are mounted, by a mount table in the format of fstab(5).
fn cgroup(mounts: &str) -> Result<String, String> {
    let mounted = |kind| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (mounted("cgroup2"), mounted("cgroup")) {
        (true, false) => Ok("version 2".into()),
        (true, true) => Ok("version 1, with version 2 beside it".into()),
        (false, true) => Ok("version 1".into()),
        (false, false) => Err("no cgroup file system is mounted".into()),
    }
}

fn check(name: &str, found: Result<String, String>, remedy: &str) -> DoctorCheck {
    let ok = found.is_ok();
    DoctorCheck {
        name: name.into(),
        ok,
        message: found.unwrap_or_else(|why| why),
        remedy: if ok { String::new() } else { remedy.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_is_a_whole_word() {
        assert!(overlay("nodev\ttmpfs\nnodev\toverlay\n").is_ok());
        assert!(overlay("\text4\nnodev\toverlayfs\n").is_err());
        assert!(overlay("").is_err());
    }

    #[test]
    fn versions_of_cgroups() {
        let (v2, v1) = ("cgroup2 /c cgroup2 rw 0 0\n", "cgroup /c/memory cgroup rw,memory 0 0\n");
        assert_eq!(cgroup(v2), Ok("version 2".into()));
        assert_eq!(cgroup(v1), Ok("version 1".into()));
        assert_eq!(cgroup(&format!("{v2}{v1}")), Ok("version 1, with version 2 beside it".into()));
        assert!(cgroup("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n").is_err());
    }

    #[test]
    fn a_remedy_is_told_for_problems_only() {
        assert_eq!(check("x", Ok("fine".into()), "mend it").remedy, "");
        let bad = check("x", Err("broken".into()), "mend it");
        assert_eq!((bad.ok, bad.message.as_str(), bad.remedy.as_str()), (false, "broken", "mend it"));
    }

    #[tokio::test]
    async fn a_missing_daemon_is_an_error_that_names_the_socket() {
        let error = daemon_checks("unix:///nowhere/local.sock").await.unwrap_err();
        assert!(one_line(&error).contains("unix:///nowhere/local.sock"), "{error:#}");
    }
}
