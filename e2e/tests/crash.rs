//! `kill -9` of the daemon and of a monitor.

use gantry_e2e::{BUSYBOX, Stage, Watch, logged, namespace, wait_file};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn twenty_pods_outlive_a_killed_daemon() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let gate = stage.dir().join("gate");
    std::fs::create_dir(&gate).unwrap();
    // Counts until its file appears, then ends with its own number; asked to stop, with 100 more.
    let script = |n: usize| {
        format!(
            "trap 'exit {}' TERM; i=0; until [ -e /gate/{n} ]; do i=$((i + 1)); echo $i; sleep 0.05; done; exit {n}",
            100 + n
        )
    };
    let mounts = json!({"mounts": [{"host_path": gate, "container_path": "/gate", "readonly": true}]});
    let pods: Vec<(String, String)> = (1..=20)
        .map(|n| {
            let pod = stage.pod(&format!("p{n}"), json!({}));
            let handler = if n % 2 == 0 { "embedded" } else { "runc" };
            let pod_id = crictl.runp(handler, &pod);
            let id = crictl.start(&pod_id, &stage.container("c", &script(n), mounts.clone()), &pod);
            (pod_id, id)
        })
        .collect();
    let log = |n: usize| stage.log_dir(&format!("p{n}")).join("c.log");
    let more_lines = |n: usize| {
        let now = std::fs::read_to_string(log(n)).unwrap().lines().count();
        wait_file(&log(n), "it goes on counting", |t| t.lines().count() > now + 3);
    };
    (1..=20).for_each(more_lines);

    daemon.kill();
    (1..=20).for_each(more_lines);
    // One half ends while nobody is there to see it.
    for n in 1..=10 {
        let watch = Watch::new(&[&bundle(&daemon.run_dir(), &pods[n - 1])]);
        std::fs::write(gate.join(n.to_string()), "").unwrap();
        let record = bundle(&daemon.run_dir(), &pods[n - 1]).join("exit.json");
        watch.until("the monitor records the end", || record.exists().then_some(()));
    }
    daemon.restart();

    let ready = crictl.json(&["pods", "--state", "ready", "-o", "json"]);
    assert_eq!(ready["items"].as_array().unwrap().len(), 20);
    for (n, (_, id)) in (1..).zip(&pods) {
        let status = crictl.status(id);
        if n <= 10 {
            assert_eq!(
                (&status["state"], status["exitCode"].as_u64()),
                (&json!("CONTAINER_EXITED"), Some(n))
            );
        } else {
            assert_eq!(status["state"], "CONTAINER_RUNNING", "{status}");
            assert_eq!(crictl.sh(id, "echo here").trim(), "here");
        }
    }
    (11..=20).for_each(more_lines);
    for (n, (_, id)) in (1..).zip(&pods).filter(|(n, _)| *n > 10) {
        crictl.ok(&["stop", "--timeout", "10", id]);
        assert_eq!(crictl.status(id)["exitCode"].as_u64(), Some(100 + n));
    }
    for n in 1..=20 {
        let text = std::fs::read_to_string(log(n)).unwrap();
        let numbers: Vec<usize> = logged(&text).iter().map(|l| l.parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len()), "pod {n} has a gap: {numbers:?}");
    }
    crictl.remove_all();
    daemon.end();
    stage.end();
}

fn bundle(run_dir: &std::path::Path, (pod, container): &(String, String)) -> std::path::PathBuf {
    run_dir.join("pods").join(pod).join(container)
}

#[test]
fn nothing_is_left_of_creations_that_a_kill_cut_short() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for round in 1..=5 {
        let pods_dir = daemon.run_dir().join("pods");
        let watch = Watch::new(&[&pods_dir]);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (crictl, stage) = (crictl.clone(), &stage);
                scope.spawn(move || {
                    let pod = stage.network_pod(&format!("r{round}-{n}"), json!({}));
                    let handler = if n % 2 == 0 { "embedded" } else { "runc" };
                    // The daemon dies meanwhile: any of these may fail.
                    let made = crictl.run_runp(handler, &pod);
                    if made.code == Some(0) {
                        let container = stage.container("c", "exec sleep 1000", json!({}));
                        let created = crictl.run_create(made.stdout.trim(), &container, &pod);
                        crictl.run(&["start", created.stdout.trim()]);
                    }
                });
            }
            let count = || std::fs::read_dir(&pods_dir).map_or(0, Iterator::count);
            watch.until("some pods are being made", || (count() >= round * 3 / 2).then_some(()));
            daemon.kill();
        });
        daemon.restart();
        // What was finished is whole: it can be listed, inspected and removed.
        let list = crictl.json(&["pods", "-o", "json"]);
        for item in list["items"].as_array().unwrap() {
            crictl.ok(&["inspectp", item["id"].as_str().unwrap()]);
        }
        // The same names are free or answer with what was made.
        let pod = stage.network_pod(&format!("r{round}-0"), json!({}));
        crictl.runp("embedded", &pod);
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

#[test]
fn a_pod_ends_with_its_monitor() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    let info = crictl.json(&["inspectp", &pod_id])["info"].clone();
    let monitor = i32::try_from(info["monitor"]["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(monitor).unwrap(), Signal::KILL).unwrap();

    let status = crictl.wait_exited(&id);
    assert_eq!(status["reason"], "MonitorLost", "{status}");
    let after = crictl.json(&["inspectp", &pod_id]);
    assert_eq!(after["status"]["state"], "SANDBOX_NOTREADY");
    assert_eq!(after["info"]["reason"], "MonitorLost");
    crictl.ok(&["rm", &id]);
    crictl.ok(&["rmp", &pod_id]);
    daemon.end();
    stage.end();
}

#[test]
fn a_stopped_daemon_leaves_its_pods_running() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    let pid = |id: &str| crictl.json(&["inspect", id])["info"]["pid"].as_u64().unwrap();
    let before = pid(&id);
    assert!(daemon.terminate().success(), "{}", daemon.log());
    daemon.restart();
    assert_eq!(pid(&id), before);
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING");
    let images = crictl.json(&["images", "-o", "json"]);
    let names: BTreeSet<&str> =
        images["images"][0]["repoTags"].as_array().unwrap().iter().filter_map(|t| t.as_str()).collect();
    assert_eq!(names, BTreeSet::from([BUSYBOX]));
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn a_start_that_a_kill_cut_short_is_done_again() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("embedded", &pod);
    let id = crictl.create(&pod_id, &stage.container("c", "exit 7", json!({})), &pod);
    daemon.kill();
    // As a daemon leaves it that dies between noting the start and asking the monitor for it.
    let record = bundle(&daemon.run_dir(), &(pod_id, id.clone())).join("record.json");
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains("\"state\":\"created\""), "{text}");
    std::fs::write(&record, text.replace("\"state\":\"created\"", "\"state\":\"starting\"")).unwrap();
    daemon.restart();
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_CREATED");
    crictl.ok(&["start", &id]);
    assert_eq!(crictl.wait_exited(&id)["exitCode"], 7);
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn a_pod_whose_record_is_damaged_is_ended_before_it_is_set_aside() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let (broken, whole) = (stage.network_pod("broken", json!({})), stage.network_pod("whole", json!({})));
    let own_pids = json!({"linux": {"security_context": {"namespace_options": {"pid": 1}}}});
    let start = |pod: &serde_json::Value| {
        let pod_id = crictl.runp("", pod);
        let container = stage.container("c", "exec sleep 100000", own_pids.clone());
        let id = crictl.start(&pod_id, &container, pod);
        let pid = crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap();
        (pod_id, id, u32::try_from(pid).unwrap())
    };
    let (broken, whole) = (start(&broken), start(&whole));
    daemon.kill();
    let record = daemon.run_dir().join("pods").join(&broken.0).join("record.json");
    std::fs::write(record, "{").unwrap();
    daemon.restart();

    // A zombie has no namespaces any more.
    assert_eq!(namespace(broken.2, "net"), None, "the container of a lost record runs on");
    assert!(namespace(whole.2, "net").is_some());
    assert!(daemon.run_dir().join("quarantine").join(&broken.0).exists());
    let pods = crictl.json(&["pods", "-o", "json"]);
    let ids: Vec<_> = pods["items"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [whole.0.as_str()]);
    assert_eq!(crictl.status(&whole.1)["state"], "CONTAINER_RUNNING");
    crictl.remove_all();
    daemon.end();
    stage.end();
}
