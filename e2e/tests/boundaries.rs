//! Daemons side by side, and the two realms of one daemon.

use gantry_e2e::{BUSYBOX, Stage};
use serde_json::json;

#[test]
fn two_daemons_side_by_side() {
    let stage = Stage::new();
    let [mut one, two] = ["one", "two"].map(|name| stage.daemon(name).builtin_network().start());
    let mut ids = Vec::new();
    for daemon in [&one, &two] {
        let crictl = daemon.crictl();
        crictl.ok(&["pull", BUSYBOX]);
        // The same name on both: they know nothing of each other.
        let pod = stage.network_pod("same", json!({}));
        let pod_id = crictl.runp("", &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
        assert_eq!(crictl.json(&["pods", "-o", "json"])["items"].as_array().unwrap().len(), 1);
        ids.push((pod_id, id));
    }
    let unknown = one.crictl().run(&["inspectp", &ids[1].0]).fails();
    assert!(unknown.contains("NotFound") || unknown.contains("no pod sandbox"), "{unknown}");

    // What one does, or that it is gone, is nothing to the other.
    one.kill();
    assert_eq!(two.crictl().sh(&ids[1].1, "echo here").trim(), "here");
    two.crictl().remove_all();
    one.restart();
    assert_eq!(one.crictl().sh(&ids[0].1, "ip -4 addr show eth0 | grep -c inet").trim(), "1");
    two.end();
    assert_eq!(one.crictl().status(&ids[0].1)["state"], "CONTAINER_RUNNING");
    one.crictl().remove_all();
    one.end();
    stage.end();
}

#[test]
fn a_second_daemon_in_the_same_directories_is_refused() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let again = std::process::Command::new(gantry_e2e::dist().join("gantry"))
        .arg("serve")
        .args([
            "--run-dir".as_ref(),
            daemon.run_dir().as_os_str(),
            "--root".as_ref(),
            daemon.root().as_os_str(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned() + &String::from_utf8_lossy(&again.stdout);
    assert!(!again.status.success() && said.contains("another gantry daemon"), "{said}");
    assert_eq!(daemon.crictl().json(&["pods", "-o", "json"])["items"], json!([]));
    daemon.end();
    stage.end();
}

#[test]
fn the_realms_do_not_see_each_other() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let [cri, local] = [daemon.crictl(), daemon.local_crictl()];
    let pod = stage.pod("p", json!({}));
    local.ok(&["pull", BUSYBOX]);
    assert_eq!(cri.json(&["images", "-o", "json"])["images"], json!([]), "images have names per realm");
    let local_id = local.runp("", &pod);
    let container = local.start(&local_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);

    assert_eq!(cri.json(&["pods", "-o", "json"])["items"], json!([]));
    assert_eq!(cri.json(&["ps", "-a", "-o", "json"])["containers"], json!([]));
    cri.run(&["inspectp", &local_id]).fails();
    cri.run(&["exec", "--sync", &container, "true"]).fails();
    // Idempotent calls succeed for what is unknown and must not reach over.
    cri.run(&["stopp", &local_id]);
    cri.run(&["rmi", BUSYBOX]);
    assert_eq!(local.status(&container)["state"], "CONTAINER_RUNNING");
    assert_eq!(local.json(&["images", "-o", "json"])["images"].as_array().unwrap().len(), 1);

    // The kubelet may have a pod of the same name, and needs the image under a name of its own.
    let missing = cri.run_create(&cri.runp("", &pod), &stage.container("c", "true", json!({})), &pod).fails();
    assert!(missing.contains("registry.example.com"), "the image is not there for the kubelet: {missing}");
    cri.remove_all();
    assert_eq!(local.json(&["pods", "-o", "json"])["items"][0]["id"], json!(local_id));
    local.remove_all();
    daemon.end();
    stage.end();
}
