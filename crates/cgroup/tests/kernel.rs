//! Real cgroups of this host, as root, under a name of this test's own.

use gantry_cgroup::{Cgroup, Hierarchies, Limits};
use std::process::{Child, Command};
use std::time::Duration;

fn in_cgroup(hierarchies: &Hierarchies, path: &str, script: &str) -> Child {
    // Entered by a thread of its own: on v1 only that thread moves, and what it spawns.
    std::thread::scope(|s| {
        s.spawn(|| {
            hierarchies.enter_thread(path).unwrap();
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            hierarchies.place(path, child.id()).unwrap();
            child
        })
        .join()
        .unwrap()
    })
}

#[test]
fn everything_in_a_cgroup_is_killed_and_the_cgroup_removed() {
    let hierarchies = Hierarchies::detect().unwrap();
    let path = format!("/gantry-cgroup-test-{}/c", std::process::id());
    let cgroup = Cgroup::new(&hierarchies, &path).unwrap();
    assert_eq!(cgroup.pids().unwrap(), []);
    cgroup.remove().unwrap();
    // Children that left the session and the parent are found all the same.
    let script = "setsid sh -c 'sleep 1000 & sleep 1000' & setsid sleep 1000 & trap '' TERM; wait";
    let mut child = in_cgroup(&hierarchies, &path, script);
    while cgroup.pids().unwrap().len() < 4 {
        std::thread::yield_now();
    }
    assert!(cgroup.oom_counter().is_some_and(|f| f.exists()));
    let error = cgroup.remove().unwrap_err().to_string();
    assert!(error.contains("remove"), "{error}");
    let report = cgroup.kill(Duration::from_secs(20)).unwrap();
    assert!(report.killed >= 4, "{report:?}");
    assert!(!child.wait().unwrap().success());
    cgroup.remove().unwrap();
    let parent = path.trim_end_matches("/c");
    hierarchies.remove_if_empty(parent).unwrap();
    for mount in hierarchies.mounts() {
        assert!(!mount.join(parent.trim_start_matches('/')).exists(), "{}", mount.display());
    }
}

#[test]
fn limits_are_set_together_or_not_at_all_and_use_is_told() {
    let hierarchies = Hierarchies::detect().unwrap();
    let path = format!("/gantry-cgroup-limits-{}", std::process::id());
    let cgroup = Cgroup::new(&hierarchies, &path).unwrap();
    // Keeps some memory and says so.
    let script = "x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo ready; read end";
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (end, mut hold) = std::io::pipe().unwrap();
    let mut child = std::thread::scope(|s| {
        let spawn = || {
            hierarchies.enter_thread(&path).unwrap();
            Command::new("sh").args(["-c", script]).stdin(end).stdout(writer).spawn().unwrap()
        };
        s.spawn(spawn).join().unwrap()
    });
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut reader, &mut ready).unwrap();

    let stats = cgroup.stats_reader(&hierarchies).unwrap();
    let used = stats.read().unwrap();
    let memory = used.memory.unwrap();
    assert!(memory.working_set > 4_000_000 && memory.rss > 4_000_000, "{memory:?}");
    assert!(memory.limit.is_none(), "{memory:?}");
    assert!(used.cpu_ns.unwrap() > 0);
    assert_eq!(used.pids, Some(1));

    let good = Limits {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory: Some(64 << 20),
        memory_swap: Some(64 << 20),
        ..Limits::default()
    };
    let applied = cgroup.set_limits(&hierarchies, &good).unwrap();
    assert_eq!(stats.read().unwrap().memory.unwrap().limit, Some(64 << 20));
    let quota = || {
        let dir = cgroup.controller_dir(&hierarchies, "cpu").unwrap();
        let file = ["cpu.cfs_quota_us", "cpu.max"].map(|f| dir.join(f)).into_iter().find(|f| f.exists());
        std::fs::read_to_string(file.unwrap()).unwrap()
    };
    assert!(quota().starts_with("50000"));

    // The last one is impossible: the first ones go back.
    let bad = Limits { cpu_quota: Some(20_000), memory: Some(1 << 20), ..Limits::default() };
    let error = cgroup.set_limits(&hierarchies, &bad).unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
    assert!(quota().starts_with("50000"), "{}", quota());

    applied.revert().unwrap();
    assert!(stats.read().unwrap().memory.unwrap().limit.is_none());
    std::io::Write::write_all(&mut hold, b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    cgroup.remove().unwrap();
    assert!(stats.read().unwrap_err().is_gone());
    assert!(cgroup.stats_reader(&hierarchies).unwrap_err().is_gone());
}
