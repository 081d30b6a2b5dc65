//! systemd as the manager of control groups: one scope per pod, everything below it Gantry's.

use crate::bed::{Bed, property, read, systemctl};
use gantry_e2e::{BUSYBOX, Watch};
use serde_json::json;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";

/// Units of pods and monitors that systemd knows, also failed ones.
fn units() -> String {
    systemctl(&["list-units", "--all", "--plain", "--no-legend", "crio-*", "gantry-monitors-*"])
}

/// Path of a process's cgroup.
fn cgroup_of(pid: &str) -> String {
    let text = read(Path::new(&format!("/proc/{pid}/cgroup")));
    text.strip_prefix("0::").unwrap_or_else(|| panic!("not a cgroup of v2: {text}")).to_owned()
}

pub(crate) fn a_pod_is_a_scope_in_the_slice_that_is_named(bed: &Bed, handler: &str) {
    let slice = format!("kubepods-{handler}-pod2.slice");
    let parent = format!("/kubepods.slice/kubepods-{handler}.slice/{slice}");
    // The kubelet makes the slice with its limits before the sandbox.
    systemctl(&["set-property", "--runtime", &slice, "MemoryMax=200M", "TasksMax=500"]);
    systemctl(&["start", &slice]);
    let limits = json!({"linux": {"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50_000,
        "cpu_period": 100_000}}});
    // Some kubelets send the name of the slice, some its path.
    let asked = if handler == "crun" { &parent } else { &slice };
    let over = json!({"linux": {"cgroup_parent": asked, "resources": {"memory_limit_in_bytes": 1 << 20}}});
    let id = bed.start(handler, "exec sleep 100000", over, limits);
    let pod_id = bed.crictl.ok(&["pods", "--quiet", "--no-trunc"]);
    let scope = format!("crio-{pod_id}.scope");

    let cgroup = bed.cgroup(&id);
    assert_eq!(cgroup, Path::new(ROOT).join(format!("{}/{scope}/crio-{id}", &parent[1..])));
    assert_eq!(property(&scope, "ControlGroup"), format!("{parent}/{scope}"));
    assert_eq!(property(&scope, "Slice"), slice);
    assert_eq!(property(&scope, "Delegate"), "yes");
    assert_eq!(property(&scope, "TasksMax"), "infinity", "not the host's default");
    assert_eq!(property(&scope, "MemoryMax"), "infinity", "the limits of the pod are the slice's");
    let monitors = cgroup_of(&monitor_of(&pod_id));
    assert!(monitors.starts_with("/gantry.slice/gantry-monitors.slice/gantry-monitors-"), "{monitors}");

    let files = |what: &str| {
        assert_eq!(read(&cgroup.join("memory.max")), (64 << 20).to_string(), "{what}");
        assert_eq!(read(&cgroup.join("cpu.max")), "50000 100000", "{what}");
        let slice = cgroup.ancestors().nth(2).unwrap();
        assert_eq!(read(&slice.join("memory.max")), (200 << 20).to_string(), "{what}");
        assert_eq!(read(&slice.join("pids.max")), "500", "{what}");
        assert!(read(&cgroup.parent().unwrap().join("cgroup.subtree_control")).contains("memory"), "{what}");
    };
    files("at first");
    systemctl(&["daemon-reload"]);
    files("after daemon-reload");
    systemctl(&["set-property", "--runtime", &slice, "CPUWeight=50"]);
    files("after another limit of the slice was set");
    assert_eq!(bed.crictl.status(&id)["state"], "CONTAINER_RUNNING");

    bed.crictl.remove_all();
    assert_eq!(property(&scope, "LoadState"), "not-found");
    assert!(!cgroup.parent().unwrap().exists(), "the scope's cgroup is gone");
    assert_eq!(units(), "", "no pod, no unit");
    systemctl(&["stop", &format!("kubepods-{handler}.slice")]);
    systemctl(&["revert", &slice]);
}

/// The monitor of a pod, by the name that it has in the list of processes.
fn monitor_of(pod_id: &str) -> String {
    let name = format!("gantry-monitor {pod_id}\0");
    let found = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let text = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // The pause child has the same.
        text.starts_with(name.as_bytes()) && !read(&entry.path().join("cgroup")).contains("/pause")
    });
    found.expect("the pod has a monitor").file_name().to_string_lossy().into_owned()
}

pub(crate) fn limits_of_a_pod_are_properties(bed: &Bed, handler: &str) {
    let resources = json!({"memory_limit_in_bytes": 100 << 20, "cpu_quota": 30_000, "cpu_period": 100_000,
        "cpu_shares": 2048, "cpuset_cpus": "1", "unified": {"memory.high": "83886080"}});
    let overhead = json!({"memory_limit_in_bytes": 4 << 20});
    // No parent is named: the slice is Gantry's, and nobody else limits the pod.
    let over = json!({"linux": {"resources": resources, "overhead": overhead}});
    let pod = bed.stage.pod("limited", over);
    let pod_id = bed.crictl.runp(handler, &pod);
    let scope = format!("crio-{pod_id}.scope");
    assert_eq!(property(&scope, "Slice"), "gantry-cri.slice");
    let dir = Path::new(ROOT).join(format!("gantry.slice/gantry-cri.slice/{scope}"));
    let properties = [
        ("MemoryMax", (104 << 20).to_string()),
        ("MemoryHigh", (80 << 20).to_string()),
        ("CPUQuotaPerSecUSec", "300ms".into()),
        ("CPUWeight", "79".into()),
        ("AllowedCPUs", "1".into()),
        ("TasksMax", "infinity".into()),
    ];
    let files = [
        ("memory.max", (104 << 20).to_string()),
        ("memory.high", (80 << 20).to_string()),
        ("cpu.max", "30000 100000".into()),
        ("cpu.weight", "79".into()),
        ("cpuset.cpus", "1".into()),
        ("pids.max", "max".into()),
    ];
    for reloaded in [false, true] {
        if reloaded {
            systemctl(&["daemon-reload"]);
        }
        for (name, value) in &properties {
            assert_eq!(property(&scope, name), *value, "{name}, reloaded: {reloaded}");
        }
        for (name, value) in &files {
            assert_eq!(read(&dir.join(name)), *value, "{name}, reloaded: {reloaded}");
        }
    }
    // What is refused is refused whole.
    let unknown = json!({"linux": {"resources": {"unified": {"rdma.max": "mlx5 max"}}}});
    let refused = bed.crictl.run_runp(handler, &bed.stage.pod("unknown", unknown)).fails();
    assert!(refused.contains("rdma.max"), "{refused}");
    bed.crictl.remove_all();
    assert_eq!(units(), "");
}

pub(crate) fn what_is_no_slice_is_refused(bed: &Bed, handler: &str) {
    for parent in ["/kubepods/burstable/pod1", "a.scope", "/x.slice/a-b.slice", "a--b.slice"] {
        let pod = bed.stage.pod("p", json!({"linux": {"cgroup_parent": parent}}));
        let refused = bed.crictl.run_runp(handler, &pod).fails();
        assert!(
            refused.contains("InvalidArgument") && refused.contains("is no slice"),
            "{parent}: {refused}"
        );
    }
    assert_eq!(units(), "");
}

pub(crate) fn the_bus_may_be_restarted(bed: &Bed, handler: &str) {
    let id = bed.sleeper(handler, json!({}));
    systemctl(&["restart", "dbus.service"]);
    let pod = bed.stage.pod("after", json!({}));
    bed.crictl.runp(handler, &pod);
    assert_eq!(bed.crictl.status(&id)["state"], "CONTAINER_RUNNING");
    bed.crictl.remove_all();
    assert_eq!(units(), "");
}

pub(crate) fn a_daemon_that_is_killed_at_any_step_leaves_nothing(bed: &Bed, handler: &str) {
    let mut daemon = bed.another("k").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = bed.stage.pod("k", json!({"linux": {"cgroup_parent": "kubepods-besteffort-pod3.slice"}}));
    let container = bed.stage.container("c", "echo started; exec sleep 100000", json!({}));

    // Running pods outlive it.
    let pod_id = crictl.runp(handler, &pod);
    let id = crictl.start(&pod_id, &container, &pod);
    daemon.kill();
    daemon.restart();
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING");
    crictl.ok(&["stop", "--timeout", "0", &id]);
    assert_eq!(crictl.status(&id)["exitCode"], 137);
    crictl.remove_all();
    assert_eq!(units(), "");

    let pod_id = crictl.runp(handler, &pod);
    // Nothing is undone yet, so what is owed is what was pushed: the scope, the monitor, /dev/shm.
    let found = crictl.json(&["inspectp", &pod_id])["info"]["owed"].as_array().unwrap().len();
    assert!(found >= 3, "{found}");
    crictl.remove_all();
    let mut covered = 0;
    for (kind, number) in (1..=found).flat_map(|n| [("push", n), ("undo", n)]) {
        daemon.terminate();
        daemon.restart_to_die(&format!("{kind}:{number}:after"));
        let made = crictl.run_runp(handler, &pod);
        assert_eq!(made.code == Some(0), kind == "undo", "{kind} {number}: {}", made.stderr);
        if kind == "undo" {
            crictl.run(&["rmp", "--force", &made.stdout.trim()]).fails();
        }
        daemon.wait_killed();
        daemon.restart();
        covered += 1;
        // As the kubelet: away with what there is, the same again, and away with that.
        crictl.remove_all();
        crictl.runp(handler, &pod);
        crictl.remove_all();
        let pods = daemon.run_dir().join("pods");
        Watch::new(&[&pods]).until("everything is undone", || {
            std::fs::read_dir(&pods).is_ok_and(|mut d| d.next().is_none()).then_some(())
        });
        assert_eq!(units(), "", "killed after {kind} {number}");
    }
    assert_eq!(covered, 2 * found);
    eprintln!("killed at {covered} of {} steps", 2 * found);
    daemon.end();
    systemctl(&["stop", "kubepods.slice"]);
}
