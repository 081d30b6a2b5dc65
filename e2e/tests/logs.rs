//! Logs and exit codes.

use gantry_e2e::{BUSYBOX, HANDLERS, Stage, logged, wait_file};
use serde_json::json;

#[test]
fn exit_codes_and_reasons() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        let pod = stage.pod(handler, json!({}));
        let pod_id = crictl.runp(handler, &pod);
        for (script, code, reason) in
            [("exit 0", 0, "Completed"), ("exit 42", 42, "Error"), ("kill -KILL $$", 137, "Error")]
        {
            let name = format!("c{code}");
            let id = crictl.start(&pod_id, &stage.container(&name, script, json!({})), &pod);
            let status = crictl.wait_exited(&id);
            assert_eq!(status["exitCode"].as_i64(), Some(code), "{handler}: {script}: {status}");
            assert_eq!(status["reason"], reason, "{handler}: {script}: {status}");
            let time = |field: &str| status[field].as_str().unwrap().to_owned();
            assert!(time("createdAt") <= time("startedAt") && time("startedAt") <= time("finishedAt"));
        }
        let missing = stage.container("missing", "", json!({"command": ["/no/such/program"]}));
        let id = crictl.create(&pod_id, &missing, &pod);
        let failed = crictl.run(&["start", &id]).fails();
        assert!(
            failed.contains("/no/such/program"),
            "{handler}: what could not be started is named: {failed}"
        );
        crictl.ok(&["rmp", "--force", &pod_id]);
    }
    daemon.end();
    stage.end();
}

#[test]
fn a_reopened_log_goes_on_in_a_new_file() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    // Each line of the pipe comes out as a line of the log.
    let gate = stage.dir().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let mounts = json!({"mounts": [{"host_path": gate, "container_path": "/gate"}]});
    let script =
        "mkfifo /gate/pipe; exec 3<>/gate/pipe; echo ready; while read -r line <&3; do echo $line; done";
    let id = crictl.start(&pod_id, &stage.container("c", script, mounts), &pod);
    let log = stage.log_dir("p").join("c.log");
    let say = |text: &str| std::fs::write(gate.join("pipe"), format!("{text}\n")).unwrap();
    wait_file(&log, "the pipe is there", |t| t.contains("ready"));
    say("one");
    wait_file(&log, "the first line", |t| t.contains("one"));

    let rotated = stage.log_dir("p").join("c.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    crictl.ok(&["logs", "--reopen", &id]);
    say("two");
    let new = wait_file(&log, "the second line", |t| t.contains("two"));
    assert_eq!(logged(&new), ["two"]);
    assert_eq!(logged(&std::fs::read_to_string(&rotated).unwrap()), ["ready", "one"]);
    crictl.ok(&["rmp", "--force", &pod_id]);
    daemon.end();
    stage.end();
}

#[test]
fn long_lines_come_in_parts_and_a_last_line_without_its_end_is_kept() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; printf unfinished";
    let id = crictl.start(&pod_id, &stage.container("c", script, json!({})), &pod);
    crictl.wait_exited(&id);
    let text = std::fs::read_to_string(stage.log_dir("p").join("c.log")).unwrap();
    let joined: String = logged(&text).concat();
    assert_eq!(joined, format!("{}unfinished", "x".repeat(100_000)));
    let tags: Vec<&str> = text.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
    assert!(tags.len() > 3 && tags[0] == "P", "the long line came in parts: {tags:?}");
    assert_eq!(crictl.ok(&["logs", &id]).len(), 100_000 + 1 + "unfinished".len());
    crictl.ok(&["rmp", "--force", &pod_id]);
    daemon.end();
    stage.end();
}
