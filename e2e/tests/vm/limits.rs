//! Limits as the kernel has them, in the files of the container's cgroup.

use crate::bed::{Bed, read};
use serde_json::json;
use std::path::Path;

pub(crate) fn are_set(bed: &Bed, handler: &str) {
    let id = bed.sleeper(handler, json!({"linux": {"resources": {
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "cpuset_cpus": "1", "cpuset_mems": "0",
        "memory_limit_in_bytes": 64 << 20, "oom_score_adj": -500,
        "hugepage_limits": [{"page_size": "2MB", "limit": 4 << 20}],
    }}}));
    let cgroup = bed.cgroup(&id);
    let file = |name: &str| read(&cgroup.join(name));
    assert_eq!(file("memory.max"), (64 << 20).to_string());
    assert_eq!(file("memory.swap.max"), "0", "the limit is one of memory and swap together");
    assert_eq!(file("cpu.max"), "50000 100000");
    // Half the shares that a container has by default (1024); the runtimes differ in how they convert them.
    let weight: u32 = file("cpu.weight").parse().unwrap();
    assert!((10..100).contains(&weight), "{weight}");
    assert_eq!(file("cpuset.cpus"), "1");
    assert_eq!(file("cpuset.cpus.effective"), "1");
    assert_eq!(file("cpuset.mems"), "0");
    assert_eq!(file("pids.max"), "32768");
    assert_eq!(file("hugetlb.2MB.max"), (4 << 20).to_string());
    let pid = bed.crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap();
    assert_eq!(read(Path::new(&format!("/proc/{pid}/oom_score_adj"))), "-500");
    // And they are there for the container itself to see.
    let seen = bed.crictl.sh(&id, "cat /sys/fs/cgroup/memory.max; grep Cpus_allowed_list /proc/self/status");
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["67108864", "Cpus_allowed_list:", "1"]);
    let refused = bed.crictl.sh(&id, "echo max 2>&1 >/sys/fs/cgroup/memory.max || echo refused");
    assert!(refused.contains("refused"), "{refused}");
}

pub(crate) fn by_the_names_of_v2(bed: &Bed, handler: &str) {
    let unified = json!({"memory.high": "41943040",
        "memory.min": "1048576", "pids.max": "100", "io.weight": "default 50"});
    let id = bed.sleeper(handler, json!({"linux": {"resources": {"unified": unified}}}));
    let cgroup = bed.cgroup(&id);
    assert_eq!(read(&cgroup.join("memory.high")), "41943040");
    assert_eq!(read(&cgroup.join("memory.min")), "1048576");
    assert_eq!(read(&cgroup.join("pids.max")), "100");
    assert_eq!(read(&cgroup.join("io.weight")), "default 50");
    let pod = bed.stage.pod("q", json!({}));
    let pod_id = bed.crictl.runp(handler, &pod);
    let unknown = json!({"linux": {"resources": {"unified": {"memory.nonesuch": "1"}}}});
    let container = bed.stage.container("u", "true", unknown);
    let id = bed.crictl.create(&pod_id, &container, &pod);
    let refused = bed.crictl.run(&["start", &id]).fails();
    assert!(refused.contains("memory.nonesuch"), "{refused}");
}

pub(crate) fn cgroups_are_where_the_kubelet_wants_them(bed: &Bed, handler: &str) {
    let parent = format!("/kubepods-{handler}/burstable/pod1");
    let limits = json!({"linux": {"resources": {"memory_limit_in_bytes": 32 << 20}}});
    let over = json!({"linux": {"cgroup_parent": parent}});
    let id = bed.start(handler, "exec sleep 100000", over, limits);
    let cgroup = bed.cgroup(&id);
    let top = Path::new("/sys/fs/cgroup").join(format!("kubepods-{handler}"));
    assert!(cgroup.starts_with(top.join("burstable/pod1")), "{}", cgroup.display());
    assert_eq!(read(&cgroup.join("memory.max")), (32 << 20).to_string());
    // The kubelet sets limits on the pod's cgroup, which needs its controllers.
    std::fs::write(top.join("burstable/pod1/memory.max"), "67108864").unwrap();
    bed.crictl.remove_all();
    // The kubelet owns them, and takes them away; nothing of the pod is left in them.
    for dir in ["burstable/pod1", "burstable", ""] {
        std::fs::remove_dir(top.join(dir)).unwrap_or_else(|e| panic!("remove {dir}: {e}"));
    }
}

pub(crate) fn a_container_over_its_memory_is_killed_and_the_reason_is_kept(bed: &Bed, handler: &str) {
    let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 24 << 20}}});
    // Keeps the last lines of an endless one in memory.
    let id = bed.start(handler, "exec tail /dev/zero", json!({}), limit.clone());
    let status = bed.crictl.wait_exited(&id);
    assert_eq!((status["exitCode"].as_i64(), &status["reason"]), (Some(137), &json!("OOMKilled")));
    bed.crictl.remove_all();
    // A signal is no OOM kill, with the same limit.
    let id = bed.start(handler, "exec sleep 100000", json!({}), limit);
    bed.crictl.ok(&["stop", "--timeout", "0", &id]);
    let status = bed.crictl.status(&id);
    assert_eq!((status["exitCode"].as_i64(), &status["reason"]), (Some(137), &json!("Error")));
}
