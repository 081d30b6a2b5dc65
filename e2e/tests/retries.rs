//! The same call again, at once, after its end, and by a client that went away.

use gantry_e2e::{BUSYBOX, Stage, Watch};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Stdio;

#[test]
fn the_same_call_at_once_makes_one_pod_and_one_container() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let container = stage.container("c", "exec sleep 1000", json!({}));
    let at_once = |call: &(dyn Fn() -> String + Sync)| -> BTreeSet<String> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(call)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    };
    let pods = at_once(&|| crictl.runp("", &pod));
    assert_eq!(pods.len(), 1, "six calls, one sandbox: {pods:?}");
    let pod_id = pods.first().unwrap();
    let containers = at_once(&|| crictl.create(pod_id, &container, &pod));
    assert_eq!(containers.len(), 1, "six calls, one container: {containers:?}");
    assert_eq!(crictl.runp("", &pod), *pod_id, "afterwards, too");
    let other = stage.network_pod("p", json!({"hostname": "other"}));
    let refused = crictl.run_runp("", &other).fails();
    assert!(refused.contains("AlreadyExists") && refused.contains(pod_id.as_str()), "{refused}");

    let id = containers.first().unwrap();
    crictl.ok(&["start", id]);
    at_once(&|| crictl.ok(&["stop", "--timeout", "0", id]));
    at_once(&|| crictl.run(&["stopp", pod_id]).ok());
    // crictl asks for the status first and fails where another was faster; what counts is the end.
    at_once(&|| crictl.run(&["rmp", pod_id]).stdout);
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
    daemon.end();
    stage.end();
}

#[test]
fn a_client_that_goes_away_leaves_nothing_half_done() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let file = stage.dir().join("pod.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    let pods_dir = daemon.run_dir().join("pods");
    let watch = Watch::new(&[&pods_dir]);
    let mut client = crictl.command(&["runp", file.to_str().unwrap()]);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_there = || std::fs::read_dir(&pods_dir).unwrap().next().map(|_| ());
    watch.until("the pod is being made", is_there);
    client.kill().unwrap();
    client.wait().unwrap();
    // Whoever asks again gets a whole sandbox: the first one's, or a new one.
    let id = crictl.runp("", &pod);
    let shown = crictl.json(&["inspectp", &id]);
    assert_eq!(shown["status"]["state"], "SANDBOX_READY");
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"].as_array().unwrap().len(), 1);
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn removing_what_is_not_there_succeeds() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    for _ in 0..2 {
        let pod_id = crictl.runp("", &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
        // Without a stop: the kubelet may have lost track.
        crictl.ok(&["rm", "--force", &id]);
        crictl.ok(&["stopp", &pod_id]);
        crictl.ok(&["stopp", &pod_id]);
        crictl.ok(&["rmp", &pod_id]);
    }
    assert_eq!(crictl.json(&["ps", "-a", "-o", "json"])["containers"], json!([]));
    daemon.end();
    stage.end();
}
