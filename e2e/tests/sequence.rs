//! The life of a pod as crictl leads it, command by command, twice in a row.

use gantry_e2e::{BUSYBOX, Daemon, Stage, wait_file};
use serde_json::json;

#[test]
fn embedded() {
    twice("embedded");
}

#[test]
fn runc() {
    twice("runc");
}

fn twice(handler: &str) {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    for _ in 0..2 {
        sequence(&stage, &daemon, handler);
    }
    daemon.end();
    stage.end();
}

fn sequence(stage: &Stage, daemon: &Daemon, handler: &str) {
    let crictl = daemon.crictl();
    let pulled = crictl.ok(&["pull", BUSYBOX]);
    let images = crictl.json(&["images", "-o", "json"]);
    assert_eq!(images["images"].as_array().unwrap().len(), 1, "{images}");
    assert_eq!(images["images"][0]["repoTags"], json!([BUSYBOX]));
    let inspected = crictl.json(&["inspecti", BUSYBOX]);
    let image_id = inspected["status"]["id"].as_str().unwrap();
    assert!(image_id.starts_with("sha256:") && pulled.contains(image_id), "{pulled} {inspected}");
    let digest = inspected["status"]["repoDigests"][0].as_str().unwrap();
    assert!(digest.starts_with("registry.example.com/library/busybox@sha256:"), "{digest}");

    let pod = stage.pod("seq", json!({"labels": {"app": "seq"}}));
    let pod_id = crictl.runp(handler, &pod);
    let script = "echo hello from the container; echo to stderr >&2; exec sleep 1000";
    let container = stage.container("main", script, json!({"labels": {"app": "seq"}}));
    let id = crictl.create(&pod_id, &container, &pod);
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_CREATED");
    assert_eq!(crictl.ok(&["start", &id]), id);

    let running = crictl.json(&["ps", "-o", "json"]);
    assert_eq!(running["containers"][0]["id"], json!(id));
    assert_eq!(running["containers"][0]["state"], "CONTAINER_RUNNING");
    assert_eq!(running["containers"][0]["podSandboxId"], json!(pod_id));
    let pods = crictl.json(&["pods", "--label", "app=seq", "-o", "json"]);
    assert_eq!(pods["items"][0]["id"], json!(pod_id));
    assert_eq!(pods["items"][0]["state"], "SANDBOX_READY");
    assert_eq!(pods["items"][0]["runtimeHandler"], json!(handler));

    assert_eq!(crictl.sh(&id, "echo $((6 * 7))").trim(), "42");
    let failed = crictl.run(&["exec", "--sync", &id, "sh", "-c", "echo no >&2; exit 3"]).fails();
    assert!(failed.contains('3'), "the exit code is told: {failed}");
    wait_file(&stage.log_dir("seq").join("main.log"), "both lines are logged", |t| t.lines().count() == 2);
    let logs = crictl.run(&["logs", &id]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("hello from the container\n", "to stderr\n"));

    let status = crictl.json(&["inspect", &id]);
    assert_eq!(status["status"]["imageId"], json!(image_id));
    assert_eq!(status["status"]["imageRef"], json!(digest));
    assert_eq!(status["info"]["runtimeHandler"], json!(handler));
    assert!(status["info"]["pid"].as_u64().unwrap() > 1);
    assert_eq!(crictl.json(&["inspectp", &pod_id])["status"]["metadata"]["name"], "seq");

    assert_eq!(crictl.ok(&["stop", "--timeout", "1", &id]), id);
    let stopped = crictl.status(&id);
    assert_eq!(stopped["state"], "CONTAINER_EXITED");
    assert!([137, 143].contains(&stopped["exitCode"].as_i64().unwrap()), "{stopped}");
    assert_eq!(crictl.ok(&["rm", &id]), id);
    assert_eq!(crictl.json(&["ps", "-a", "-o", "json"])["containers"], json!([]));
    crictl.ok(&["stopp", &pod_id]);
    assert_eq!(crictl.json(&["inspectp", &pod_id])["status"]["state"], "SANDBOX_NOTREADY");
    crictl.ok(&["rmp", &pod_id]);
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
    crictl.ok(&["rmi", BUSYBOX]);
    assert_eq!(crictl.json(&["images", "-o", "json"])["images"], json!([]));

    let info = crictl.json(&["info"]);
    let ready = |kind: &str| {
        let all = info["status"]["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).unwrap()["status"].clone()
    };
    assert_eq!(ready("RuntimeReady"), json!(true));
    assert_eq!(ready("NetworkReady"), json!(false), "no network plugin is configured");
}
