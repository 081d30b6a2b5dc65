//! Real cgroups of this host, as root, under a name of this test's own.

use gantry_cgroup::{Cgroup, Hierarchies};
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
