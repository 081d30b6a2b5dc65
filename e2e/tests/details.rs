//! Details of a container that the kubelet relies on: signals, messages, times, what tools read.

use super::containers::{sleeper, with_each_handler};
use gantry_e2e::{BUSYBOX, Crictl, HANDLERS, Stage, busybox, merge, wait_file};
use gantry_testkit::image::ImageBuilder;
use serde_json::json;

/// `SIGUSR1` and `SIGUSR2` in the CRI.
const USR1: i32 = 29;
const USR2: i32 = 30;

/// An image whose maker chose the signal that stops it.
const CHOSEN: &str = "registry.example.com/chosen:1";

/// Tells by its exit code which signal asked it to stop.
const TELL: &str =
    "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; echo ready; sleep 100000 & wait";

fn ready(stage: &Stage, name: &str) {
    let log = stage.log_dir("p").join(format!("{name}.log"));
    wait_file(&log, "the container is ready", |text| text.contains("ready"));
}

#[test]
fn the_signal_that_stops_is_the_requests_or_the_images_or_term() {
    let stage = Stage::new();
    let base = busybox();
    let chosen = base.layers.iter().cloned().fold(ImageBuilder::new(), ImageBuilder::layer);
    let chosen = chosen.config(json!({"Env": ["PATH=/bin"], "StopSignal": "SIGUSR2"})).build();
    stage.registry().push("chosen:1", &chosen);
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    crictl.ok(&["pull", CHOSEN]);
    for handler in HANDLERS {
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        for (name, image, asked, told, code) in [
            ("default", BUSYBOX, 0, "SIGTERM", 15),
            ("image", CHOSEN, 0, "SIGUSR2", 12),
            ("request", CHOSEN, USR1, "SIGUSR1", 10),
            ("both", BUSYBOX, USR2, "SIGUSR2", 12),
        ] {
            let name = format!("{name}-{handler}");
            let over = json!({"image": {"image": image}, "stop_signal": asked});
            let id = crictl.start(&pod_id, &stage.container(&name, TELL, over), &pod);
            ready(&stage, &name);
            assert_eq!(crictl.status(&id)["stopSignal"], told, "{handler}: {name}");
            crictl.ok(&["stop", "--timeout", "60", &id]);
            assert_eq!(crictl.status(&id)["exitCode"], code, "{handler}: {name}");
        }
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

#[test]
fn a_termination_message_is_there_when_the_container_has_ended() {
    with_each_handler(|stage, crictl, handler| {
        let file = stage.dir().join(format!("termination-{handler}"));
        std::fs::write(&file, "").unwrap();
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let over = json!({"mounts": [{"host_path": file, "container_path": "/dev/termination-log"}]});
        let script = "echo the reason >/dev/termination-log; exit 3";
        let id = crictl.start(&pod_id, &stage.container("c", script, over), &pod);
        assert_eq!(crictl.wait_exited(&id)["exitCode"], 3, "{handler}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "the reason\n", "{handler}");
    });
}

#[test]
fn times_are_in_order_and_the_log_is_where_it_was_asked_for() {
    with_each_handler(|stage, crictl, handler| {
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let over = json!({"log_path": "c/0.log", "metadata": {"attempt": 4}});
        let container = merge(stage.container("c", "echo said; exit 5", json!({})), over);
        let id = crictl.start(&pod_id, &container, &pod);
        let status = crictl.wait_exited(&id);
        let time = |field: &str| status[field].as_str().unwrap().to_owned();
        // RFC 3339 in one zone: the order of the texts is that of the times.
        assert!(
            time("createdAt") <= time("startedAt") && time("startedAt") <= time("finishedAt"),
            "{status}"
        );
        assert_eq!(status["metadata"]["attempt"], 4, "{handler}");
        assert_eq!((&status["reason"], &status["exitCode"]), (&json!("Error"), &json!(5)), "{handler}");
        let log = stage.log_dir("p").join("c/0.log");
        assert_eq!(status["logPath"], log.to_str().unwrap(), "{handler}");
        // The kubelet links to it by other names.
        let link = stage.dir().join(format!("link-{handler}"));
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(std::fs::read_to_string(&link).unwrap().ends_with("said\n"), "{handler}");
    });
}

#[test]
fn verbose_status_has_what_tools_read() {
    with_each_handler(|stage, crictl, handler| {
        let id = sleeper(stage, crictl, handler, json!({}), json!({}));
        let info = crictl.json(&["inspect", &id])["info"].clone();
        let pid = info["pid"].as_u64().expect("a pid");
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{handler}");
        assert_eq!(info["runtimeHandler"], handler);
        assert_eq!(info["sandboxID"], pod_id(crictl), "{handler}");
        assert_eq!(info["runtimeSpec"]["process"]["args"][0], "sh", "{handler}");
        assert!(!info["layers"].as_array().expect("layers").is_empty(), "{handler}");
        for path in ["rootfs", "bundle"] {
            assert!(std::path::Path::new(info[path].as_str().unwrap()).is_dir(), "{handler}: {path}");
        }
        let pod = crictl.json(&["inspectp", &pod_id(crictl)])["info"].clone();
        assert!(pod["pid"].as_u64().is_some() && pod["runtimeHandler"] == handler, "{handler}: {pod}");
    });
}

fn pod_id(crictl: &Crictl) -> String {
    crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_checkpoint_is_made_or_refused_with_its_reason() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let archive = stage.dir().join("checkpoint.tar");
    let export = format!("--export={}", archive.display());
    for handler in HANDLERS {
        let id = sleeper(&stage, &crictl, handler, json!({}), json!({}));
        let said = crictl.run(&["checkpoint", &export, &id]);
        if archive.exists() {
            said.ok();
            std::fs::remove_file(&archive).unwrap();
        } else {
            // Which of them depends on the handler and on whether CRIU is here and knows this kernel.
            let refused = said.fails();
            assert!(refused.contains("FailedPrecondition"), "{handler}: {refused}");
            assert!(refused.contains("CRIU") && refused.contains("checkpoint"), "{handler}: {refused}");
        }
        assert_eq!(crictl.sh(&id, "echo alive").trim(), "alive", "{handler}: it runs on");
        crictl.ok(&["stop", "--timeout", "0", &id]);
        let refused = crictl.run(&["checkpoint", &export, &id]).fails();
        assert!(refused.contains("FailedPrecondition"), "{handler}: {refused}");
        crictl.remove_all();
    }
    let refused = crictl.run(&["checkpoint", &export, "nonesuch"]).fails();
    assert!(refused.contains("NotFound"), "{refused}");
    daemon.end();
    stage.end();
}
