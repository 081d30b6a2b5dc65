//! Pods whose users are not the host's.

use gantry_e2e::{BUSYBOX, Stage, namespace};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

/// Where root of the pods is on the host.
const FIRST: u32 = 1_000_000;

fn maps(first: u32, length: u32) -> Value {
    json!([{"host_id": first, "container_id": 0, "length": length}])
}

fn own_users(mode: i32, length: u32) -> Value {
    let user = match mode {
        0 => json!({"mode": 0, "uids": maps(FIRST, length), "gids": maps(FIRST, length)}),
        mode => json!({"mode": mode}),
    };
    json!({"linux": {"security_context": {"namespace_options": {"userns_options": user}}}})
}

#[test]
fn root_of_the_pod_is_nobody_on_the_host() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    // On the way to what the pod's root opens itself, everybody may walk.
    for dir in [stage.dir(), daemon.dir()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    let handlers = crictl.json(&["info"])["runtimeHandlers"].clone();
    let features = |name: &str| {
        let all = handlers.as_array().unwrap().iter();
        all.filter(|h| h["name"] == name).map(|h| h["features"]["user_namespaces"] == true).next()
    };
    assert_eq!((features("runc"), features("embedded")), (Some(true), Some(false)), "{handlers}");

    let volume = stage.dir().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "of root\n").unwrap();
    for pids in [0, 1] {
        let over = gantry_e2e::merge(
            own_users(0, 65536),
            json!({"linux": {"security_context": {"namespace_options": {"pid": pids}}}}),
        );
        let pod = stage.network_pod(&format!("p{pids}"), over.clone());
        let pod_id = crictl.runp("runc", &pod);
        let mapped = json!({
            "host_path": volume, "container_path": "/volume",
            "uidMappings": maps(FIRST, 65536), "gidMappings": maps(FIRST, 65536),
        });
        let container = gantry_e2e::merge(over, json!({"mounts": [mapped]}));
        let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", container), &pod);
        let pid = crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap();
        let pid = u32::try_from(pid).unwrap();

        assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), FIRST);
        let pause = crictl.json(&["inspectp", &pod_id])["info"]["pid"].as_u64().unwrap();
        let pause = u32::try_from(pause).unwrap();
        assert_eq!(namespace(pid, "user"), namespace(pause, "user"));
        assert_ne!(namespace(pid, "user"), namespace(std::process::id(), "user"));
        assert_eq!(crictl.sh(&id, "cat /proc/self/uid_map").split_whitespace().last(), Some("65536"));

        // The image's files are those of the container's root, and so is what is written.
        assert_eq!(crictl.sh(&id, "id -u; stat -c %u /bin/busybox /etc/hosts"), "0\n0\n0");
        crictl.sh(&id, "echo x > /new && chown 7:8 /new && rm /new");
        assert_eq!(
            crictl.sh(&id, "ls -n /volume/file | awk '{print $3, $4}'; cat /volume/file"),
            "0 0\nof root"
        );
        let name = format!("made-{pids}");
        crictl.sh(&id, &format!("touch /volume/{name}"));
        assert_eq!(std::fs::metadata(volume.join(&name)).unwrap().uid(), 0, "on the host it is root's");
        // A file of the host without a map is nobody's, and the host's devices stay shut.
        crictl.sh(&id, "! echo 1 > /proc/sysrq-trigger; ! mknod /null c 1 3");
        crictl.sh(&id, "echo shared > /dev/shm/f");
        let gateway = crictl.sh(&id, "ip route | awk '/default/ {print $3}'");
        crictl.sh(&id, &format!("ping -c 1 -W 5 {gateway}"));
        let failed = crictl.run(&["exec", "-s", &id, "sh", "-c", "exit 3"]);
        assert!(failed.stderr.contains("exited with 3"), "{}", failed.stderr);
    }

    let refused = |handler: &str, over: Value, word: &str| {
        let output = crictl.run_runp(handler, &stage.network_pod("refused", over));
        assert!(output.code != Some(0) && output.stderr.contains(word), "{word}: {}", output.stderr);
    };
    refused("embedded", own_users(0, 65536), "embedded");
    refused("runc", own_users(0, 0), "empty");
    refused("runc", own_users(1, 1), "POD or NODE");
    let host = json!({"linux": {"security_context": {"namespace_options": {"network": 2}}}});
    refused("runc", gantry_e2e::merge(own_users(0, 65536), host), "network");
    crictl.remove_all();
    daemon.end();
    stage.end();
}
