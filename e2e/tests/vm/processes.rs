//! Everything that was started ends, wherever it went.

use crate::bed::{Bed, read};
use gantry_e2e::Watch;
use serde_json::json;

pub(crate) fn a_time_limit_ends_everything_that_was_started(bed: &Bed, handler: &str) {
    let id = bed.start(handler, "exec tail -f /dev/null", json!({}), json!({}));
    // One child leaves the session and the process group; it must not be forgotten.
    let script = "setsid sleep 100000 & sleep 100000";
    let said = bed.crictl.run(&["exec", "--sync", "--timeout", "2", &id, "sh", "-c", script]).fails();
    assert!(said.contains("timed out"), "{said}");
    assert_eq!(bed.crictl.sh(&id, "pidof sleep || echo none").trim(), "none");
    assert_eq!(bed.crictl.status(&id)["state"], "CONTAINER_RUNNING", "the container itself goes on");
}

pub(crate) fn a_stop_ends_what_left_the_session(bed: &Bed, handler: &str) {
    // The pod's processes see each other, so the first one's end is not that of the others.
    let over = json!({"linux": {"security_context": {"namespace_options": {"pid": 0}}}});
    let script = "setsid sleep 100000 & setsid sh -c 'trap \"\" TERM; sleep 100000' & exec sleep 100000";
    let container = json!({"linux": {"security_context": {"namespace_options": {"pid": 0}}}});
    let id = bed.start(handler, script, over, container);
    let cgroup = bed.cgroup(&id);
    bed.crictl.ok(&["stop", "--timeout", "1", &id]);
    assert_eq!(bed.crictl.status(&id)["state"], "CONTAINER_EXITED");
    let left = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    assert_eq!(left, "", "processes left in {}", cgroup.display());
}

pub(crate) fn a_fork_bomb_is_held_and_ended(bed: &Bed, handler: &str) {
    let limits = json!({"linux": {"resources": {"unified": {"pids.max": "30"}}}});
    let script = "while :; do setsid sleep 100000 & done 2>/dev/null & exec tail -f /dev/null";
    let id = bed.start(handler, script, json!({}), limits);
    let cgroup = bed.cgroup(&id);
    // The kernel tells when it meets its limit.
    Watch::new(&[&cgroup]).until("the limit is met", || {
        let events = read(&cgroup.join("pids.events"));
        events.lines().find_map(|l| l.strip_prefix("max ").filter(|n| *n != "0").map(|_| ()))
    });
    bed.crictl.ok(&["stop", "--timeout", "0", &id]);
    assert_eq!(bed.crictl.status(&id)["state"], "CONTAINER_EXITED");
    assert_eq!(std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default(), "");
}
