//! Sessions of a daemon that is killed: what becomes of their commands, and who knows it.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, Stage, Watch, pids_in_cgroup, wait_ended};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

const HANDLERS: [&str; 2] = ["runc", "embedded"];

/// A container that waits for ever; its id.
fn container(stage: &Stage, crictl: &Crictl, handler: &str, script: &str, over: Value) -> String {
    let pod = stage.pod(handler, json!({}));
    let pod_id = crictl.runp(handler, &pod);
    crictl.start(&pod_id, &stage.container("c", script, over), &pod)
}

/// `crictl exec -i` of a script that says "ready" first.
fn exec(crictl: &Crictl, id: &str, script: &str) -> Child {
    let mut command = crictl.command(&["exec", "-i", id, "sh", "-c", script]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "ready\n");
    client
}

/// Exit codes of the sessions of a container that are over, as `crictl inspect` has them.
fn ends(crictl: &Crictl, id: &str) -> Vec<i64> {
    let info = crictl.json(&["inspect", id])["info"].clone();
    let ends = info["execEnds"].as_array().unwrap_or_else(|| panic!("no execEnds: {info}")).clone();
    ends.iter().map(|e| e["exitCode"].as_i64().unwrap()).collect()
}

/// Processes of the container that are not in `before`.
fn newer(id: &str, before: &[u32]) -> Vec<u32> {
    pids_in_cgroup(id).into_iter().filter(|pid| !before.contains(pid)).collect()
}

/// Waits until these are the exit codes of the sessions that are over, in any order. The daemon's log is in
/// the directory that is watched.
fn known(daemon: &Daemon, crictl: &Crictl, id: &str, codes: &[i64]) {
    Watch::new(&[daemon.dir()]).until("the ends of the sessions are known", || {
        let mut ends = ends(crictl, id);
        ends.sort_unstable();
        (ends == codes).then_some(())
    });
}

#[test]
fn a_command_whose_daemon_is_killed_is_killed_by_the_next() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        let id = container(&stage, &crictl, handler, "exec tail -f /dev/null", json!({}));
        let before = pids_in_cgroup(&id);
        // It cares neither for its input nor for its output.
        let mut client = exec(&crictl, &id, "trap '' HUP PIPE; echo ready; exec sleep 100000");
        let started = newer(&id, &before);
        assert!(!started.is_empty(), "{handler}");
        daemon.kill();
        client.wait().unwrap();
        assert_eq!(newer(&id, &before), started, "{handler}: it goes on without a daemon");
        daemon.restart();
        started.iter().for_each(|pid| wait_ended(*pid));
        known(&daemon, &crictl, &id, &[137]);
        assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING", "{handler}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

#[test]
fn a_command_that_is_left_alone_sees_the_end_of_its_input_and_its_code_is_kept() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").args(&["--exec-on-disconnect", "leave"]).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        let script = "while read line; do echo got $line; done";
        let id = container(&stage, &crictl, handler, script, json!({"stdin": true}));
        let before = pids_in_cgroup(&id);
        let mut ends_early = exec(&crictl, &id, "echo ready; cat; exit 5");
        let early = newer(&id, &before);
        let mut ends_late =
            exec(&crictl, &id, "mkfifo /tmp/go; echo ready; cat; cat /tmp/go >/dev/null; exit 6");
        let late = newer(&id, &[before.clone(), early.clone()].concat());
        daemon.kill();
        ends_early.wait().unwrap();
        ends_late.wait().unwrap();
        // One ends while no daemon is there.
        early.iter().for_each(|pid| wait_ended(*pid));
        daemon.restart();
        known(&daemon, &crictl, &id, &[5]);
        // Attaching works at once, beside the command that goes on.
        let mut attach = crictl.command(&["attach", "-i", &id]);
        let mut attach = attach.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(attach.stdin.as_mut().unwrap(), b"one\n").unwrap();
        let mut said = String::new();
        BufReader::new(attach.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "got one\n", "{handler}");
        attach.kill().unwrap();
        attach.wait().unwrap();
        crictl.sh(&id, "echo >/tmp/go");
        late.iter().for_each(|pid| wait_ended(*pid));
        // Beside them: the command that let it go on.
        known(&daemon, &crictl, &id, &[0, 5, 6]);
        // The next daemon knows the last ones, too.
        daemon.kill();
        daemon.restart();
        known(&daemon, &crictl, &id, &[0, 5, 6]);
        let left = std::fs::read_dir(daemon.run_dir().join("pods")).unwrap().flatten();
        let files: Vec<_> = left
            .flat_map(|pod| std::fs::read_dir(pod.path()).unwrap().flatten())
            .map(|f| f.file_name().into_string().unwrap())
            .filter(|name| name.starts_with("exec-"))
            .collect();
        assert!(files.is_empty(), "{handler}: {files:?}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}
