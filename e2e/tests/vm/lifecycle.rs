//! A pod from its start to its end.

use crate::with_each_handler;
use gantry_e2e::Stage;
use serde_json::json;

#[test]
fn the_machine_is_what_these_tests_are_for() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let controllers = read("/sys/fs/cgroup/cgroup.controllers");
    for wanted in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        assert!(controllers.split_whitespace().any(|c| c == wanted), "{wanted} is in {controllers:?}");
    }
    assert_eq!(read("/sys/module/apparmor/parameters/enabled").trim(), "Y");
}

#[test]
fn a_pod_and_its_container() {
    with_each_handler(|stage, crictl, handler| {
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        assert_eq!(crictl.json(&["inspectp", &pod_id])["info"]["runtimeHandler"], handler);
        let container = stage.container("c", "echo started; exec sleep 100000", json!({}));
        let id = crictl.start(&pod_id, &container, &pod);
        assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING");
        assert_eq!(crictl.sh(&id, "cat /proc/self/cgroup").trim(), "0::/", "{handler}: a namespace of its own");
        crictl.ok(&["stop", "--timeout", "0", &id]);
        assert_eq!(crictl.status(&id)["exitCode"], 137, "{handler}");
        crictl.ok(&["rm", &id]);
        crictl.ok(&["stopp", &pod_id]);
        crictl.ok(&["rmp", &pod_id]);
    });
}

#[test]
fn the_built_in_network() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", gantry_e2e::BUSYBOX]);
    for handler in crate::HANDLERS {
        let pod = stage.network_pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec httpd -f -h /www", json!({})), &pod);
        let peer = crictl.json(&["inspectp", &pod_id])["status"]["network"]["ip"].clone();
        let other = stage.network_pod("q", json!({}));
        let other_id = crictl.runp(handler, &other);
        let script = format!("until wget -q -O - http://{}/; do :; done", peer.as_str().unwrap());
        let visitor = crictl.start(&other_id, &stage.container("v", &script, json!({})), &other);
        assert_eq!(crictl.wait_exited(&visitor)["exitCode"], 0, "{handler}");
        assert!(crictl.ok(&["logs", &visitor]).contains("a page from a pod"), "{handler}");
        crictl.ok(&["stop", "--timeout", "0", &id]);
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}
