//! A pod from its start to its end.

use crate::bed::Bed;
use serde_json::json;

pub(crate) fn a_pod_and_its_container(bed: &Bed, handler: &str) {
    let (stage, crictl) = (&bed.stage, &bed.crictl);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp(handler, &pod);
    assert_eq!(crictl.json(&["inspectp", &pod_id])["info"]["runtimeHandler"], handler);
    let container = stage.container("c", "echo started; exec sleep 100000", json!({}));
    let id = crictl.start(&pod_id, &container, &pod);
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING");
    assert_eq!(crictl.sh(&id, "cat /proc/self/cgroup").trim(), "0::/", "a cgroup namespace of its own");
    let cgroup = bed.cgroup(&id);
    crictl.ok(&["stop", "--timeout", "0", &id]);
    assert_eq!(crictl.status(&id)["exitCode"], 137);
    crictl.ok(&["rm", &id]);
    assert!(!cgroup.exists(), "{} went with the container", cgroup.display());
    crictl.ok(&["stopp", &pod_id]);
    crictl.ok(&["rmp", &pod_id]);
    assert!(!cgroup.parent().unwrap().exists(), "the cgroup above it went with the pod");
}

pub(crate) fn the_built_in_network(bed: &Bed, handler: &str) {
    let (stage, crictl) = (&bed.stage, &bed.crictl);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp(handler, &pod);
    crictl.start(&pod_id, &stage.container("c", "exec httpd -f -h /www", json!({})), &pod);
    let peer = crictl.json(&["inspectp", &pod_id])["status"]["network"]["ip"].clone();
    let other = stage.network_pod("q", json!({}));
    let other_id = crictl.runp(handler, &other);
    // The server may take a moment after its start.
    let script = format!("until wget -q -O - http://{}/; do :; done", peer.as_str().unwrap());
    let visitor = crictl.start(&other_id, &stage.container("v", &script, json!({})), &other);
    assert_eq!(crictl.wait_exited(&visitor)["exitCode"], 0);
    assert!(crictl.ok(&["logs", &visitor]).contains("a page from a pod"));
}
