//! What containers share with each other and with the host: namespaces by mode, mounts by propagation;
//! and how they are told apart in lists.

use super::containers::with_each_handler;
use gantry_e2e::{BUSYBOX, Crictl, Stage, namespace};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn pid(crictl: &Crictl, id: &str) -> u32 {
    u32::try_from(crictl.json(&["inspect", id])["info"]["pid"].as_u64().unwrap()).unwrap()
}

fn options(over: Value) -> Value {
    json!({"linux": {"security_context": {"namespace_options": over}}})
}

#[test]
fn a_container_joins_the_processes_of_another_one() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in ["embedded", "runc"] {
        let own = options(json!({"network": 2, "pid": 1}));
        let pod = stage.pod(handler, own.clone());
        let pod_id = crictl.runp(handler, &pod);
        let target = crictl.start(&pod_id, &stage.container("app", "exec sleep 76543", own.clone()), &pod);
        // CRI: TARGET 3.
        let joins = |id: &str| options(json!({"network": 2, "pid": 3, "target_id": id}));
        let debug = stage.container("debug", "exec sleep 65432", joins(&target));
        let debug = crictl.start(&pod_id, &debug, &pod);
        let (a, b) = (pid(&crictl, &target), pid(&crictl, &debug));
        assert_eq!(namespace(a, "pid"), namespace(b, "pid"), "{handler}");
        assert!(crictl.sh(&debug, "ps").contains("76543"), "{handler}");

        let early = crictl.create(&pod_id, &stage.container("early", "true", joins(&target)), &pod);
        // Its end is the end of its namespace, and with that of the debugger.
        crictl.ok(&["stop", "-t", "0", &target]);
        crictl.wait_exited(&debug);
        let late = stage.container("late", "true", joins(&target));
        let refused = crictl.run_create(&pod_id, &late, &pod).fails();
        assert!(refused.contains(&target), "{handler}: {refused}");
        assert!(crictl.run(&["start", &early]).fails().contains(&target), "{handler}");
        let nobody = stage.container("nobody", "true", joins("0123456789"));
        assert!(crictl.run_create(&pod_id, &nobody, &pod).fails().contains("NotFound"), "{handler}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

#[test]
fn the_hosts_ipc_namespace_is_shared_where_it_is_asked_for() {
    with_each_handler(|stage, crictl, handler| {
        let host = options(json!({"network": 2, "ipc": 2}));
        let pod = stage.pod("p", host.clone());
        let pod_id = crictl.runp(handler, &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", host), &pod);
        assert_eq!(namespace(pid(crictl, &id), "ipc"), namespace(std::process::id(), "ipc"), "{handler}");
        let name = format!("gantry-e2e-{handler}");
        crictl.sh(&id, &format!("touch /dev/shm/{name}"));
        let file = Path::new("/dev/shm").join(name);
        assert!(file.exists(), "{handler}: /dev/shm is the host's");
        std::fs::remove_file(file).unwrap();
    });
}

/// A shared tmpfs that goes away with the test.
struct Shared(PathBuf);

impl Shared {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        gantry_e2e::run(mount.args(["-t", "tmpfs", "--make-shared", "gantry-e2e"]).arg(at)).ok();
        Self(at.to_owned())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A failed test must not leave it, a finished one has nothing in it.
        let _gone = Command::new("umount").args(["-R", "-l"]).arg(&self.0).output();
    }
}

#[test]
fn mounts_travel_as_their_propagation_says() {
    with_each_handler(|stage, crictl, handler| {
        let dir = stage.dir().join("shared");
        let shared = Shared::mount(&dir);
        for below in ["of-host", "of-container", "locked"] {
            std::fs::create_dir(dir.join(below)).unwrap();
        }
        let locked = dir.join("locked");
        std::fs::create_dir(locked.join("below")).unwrap();
        let _below = Shared::mount(&locked.join("below"));
        let privileged = json!({"linux": {"security_context": {"privileged": true}}});
        let pod = stage.pod("p", privileged.clone());
        let pod_id = crictl.runp(handler, &pod);
        let mount = |at: &str, propagation: i32| json!({"host_path": dir, "container_path": at, "propagation": propagation});
        let mut config = stage.container("c", "exec sleep 100000", privileged);
        config["mounts"] = json!([
            mount("/private", 0),
            mount("/from-host", 1),
            mount("/both", 2),
            {"host_path": locked, "container_path": "/locked", "readonly": true, "recursive_read_only": true},
            {"host_path": locked, "container_path": "/half", "readonly": true},
        ]);
        let id = crictl.start(&pod_id, &config, &pod);

        let host = Shared::mount(&dir.join("of-host"));
        std::fs::write(dir.join("of-host/file"), "").unwrap();
        let sees = |at: &str| crictl.sh(&id, &format!("ls {at}/of-host")).contains("file");
        assert_eq!([sees("/private"), sees("/from-host"), sees("/both")], [false, true, true], "{handler}");

        crictl.sh(&id, "mount -t tmpfs x /both/of-container && touch /both/of-container/file");
        assert!(dir.join("of-container/file").exists(), "{handler}: the container's mount comes to the host");
        crictl.sh(&id, "umount /both/of-container && mount -t tmpfs x /from-host/of-container && touch /from-host/of-container/file");
        assert!(!dir.join("of-container/file").exists(), "{handler}: a slave's mount stays with it");

        // Read-only is for all that lies below only if it is asked for.
        assert_eq!(
            crictl
                .sh(&id, "touch /half/below/file; touch /locked/below/x 2>&1 || echo no | tail -1")
                .lines()
                .last(),
            Some("no")
        );
        assert!(locked.join("below/file").exists() && !locked.join("below/x").exists(), "{handler}");
        crictl.remove_all();
        drop(host);
        drop(shared);
    });
}

#[test]
fn attempts_and_filters() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pods = ["one", "two"].map(|name| {
        let pod = stage.pod(name, json!({"labels": {"app": name, "all": "yes"}}));
        (crictl.runp("", &pod), pod)
    });
    let mut ids = Vec::new();
    for attempt in 0..3 {
        let over = json!({"metadata": {"attempt": attempt}, "labels": {"n": attempt.to_string()}});
        let script = if attempt == 2 { "exec sleep 100000" } else { "exit 3" };
        let id = crictl.start(&pods[0].0, &stage.container("c", script, over), &pods[0].1);
        if attempt < 2 {
            assert_eq!(crictl.wait_exited(&id)["exitCode"], 3);
        }
        ids.push(id);
    }
    let containers = |args: &[&str]| -> Vec<String> {
        let list = crictl.json(&[&["ps", "-o", "json"], args].concat())["containers"].clone();
        list.as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
    };
    let newest_first = || ids.iter().rev().cloned().collect::<Vec<_>>();
    assert_eq!(containers(&["-a"]), newest_first());
    assert_eq!(containers(&[]), [ids[2].clone()], "those that run");
    assert_eq!(containers(&["--state", "exited"]), [ids[1].clone(), ids[0].clone()]);
    assert_eq!(containers(&["-a", "--id", &ids[1][..20]]), [ids[1].clone()], "by the beginning of its id");
    assert_eq!(containers(&["-a", "--label", "n=0"]), [ids[0].clone()]);
    assert_eq!(containers(&["-a", "--pod", &pods[0].0[..20]]), newest_first());
    assert_eq!(containers(&["-a", "--pod", &pods[1].0]), [""; 0]);
    let attempts = crictl.json(&["ps", "-a", "-o", "json"]);
    assert_eq!(attempts["containers"][0]["metadata"]["attempt"], 2, "{attempts}");

    let shown = |args: &[&str]| {
        crictl.json(&[&["pods", "-o", "json"], args].concat())["items"].as_array().unwrap().len()
    };
    assert_eq!(shown(&["--label", "all=yes"]), 2);
    assert_eq!(shown(&["--label", "all=yes", "--label", "app=two"]), 1);
    assert_eq!(shown(&["--id", &pods[1].0[..20]]), 1);
    crictl.ok(&["stopp", &pods[1].0]);
    assert_eq!((shown(&["--state", "ready"]), shown(&["--state", "notready"])), (1, 1));
    crictl.remove_all();
    daemon.end();
    stage.end();
}
