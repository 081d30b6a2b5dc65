//! Limits that change while a container runs, and what is told of its use.

use crate::bed::{Bed, read};
use gantry_e2e::wait_file;
use serde_json::{Value, json};

pub(crate) fn limits_are_changed_together_or_not_at_all(bed: &Bed, handler: &str) {
    let id = bed.sleeper(
        handler,
        json!({"linux": {"resources": {
            "cpu_period": 100_000, "cpu_quota": 50_000, "memory_limit_in_bytes": 64 << 20,
        }}}),
    );
    let cgroup = bed.cgroup(&id);
    let file = |name: &str| read(&cgroup.join(name));
    let (up, down) = ((96 << 20).to_string(), (48 << 20).to_string());
    for bytes in [up, down] {
        bed.crictl.ok(&["update", "--memory", &bytes, "--cpu-quota", "20000", "--cpuset-cpus", "0", &id]);
        assert_eq!(file("memory.max"), bytes);
        assert_eq!(file("memory.swap.max"), "0", "there is still no swap");
        assert_eq!(file("cpu.max"), "20000 100000");
        assert_eq!(file("cpuset.cpus"), "0");
        assert_eq!(bed.crictl.status(&id)["resources"]["linux"]["memoryLimitInBytes"], json!(bytes));
    }
    let weight: u32 = file("cpu.weight").parse().unwrap();
    bed.crictl.ok(&["update", "--cpu-share", "4096", &id]);
    let heavier: u32 = file("cpu.weight").parse().unwrap();
    assert!(heavier > weight, "{heavier} is more than {weight}");
    // A CPU that this machine has not: nothing is changed.
    let refused = bed.crictl.run(&["update", "--cpu-quota", "70000", "--cpuset-cpus", "4095", &id]).fails();
    assert!(refused.contains("cpuset.cpus"), "{refused}");
    assert_eq!((file("cpu.max").as_str(), file("cpuset.cpus").as_str()), ("20000 100000", "0"));
    // The devices that it may use are still those.
    assert!(bed.crictl.sh(&id, "( : >/dev/null ) && echo usable").contains("usable"));
}

pub(crate) fn use_is_told(bed: &Bed, handler: &str) {
    // Keeps 8 MB of memory, then says so.
    let script = "x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; sleep 100000; echo $x";
    let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 64 << 20}}});
    let id = bed.start(handler, script, json!({}), limit);
    wait_file(&bed.stage.log_dir("p").join("c.log"), "it is ready", |t| t.contains("ready"));
    let number = |v: &Value| v["value"].as_str().and_then(|n| n.parse::<u64>().ok());
    let all = bed.crictl.json(&["stats", "-o", "json"])["stats"].clone();
    assert_eq!((all.as_array().map(Vec::len), &all[0]["attributes"]["id"]), (Some(1), &json!(id)));
    let memory = &all[0]["memory"];
    let (set, free) =
        (number(&memory["workingSetBytes"]).unwrap(), number(&memory["availableBytes"]).unwrap());
    assert!((8_000_000..64 << 20).contains(&set), "{memory}");
    assert_eq!(set + free, 64 << 20, "{memory}");
    assert!(number(&memory["rssBytes"]).unwrap() >= 8_000_000, "{memory}");
    assert!(number(&all[0]["cpu"]["usageCoreNanoSeconds"]).unwrap() > 0, "{all}");
    let pod = bed.crictl.json(&["statsp", "-o", "json"])["stats"][0]["linux"].clone();
    assert!(number(&pod["memory"]["workingSetBytes"]).unwrap() >= set / 2, "{pod}");
    assert!(number(&pod["process"]["processCount"]).unwrap() >= 2, "{pod}");
}
