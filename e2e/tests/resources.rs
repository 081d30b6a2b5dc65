//! Limits at creation and later, and what is told of their use.

use super::containers::{sleeper, with_each_handler};
use gantry_e2e::{Crictl, Stage};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A control file of the container's cgroup on the host.
fn control(crictl: &Crictl, id: &str, controller: &str, v1: &str, v2: &str) -> String {
    let pid = crictl.json(&["inspect", id])["info"]["pid"].as_u64().unwrap();
    let lines = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |wanted: &str| {
        lines.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|c| c == wanted).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let v1_root = Path::new("/sys/fs/cgroup").join(controller);
    let file: PathBuf = match of(controller) {
        Some(path) => v1_root.join(path).join(v1),
        None => Path::new("/sys/fs/cgroup").join(of("").unwrap()).join(v2),
    };
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

#[test]
fn cpu_and_memory_limits() {
    with_each_handler(|stage, crictl, handler| {
        let limits = json!({"linux": {"resources": {
            "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20,
        }}});
        let id = sleeper(stage, crictl, handler, json!({}), limits);
        let bytes = (64_u64 << 20).to_string();
        let memory = control(crictl, &id, "memory", "memory.limit_in_bytes", "memory.max");
        assert_eq!(memory, bytes, "{handler}");
        let quota = control(crictl, &id, "cpu", "cpu.cfs_quota_us", "cpu.max");
        assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{handler}: {quota}");
        let weight = control(crictl, &id, "cpu", "cpu.shares", "cpu.weight");
        assert!(weight == "512" || weight.parse::<u32>().unwrap() < 100, "{handler}: {weight}");
    });
}

#[test]
fn a_container_over_its_memory_limit_is_killed_and_the_reason_is_kept() {
    with_each_handler(|stage, crictl, handler| {
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 24 << 20}}});
        // Keeps the last lines of an endless one in memory.
        let id = crictl.start(&pod_id, &stage.container("c", "exec tail /dev/zero", limit), &pod);
        let status = crictl.wait_exited(&id);
        assert_eq!(
            (status["exitCode"].as_i64(), &status["reason"]),
            (Some(137), &json!("OOMKilled")),
            "{handler}"
        );
    });
}

/// Limits of a container as its status tells them.
fn told(crictl: &Crictl, id: &str) -> Value {
    crictl.status(id)["resources"]["linux"].clone()
}

#[test]
fn limits_of_a_running_container_are_changed_together_or_not_at_all() {
    with_each_handler(|stage, crictl, handler| {
        let limits = json!({"linux": {"resources": {
            "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20,
        }}});
        let id = sleeper(stage, crictl, handler, json!({}), limits);
        let memory = |id: &str| control(crictl, id, "memory", "memory.limit_in_bytes", "memory.max");
        let quota = |id: &str| control(crictl, id, "cpu", "cpu.cfs_quota_us", "cpu.max");
        let bytes = (96_u64 << 20).to_string();
        crictl.ok(&["update", "--memory", &bytes, "--cpu-quota", "20000", "--cpuset-cpus", "0", &id]);
        assert_eq!(memory(&id), bytes, "{handler}");
        assert!(quota(&id).starts_with("20000"), "{handler}: {}", quota(&id));
        assert_eq!(control(crictl, &id, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
        let now = told(crictl, &id);
        assert_eq!(
            (&now["memoryLimitInBytes"], &now["cpuQuota"], &now["cpuShares"]),
            (&json!(bytes), &json!("20000"), &json!("512")),
            "{handler}"
        );
        let spec = crictl.json(&["inspect", &id])["info"]["runtimeSpec"]["linux"]["resources"].clone();
        assert_eq!(spec["memory"]["limit"], 96 << 20, "{handler}");
        assert!(spec["devices"].as_array().is_some_and(|d| !d.is_empty()), "the rules on devices stay");

        // A CPU that no machine has: the kernel refuses it after the quota was set.
        let failed = crictl.run(&["update", "--cpu-quota", "70000", "--cpuset-cpus", "4095", &id]);
        assert_ne!(failed.code, Some(0), "{handler}");
        assert!(failed.stderr.contains("cpuset.cpus"), "{handler}: {}", failed.stderr);
        assert!(quota(&id).starts_with("20000"), "{handler}: {}", quota(&id));
        assert_eq!(told(crictl, &id)["cpuQuota"], "20000", "{handler}");

        crictl.ok(&["stop", "-t", "0", &id]);
        let ended = crictl.run(&["update", "--cpu-quota", "30000", &id]);
        assert!(ended.stderr.contains("FailedPrecondition"), "{handler}: {}", ended.stderr);
        let unknown = crictl.run(&["update", "--cpu-quota", "30000", "0123456789abcdef"]);
        assert!(unknown.stderr.contains("NotFound"), "{}", unknown.stderr);
    });
}

#[test]
fn limits_of_a_created_container_are_those_it_starts_with() {
    with_each_handler(|stage, crictl, handler| {
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 64 << 20}}});
        let config = stage.container("c", "exec sleep 100000", limit);
        let id = crictl.create(&pod_id, &config, &pod);
        let bytes = (80_u64 << 20).to_string();
        crictl.ok(&["update", "--memory", &bytes, &id]);
        // The same request still means the same container.
        assert_eq!(crictl.create(&pod_id, &config, &pod), id, "{handler}");
        crictl.ok(&["start", &id]);
        assert_eq!(control(crictl, &id, "memory", "memory.limit_in_bytes", "memory.max"), bytes, "{handler}");
        assert_eq!(told(crictl, &id)["memoryLimitInBytes"], json!(bytes), "{handler}");
    });
}

#[test]
fn use_is_told_for_what_runs() {
    with_each_handler(|stage, crictl, handler| {
        let limit = json!({
            "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
            "labels": {"wanted": "yes"},
        });
        // Keeps 8 MB of memory, then says so.
        let script = "x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; sleep 100000; echo $x";
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let config = stage.container("big", script, limit);
        let id = crictl.start(&pod_id, &config, &pod);
        gantry_e2e::wait_file(&stage.log_dir("p").join("big.log"), "it is ready", |t| t.contains("ready"));
        let idle = sleeper(stage, crictl, handler, json!({}), json!({}));

        let number = |v: &Value| v["value"].as_str().and_then(|n| n.parse::<u64>().ok());
        let all = crictl.json(&["stats", "-o", "json", "--label", "wanted=yes"])["stats"].clone();
        assert_eq!(all.as_array().map(Vec::len), Some(1), "{handler}: {all}");
        let stats = &all[0];
        assert_eq!(stats["attributes"]["id"], json!(id));
        let set = number(&stats["memory"]["workingSetBytes"]).unwrap();
        let free = number(&stats["memory"]["availableBytes"]).unwrap();
        assert!((8_000_000..64 << 20).contains(&set), "{handler}: {set}");
        assert_eq!(set + free, 64 << 20, "{handler}");
        assert!(number(&stats["cpu"]["usageCoreNanoSeconds"]).unwrap() > 0, "{handler}");
        assert!(number(&stats["memory"]["rssBytes"]).unwrap() >= 8_000_000, "{handler}");
        assert_eq!(crictl.json(&["stats", "-o", "json"])["stats"].as_array().map(Vec::len), Some(2));

        let pods = crictl.json(&["statsp", "-o", "json"])["stats"].clone();
        let of_pod = &pods[0]["linux"];
        assert_eq!(pods[0]["attributes"]["id"], json!(pod_id), "{handler}: {pods}");
        assert!(number(&of_pod["memory"]["workingSetBytes"]).unwrap() >= set / 2, "{handler}");
        assert!(number(&of_pod["process"]["processCount"]).unwrap() >= 3, "{handler}: {of_pod}");
        assert_eq!(of_pod["containers"].as_array().map(Vec::len), Some(2), "{handler}");

        crictl.ok(&["stop", "-t", "0", &idle]);
        assert_eq!(crictl.json(&["stats", "-o", "json"])["stats"].as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn the_network_of_a_pod_is_counted() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", gantry_e2e::BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    crictl.sh(&id, "ping -c 2 -W 5 $(ip route | awk '/default/ {print $3}')");
    let stats = crictl.json(&["statsp", "-o", "json"])["stats"][0]["linux"]["network"].clone();
    let default = &stats["defaultInterface"];
    assert_eq!(default["name"], "eth0", "{stats}");
    let sent = default["txBytes"]["value"].as_str().and_then(|n| n.parse::<u64>().ok()).unwrap();
    assert!(sent > 150, "two echo requests with their headers: {stats}");
    crictl.remove_all();
    daemon.end();
    stage.end();
}
