//! Checkpoints: CRIU works on this kernel.

use crate::bed::Bed;
use gantry_e2e::{run, wait_file};
use serde_json::json;
use std::process::Command;

/// The handler whose runtime is built with CRIU.
const CAN: &str = "runc";

pub(crate) fn a_running_container_is_written_to_an_archive(bed: &Bed, handler: &str) {
    let archive = bed.stage.dir().join("checkpoint.tar");
    let export = format!("--export={}", archive.display());
    let id = bed.sleeper(handler, json!({}));
    let refused = bed.crictl.run(&["checkpoint", &export, &id]).fails();
    assert!(refused.contains("cannot checkpoint") && !archive.exists(), "{refused}");
    bed.crictl.remove_all();

    let script = "echo changed >/www/index.html; rm /etc/group; echo ready; exec sleep 100000";
    let id = bed.start(CAN, script, json!({}), json!({}));
    wait_file(&bed.stage.log_dir("p").join("c.log"), "the container is ready", |log| log.contains("ready"));
    bed.crictl.ok(&["checkpoint", &export, &id]);
    let names = run(Command::new("tar").arg("-tf").arg(&archive)).ok();
    for name in ["checkpoint/inventory.img", "config.dump", "spec.dump", "dump.log", "rootfs-diff.tar"] {
        assert!(names.lines().any(|l| l == name), "{name} is in {names}");
    }
    let inner = format!("tar -xOf {} rootfs-diff.tar | tar -t", archive.display());
    let changed = run(Command::new("sh").args(["-c", &inner])).ok();
    for name in ["www/index.html", "etc/.wh.group"] {
        assert!(changed.lines().any(|l| l == name), "{name} is in {changed}");
    }
    assert_eq!(bed.crictl.sh(&id, "cat /www/index.html").trim(), "changed", "it runs on");
    assert_eq!(bed.crictl.status(&id)["state"], "CONTAINER_RUNNING");
    std::fs::remove_file(&archive).unwrap();
}
