//! ExecSync: output, exit codes, time limits.

use gantry_e2e::{BUSYBOX, Crictl, HANDLERS, Stage};
use serde_json::json;

/// Runs `check` with a container that waits for ever, once for each OCI runtime.
fn with_each_handler(check: impl Fn(&Crictl, &str, &str)) {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        let pod = stage.pod(handler, json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec tail -f /dev/null", json!({})), &pod);
        check(&crictl, &id, handler);
        crictl.ok(&["rmp", "--force", &pod_id]);
    }
    daemon.end();
    stage.end();
}

#[test]
fn both_streams_and_much_output_come_whole() {
    with_each_handler(|crictl, id, handler| {
        let mixed = crictl.run(&["exec", "--sync", id, "sh", "-c", "echo out; echo err >&2"]).ok();
        assert!(mixed.contains("out") && mixed.contains("err"), "{handler}: {mixed}");
        let long = crictl.sh(id, "head -c 3000000 /dev/zero | tr '\\0' y");
        assert_eq!(long.trim().len(), 3_000_000, "{handler}");
        assert!(long.trim().bytes().all(|b| b == b'y'), "{handler}");
        let missing = crictl.run(&["exec", "--sync", id, "/no/such/program"]).fails();
        assert!(missing.contains("/no/such/program"), "{handler}: {missing}");
    });
}

#[test]
fn a_time_limit_ends_everything_that_was_started() {
    with_each_handler(|crictl, id, handler| {
        // One child leaves the session and the process group; it must not be forgotten.
        let script = "setsid sleep 100000 & sleep 100000";
        let said = crictl.run(&["exec", "--sync", "--timeout", "1", id, "sh", "-c", script]).fails();
        assert!(said.contains("timed out"), "{handler}: {said}");
        let left = crictl.sh(id, "pidof sleep || echo none");
        assert_eq!(left.trim(), "none", "{handler}: still running after the time limit");
        assert_eq!(
            crictl.status(id)["state"],
            "CONTAINER_RUNNING",
            "{handler}: the container itself goes on"
        );
    });
}

#[test]
fn a_container_that_does_not_run_takes_no_command() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "true", json!({})), &pod);
    crictl.wait_exited(&id);
    let refused = crictl.run(&["exec", "--sync", &id, "true"]).fails();
    assert!(refused.contains("does not run"), "{refused}");
    crictl.remove_all();
    daemon.end();
    stage.end();
}
