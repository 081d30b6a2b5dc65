//! Pods in a kernel of their own: gVisor.

use gantry_e2e::{BUSYBOX, Daemon, Stage, Watch, logged, pids_in_cgroup, runsc, wait_file};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A daemon that has gVisor as the handler `gvisor`.
fn daemon(stage: &Stage) -> Daemon {
    let runsc = format!("gvisor={}", runsc(stage.dir()).display());
    stage.daemon("d").builtin_network().args(&["--runtime", &runsc]).start()
}

#[test]
fn two_containers_talk_over_localhost() {
    let stage = Stage::new();
    let daemon = daemon(&stage);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({"hostname": "guarded"}));
    let pod_id = crictl.runp("gvisor", &pod);
    let info = crictl.json(&["inspectp", &pod_id]);
    assert_eq!(info["info"]["sandboxer"], "oci-sandbox");
    let ip = info["status"]["network"]["ip"].as_str().unwrap().to_owned();

    let web =
        crictl.start(&pod_id, &stage.container("web", "exec httpd -f -p 8080 -h /www", json!({})), &pod);
    let kernel = crictl.sh(&web, "dmesg 2>/dev/null; cat /proc/version");
    assert!(kernel.contains("gVisor"), "it is not the host's kernel: {kernel}");
    assert_eq!(crictl.json(&["inspect", &web])["info"]["pid"], Value::Null, "no process of the host's");
    let script =
        "until wget -q -O - http://127.0.0.1:8080/; do sleep 0.1; done; hostname; echo oops >&2; exit 5";
    let client = crictl.start(&pod_id, &stage.container("client", script, json!({})), &pod);
    let status = crictl.wait_exited(&client);
    assert_eq!((&status["exitCode"], &status["reason"]), (&json!(5), &json!("Error")), "{status}");
    let log = std::fs::read_to_string(stage.log_dir("p").join("client.log")).unwrap();
    assert_eq!(logged(&log), ["a page from a pod", "guarded", "oops"], "{log}");
    // The address that the pod's namespace was given is the one that gVisor's network answers on.
    let shown = crictl.sh(&web, "wget -q -O - http://$(hostname -i | cut -d' ' -f1):8080/");
    assert_eq!(shown.trim(), "a page from a pod", "{ip}");

    let seven = crictl.run(&["exec", "--sync", &web, "sh", "-c", "echo out; exit 7"]);
    assert!(seven.code != Some(0) && seven.stderr.contains("7"), "{seven:?}");
    let missing = crictl.run(&["exec", "--sync", &web, "/no/such/program"]);
    assert_ne!(missing.code, Some(0), "{missing:?}");

    // Asked to stop, a container ends with the status that it chose.
    let patient = "trap 'exit 12' TERM; echo ready; while :; do sleep 0.1; done";
    let patient = crictl.start(&pod_id, &stage.container("patient", patient, json!({})), &pod);
    wait_file(&stage.log_dir("p").join("patient.log"), "it runs", |t| t.contains("ready"));
    crictl.ok(&["stop", "--timeout", "20", &patient]);
    assert_eq!(crictl.status(&patient)["exitCode"], 12);
    // Stopping again, and removing, one that ended.
    crictl.ok(&["stop", &patient]);
    crictl.ok(&["rm", &patient, &client]);
    // One that does not listen is killed.
    crictl.ok(&["stop", "--timeout", "0", &web]);
    assert_eq!(crictl.status(&web)["exitCode"], 137);

    assert!(!pids_in_cgroup(&pod_id).is_empty());
    crictl.ok(&["stopp", &pod_id]);
    crictl.ok(&["stopp", &pod_id]);
    assert_eq!(pids_in_cgroup(&pod_id), Vec::<u32>::new());
    crictl.ok(&["rmp", &pod_id]);
    daemon.end();
    stage.end();
}

#[test]
fn a_sandbox_outlives_a_killed_daemon() {
    let stage = Stage::new();
    let mut daemon = daemon(&stage);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let gate = stage.dir().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let mounts = json!({"mounts": [{"host_path": gate, "container_path": "/gate", "readonly": true}]});
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("gvisor", &pod);
    let script = |n: u8| format!("echo up; until [ -e /gate/{n} ]; do sleep 0.1; done; exit {n}");
    let made = |n: u8| stage.container(&format!("c{n}"), &script(n), mounts.clone());
    let start = |n: u8| crictl.start(&pod_id, &made(n), &pod);
    let ids = [1, 2, 3].map(start);
    let bundle = |id: &str| daemon.run_dir().join("pods").join(&pod_id).join(id);
    let [first, second, third] = [bundle(&ids[0]), bundle(&ids[1]), bundle(&ids[2])];
    daemon.kill();

    // One ends while nobody is there to see it.
    let watch = Watch::new(&[&first]);
    std::fs::write(gate.join("1"), "").unwrap();
    watch.until("the monitor records the end", || first.join("exit.json").exists().then_some(()));
    assert!(!second.join("exit.json").exists() && !third.join("exit.json").exists());
    daemon.restart();

    assert_eq!(crictl.json(&["inspectp", &pod_id])["status"]["state"], "SANDBOX_READY");
    assert_eq!(crictl.status(&ids[0])["exitCode"], 1);
    assert_eq!(crictl.status(&ids[1])["state"], "CONTAINER_RUNNING");
    assert_eq!(crictl.sh(&ids[1], "echo here").trim(), "here");
    std::fs::write(gate.join("2"), "").unwrap();
    assert_eq!(crictl.wait_exited(&ids[1])["exitCode"], 2);
    // It can still be signalled and stopped.
    crictl.ok(&["stop", "--timeout", "0", &ids[2]]);
    assert_eq!(crictl.status(&ids[2])["exitCode"], 137);
    // And a new container can join.
    let late = crictl.start(&pod_id, &stage.container("late", "exit 9", json!({})), &pod);
    assert_eq!(crictl.wait_exited(&late)["exitCode"], 9);
    crictl.ok(&["rmp", "--force", &pod_id]);
    assert_eq!(pids_in_cgroup(&pod_id), Vec::<u32>::new());
    daemon.end();
    stage.end();
}

#[test]
fn a_killed_sandbox_is_told_and_removed() {
    let stage = Stage::new();
    let daemon = daemon(&stage);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("gvisor", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    for pid in pids_in_cgroup(&pod_id) {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // Some end with the first one.
        let _gone = kill_process(pid, Signal::KILL);
    }
    assert_eq!(crictl.wait_exited(&id)["exitCode"], 137);
    let pod_dir = daemon.run_dir().join("pods").join(&pod_id);
    let status = Watch::new(&[&pod_dir]).until("the sandbox is not ready", || {
        let status = crictl.json(&["inspectp", &pod_id]);
        (status["status"]["state"] == "SANDBOX_NOTREADY").then_some(status)
    });
    assert_eq!(status["info"]["reason"], "SandboxExited");
    crictl.ok(&["rmp", "--force", &pod_id]);
    daemon.end();
    stage.end();
}

#[test]
fn a_sandbox_ends_with_its_monitor() {
    let stage = Stage::new();
    let daemon = daemon(&stage);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("gvisor", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    let info = crictl.json(&["inspectp", &pod_id])["info"].clone();
    let monitor = i32::try_from(info["monitor"]["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(monitor).unwrap(), Signal::KILL).unwrap();
    assert_eq!(crictl.wait_exited(&id)["reason"], "MonitorLost");
    crictl.ok(&["rmp", "--force", &pod_id]);
    assert_eq!(pids_in_cgroup(&pod_id), Vec::<u32>::new());
    daemon.end();
    stage.end();
}

#[test]
fn a_time_limit_ends_a_command() {
    let stage = Stage::new();
    let daemon = daemon(&stage);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("gvisor", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    let slow = crictl.run(&["exec", "--sync", "--timeout", "1", &id, "sleep", "4711"]);
    assert!(slow.code != Some(0), "{slow:?}");
    let left = crictl.sh(&id, "ps");
    assert!(!left.contains("4711"), "{left}");
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING");
    crictl.ok(&["rmp", "--force", &pod_id]);
    daemon.end();
    stage.end();
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    let stage = Stage::new();
    let daemon = daemon(&stage);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let refused = crictl.run_runp("gvisor", &stage.pod("p", json!({}))).fails();
    assert!(refused.contains("gvisor") && refused.contains("namespace_options.network"), "{refused}");
    let sysctl = json!({"linux": {"sysctls": {"net.ipv4.ip_forward": "1"}}});
    let refused = crictl.run_runp("gvisor", &stage.network_pod("p", sysctl)).fails();
    assert!(refused.contains("sysctls"), "{refused}");
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("gvisor", &pod);
    let shared = json!({"mounts": [
        {"host_path": stage.dir(), "container_path": "/x", "propagation": 2},
    ]});
    let refused = crictl.run_create(&pod_id, &stage.container("c", "true", shared), &pod).fails();
    assert!(refused.contains("propagation"), "{refused}");
    let bad = stage.container("bad", "true", json!({"command": ["/no/such/program"]}));
    let id = crictl.create(&pod_id, &bad, &pod);
    let refused = crictl.run(&["start", &id]).fails();
    assert!(refused.contains("/no/such/program"), "{refused}");
    crictl.ok(&["rmp", "--force", &pod_id]);
    daemon.end();
    stage.end();
}
