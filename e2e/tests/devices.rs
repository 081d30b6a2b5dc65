//! Devices of the host in containers: asked for by path, by name (CDI), and by privilege.

use super::containers::sleeper;
use gantry_e2e::{BUSYBOX, HANDLERS, Stage};
use serde_json::{Value, json};

/// Reads a device and opens it for writing; what came of each.
const TRY: &str = "d() { r=no; w=no; ( dd if=$1 of=/dev/null bs=8192 count=1 ) 2>/dev/null && r=yes; \
    ( : >$1 ) 2>/dev/null && w=yes; echo read $r write $w; }; ";

/// Lets a container read the kernel's log, as far as the kernel asks for more than the device.
fn reader() -> Value {
    json!({"security_context": {"capabilities": {"add_capabilities": ["SYSLOG"]}}})
}

fn device(host: &str, inside: &str, permissions: &str) -> Value {
    json!({"host_path": host, "container_path": inside, "permissions": permissions})
}

#[test]
fn by_path_with_the_permissions_that_were_asked_for() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    // A name of the host for a device, as udev makes them; made after the daemon was started.
    let link = stage.dir().join("by-name");
    std::os::unix::fs::symlink("/dev/kmsg", &link).unwrap();
    for handler in HANDLERS {
        let over = json!({"linux": reader(), "devices": [
            device("/dev/kmsg", "/dev/kernel-log", "r"),
            device(link.to_str().unwrap(), "/dev/named", "r"),
        ]});
        let id = sleeper(&stage, &crictl, handler, json!({}), over);
        for inside in ["/dev/kernel-log", "/dev/named"] {
            let seen = crictl.sh(&id, &format!("{TRY} d {inside}; stat -c %t:%T {inside}"));
            let lines: Vec<&str> = seen.lines().collect();
            assert_eq!(lines, ["read yes write no", "1:b"], "{handler}: {inside}");
        }
        // Others are not usable, whoever makes the node.
        let seen = crictl.sh(&id, &format!("mknod /tmp/mem c 1 1; {TRY} d /tmp/mem"));
        assert_eq!(seen.trim(), "read no write no", "{handler}");
        // Changed limits leave what was allowed.
        crictl.ok(&["update", "--cpu-quota", "50000", &id]);
        assert!(crictl.sh(&id, &format!("{TRY} d /dev/kernel-log")).contains("read yes"), "{handler}");
        let missing =
            stage.container("m", "true", json!({"devices": [device("/dev/none", "/dev/none", "r")]}));
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned();
        let refused = crictl.run_create(&pod_id, &missing, &pod).fails();
        assert!(refused.contains("/dev/none"), "{handler}: {refused}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

#[test]
fn by_name() {
    let stage = Stage::new();
    let (low, high) = (stage.dir().join("cdi"), stage.dir().join("cdi-high"));
    for dir in [&low, &high] {
        std::fs::create_dir(dir).unwrap();
    }
    let args = ["--cdi-spec-dir", low.to_str().unwrap(), "--cdi-spec-dir", high.to_str().unwrap()]
        .map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let daemon = stage.daemon("d").args(&args).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let data = stage.dir().join("driver");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("lib"), "of the driver\n").unwrap();
    let hook = "echo hooked >>\"$0\"";
    let marker = stage.dir().join("marker");
    // Written after the daemon was started: it reads them when a container asks.
    let spec = json!({
        "cdiVersion": "0.6.0", "kind": "vendor.com/log",
        "containerEdits": {"env": ["LOG=kernel"]},
        "devices": [{"name": "kernel", "containerEdits": {
            "deviceNodes": [{"path": "/dev/vendor-log", "hostPath": "/dev/kmsg", "permissions": "r"}],
            "mounts": [{"hostPath": data, "containerPath": "/opt/driver", "options": ["ro", "rbind"]}],
            "additionalGids": [4711],
            "hooks": [{"hookName": "createRuntime", "path": "/bin/sh",
                "args": ["sh", "-c", hook, marker]}],
        }}],
    });
    std::fs::write(low.join("log.json"), spec.to_string()).unwrap();
    let yaml = "cdiVersion: 0.5.0\nkind: vendor.com/flag\ndevices:\n- name: a\n  containerEdits:\n    env: [FLAG=set]\n";
    std::fs::write(high.join("flag.yaml"), yaml).unwrap();
    for handler in HANDLERS {
        let over = json!({
            "CDI_devices": [{"name": "vendor.com/log=kernel"}],
            "annotations": {"cdi.k8s.io/flag": "vendor.com/flag=a"},
            "linux": reader(),
        });
        let id = sleeper(&stage, &crictl, handler, json!({}), over);
        let seen = crictl.sh(
            &id,
            &format!(
                "echo $LOG $FLAG; cat /opt/driver/lib; touch /opt/driver/x 2>&1 || echo frozen; \
                {TRY} d /dev/vendor-log; id -G"
            ),
        );
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[..2], ["kernel set", "of the driver"], "{handler}: {seen}");
        assert_eq!(lines[3..5], ["frozen", "read yes write no"], "{handler}: {seen}");
        assert!(lines[5].split(' ').any(|g| g == "4711"), "{handler}: {seen}");
        assert_eq!(std::fs::read_to_string(&marker).unwrap(), "hooked\n", "{handler}");
        std::fs::remove_file(&marker).unwrap();
        let unknown = json!({"CDI_devices": [{"name": "vendor.com/log=other"}]});
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned();
        let refused = crictl.run_create(&pod_id, &stage.container("u", "true", unknown), &pod).fails();
        assert!(refused.contains("vendor.com/log=other"), "{handler}: {refused}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

#[test]
fn privileged_without_the_devices_of_the_host() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").args(&["--privileged-without-host-devices", "runc"]).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    for (handler, all) in [("embedded", true), ("runc", false)] {
        let id = sleeper(&stage, &crictl, handler, privileged.clone(), privileged.clone());
        let seen =
            crictl.sh(&id, &format!("test -e /dev/kmsg && echo there; mknod /tmp/k c 1 11; {TRY} d /tmp/k"));
        assert_eq!(seen.contains("there"), all, "{handler}: {seen}");
        assert_eq!(seen.contains("read yes"), all, "{handler}: {seen}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}
