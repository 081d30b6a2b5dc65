//! What a container gets: environment, mounts, identity, confinement, limits.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, HANDLERS, Stage};
use serde_json::{Value, json};
use std::path::Path;

/// Runs `check` with a daemon that has the image, once for each OCI runtime.
pub(super) fn with_each_handler(check: impl Fn(&Stage, &Crictl, &str)) {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        check(&stage, &crictl, handler);
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}

/// Starts a sleeping container with `over` in a pod with `pod_over`; its id.
pub(super) fn sleeper(stage: &Stage, crictl: &Crictl, handler: &str, pod_over: Value, over: Value) -> String {
    let pod = stage.pod("p", pod_over);
    let pod_id = match crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str() {
        Some(id) => id.to_owned(),
        None => crictl.runp(handler, &pod),
    };
    let count = crictl.json(&["ps", "-a", "-o", "json"])["containers"].as_array().map_or(0, Vec::len);
    crictl.start(&pod_id, &stage.container(&format!("c{count}"), "exec sleep 100000", over), &pod)
}

fn security(over: Value) -> Value {
    json!({"linux": {"security_context": over}})
}

/// A field of /proc/self/status in the container.
fn own_status(crictl: &Crictl, id: &str, field: &str) -> String {
    let line = crictl.sh(id, &format!("grep ^{field}: /proc/self/status"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn environment_directory_and_user() {
    with_each_handler(|stage, crictl, handler| {
        let envs = json!([{"key": "ASKED", "value": "for this"}, {"key": "PATH", "value": "/bin:/asked"}]);
        let over = json!({
            "envs": envs,
            "working_dir": "/var",
            "linux": {"security_context": {
                "run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}, "supplemental_groups": [3000],
            }},
        });
        let id = sleeper(stage, crictl, handler, json!({}), over);
        let seen = crictl.sh(&id, "echo $ASKED,$PATH,$FROM_IMAGE,$HOME; pwd; id -u; id -g; id -G");
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("for this,/bin:/asked,yes,/tmp"), "{handler}");
        assert_eq!(lines.next(), Some("/var"), "{handler}");
        assert_eq!((lines.next(), lines.next()), (Some("1000"), Some("1000")), "{handler}");
        let mut groups: Vec<&str> = lines.next().unwrap().split(' ').collect();
        groups.sort_unstable();
        assert_eq!(groups, ["1000", "2000", "3000"], "{handler}: those of the image too");

        let by_name = security(json!({"run_as_username": "app"}));
        let id = sleeper(stage, crictl, handler, json!({}), by_name);
        assert_eq!(crictl.sh(&id, "id -u").trim(), "1000");
        let unknown = stage.container("u", "true", security(json!({"run_as_username": "nobody-here"})));
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned();
        let refused = crictl.run_create(&pod_id, &unknown, &pod).fails();
        assert!(refused.contains("nobody-here"), "{refused}");
    });
}

#[test]
fn mounts() {
    with_each_handler(|stage, crictl, handler| {
        let volume = stage.dir().join(format!("volume-{handler}"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("file"), "from the host\n").unwrap();
        let mounts = json!({"mounts": [
            {"host_path": volume, "container_path": "/data"},
            {"host_path": volume, "container_path": "/frozen", "readonly": true},
            {"host_path": volume.join("file"), "container_path": "/etc/one-file", "readonly": true},
        ]});
        let id = sleeper(stage, crictl, handler, json!({}), mounts);
        assert_eq!(crictl.sh(&id, "cat /data/file /etc/one-file").trim(), "from the host\nfrom the host");
        crictl.sh(&id, "echo from the container > /data/new");
        assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "from the container\n");
        let refused = crictl.sh(&id, "echo x 2>&1 > /frozen/new || echo refused");
        assert!(refused.contains("refused"), "{handler}: {refused}");

        let missing = json!({"mounts": [{"host_path": "/no/such/volume", "container_path": "/x"}]});
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned();
        let refused = crictl.run_create(&pod_id, &stage.container("m", "true", missing), &pod).fails();
        assert!(refused.contains("/no/such/volume"), "{handler}: {refused}");

        let id = sleeper(stage, crictl, handler, json!({}), security(json!({"readonly_rootfs": true})));
        let refused = crictl.sh(&id, "touch /new 2>&1 || true");
        assert!(refused.contains("Read-only"), "{handler}: {refused}");
    });
}

#[test]
fn default_confinement() {
    with_each_handler(|stage, crictl, handler| {
        let id = sleeper(stage, crictl, handler, json!({}), json!({}));
        // The fourteen of Kubernetes, as far as this host can give them.
        let host = std::fs::read_to_string("/proc/self/status").unwrap();
        let bounding = host.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
        let expected = 0xa804_25fb & u64::from_str_radix(&bounding, 16).unwrap();
        for set in ["CapEff", "CapBnd", "CapPrm"] {
            let seen = u64::from_str_radix(&own_status(crictl, &id, set), 16).unwrap();
            assert_eq!(seen, expected, "{handler}: {set} is {seen:x} and should be {expected:x}");
        }
        // Which of them there are depends on the kernel; those of /proc that are, have content there.
        let masked = ["kcore", "keys", "interrupts", "timer_list"].map(|name| format!("/proc/{name}"));
        let mut seen = 0;
        for path in masked.iter().filter(|p| Path::new(p).exists()) {
            assert_eq!(
                crictl.sh(&id, &format!("head -c 10 {path} | wc -c")).trim(),
                "0",
                "{handler}: {path}"
            );
            seen += 1;
        }
        assert!(seen > 1, "{handler}: this kernel has nothing to mask");
        assert_eq!(crictl.sh(&id, "ls /sys/firmware | wc -l").trim(), "0", "{handler}");
        let refused = crictl.sh(&id, "echo x 2>&1 > /proc/sys/kernel/domainname || echo refused");
        assert!(refused.contains("refused"), "{handler}: {refused}");
        let refused = crictl.sh(&id, "mount -t tmpfs none /tmp 2>&1 || echo refused");
        assert!(refused.contains("refused"), "{handler}: {refused}");
        let devices = crictl.sh(&id, "ls /dev");
        let devices: Vec<&str> = devices.split_whitespace().collect();
        for device in ["null", "zero", "full", "random", "urandom", "tty", "shm", "pts"] {
            assert!(devices.contains(&device), "{handler}: {device} is in {devices:?}");
        }
        assert!(devices.len() < 25, "{handler}: no devices of the host: {devices:?}");

        let added =
            json!({"capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["ALL"]}});
        let id = sleeper(stage, crictl, handler, json!({}), security(added));
        assert_eq!(own_status(crictl, &id, "CapEff"), format!("{:016x}", 1 << 12), "{handler}");
    });
}

#[test]
fn default_seccomp_profile() {
    with_each_handler(|stage, crictl, handler| {
        // A new user namespace needs no capability on this kernel: only the profile can refuse it.
        let attempt = "unshare -U true 2>&1 && echo allowed || echo refused";
        let profile = |kind: i32| security(json!({"seccomp": {"profile_type": kind}}));
        let id = sleeper(stage, crictl, handler, json!({}), profile(0));
        assert_eq!(own_status(crictl, &id, "Seccomp"), "2", "{handler}");
        let seen = crictl.sh(&id, attempt);
        assert!(seen.contains("refused") && seen.contains("not permitted"), "{handler}: {seen}");
        let id = sleeper(stage, crictl, handler, json!({}), profile(1));
        assert_eq!(own_status(crictl, &id, "Seccomp"), "0", "{handler}");
        assert!(crictl.sh(&id, attempt).contains("allowed"), "{handler}");
    });
}

#[test]
fn privileged() {
    with_each_handler(|stage, crictl, handler| {
        let id = sleeper(
            stage,
            crictl,
            handler,
            security(json!({"privileged": true})),
            security(json!({"privileged": true})),
        );
        let host = std::fs::read_to_string("/proc/self/status").unwrap();
        let bounding = host.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
        assert_eq!(own_status(crictl, &id, "CapEff"), bounding, "{handler}");
        assert_eq!(own_status(crictl, &id, "Seccomp"), "0", "{handler}");
        crictl.sh(&id, "mount -t tmpfs none /tmp && touch /tmp/x && umount /tmp");
        let here = std::fs::read_dir("/dev").unwrap().flatten();
        let device = here.map(|e| e.path()).find(|p| {
            use std::os::unix::fs::FileTypeExt as _;
            std::fs::metadata(p).is_ok_and(|m| m.file_type().is_block_device())
        });
        if let Some(device) = device {
            crictl.sh(&id, &format!("test -b {}", device.display()));
        }

        let plain = stage.pod("plain", json!({}));
        let plain_id = crictl.runp(handler, &plain);
        let refused = crictl.run_create(
            &plain_id,
            &stage.container("x", "true", security(json!({"privileged": true}))),
            &plain,
        );
        assert!(refused.fails().contains("privileged"), "{handler}: its pod is not privileged");
    });
}

#[test]
fn a_root_filesystem_is_what_another_tool_unpacks() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    compare_with_umoci(&stage, &daemon, &crictl);
    daemon.end();
    stage.end();
}

fn compare_with_umoci(stage: &Stage, daemon: &Daemon, crictl: &Crictl) {
    use gantry_testkit::fs::{describe, differences};
    let layout = stage.dir().join("layout");
    gantry_testkit::image::oci_directory(&layout, &[("image", &gantry_e2e::busybox())]).unwrap();
    let mut umoci = std::process::Command::new("umoci");
    umoci.args(["raw", "unpack", "--image"]).arg(format!("{}:image", layout.display()));
    gantry_e2e::run(umoci.arg(stage.dir().join("unpacked"))).ok();

    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.create(&pod_id, &stage.container("c", "true", json!({})), &pod);
    let rootfs = crictl.json(&["inspect", &id])["info"]["rootfs"].as_str().unwrap().to_owned();
    assert!(Path::new(&rootfs).starts_with(daemon.dir()), "{rootfs}");
    let (mut ours, mut theirs) = (describe(Path::new(&rootfs)), describe(&stage.dir().join("unpacked")));
    // The time of the root directory itself is not in the image.
    ours.remove(".");
    theirs.remove(".");
    let different = differences(&ours, &theirs);
    assert!(ours.len() > 100 && different.is_empty(), "{} files, {different:#?}", ours.len());
    crictl.ok(&["rmp", "--force", &pod_id]);
}
