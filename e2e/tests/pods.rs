//! What the containers of a pod share, and what the pod's own process gives away: nothing.

use gantry_e2e::{BUSYBOX, Crictl, HANDLERS, Stage, namespace};
use serde_json::{Value, json};

fn pid_mode(mode: i32) -> Value {
    json!({"linux": {"security_context": {"namespace_options": {"pid": mode}}}})
}

fn pid(crictl: &Crictl, id: &str) -> u32 {
    u32::try_from(crictl.json(&["inspect", id])["info"]["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn namespaces_are_shared_as_asked() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        // CRI: POD 0, CONTAINER 1, NODE 2.
        for (mode, shared, host) in [(0, true, false), (1, false, false), (2, true, true)] {
            let name = format!("{handler}-{mode}");
            let pod = stage.network_pod(&name, pid_mode(mode));
            let pod_id = crictl.runp(handler, &pod);
            let ids = ["a", "b"].map(|c| {
                crictl.start(&pod_id, &stage.container(c, "exec sleep 77777", pid_mode(mode)), &pod)
            });
            let [a, b] = [&ids[0], &ids[1]].map(|id| pid(&crictl, id));
            let same = |kind: &str| namespace(a, kind) == namespace(b, kind);
            for kind in ["net", "ipc", "uts"] {
                assert!(same(kind), "{name}: {kind} is shared");
                assert_ne!(
                    namespace(a, kind),
                    namespace(std::process::id(), kind),
                    "{name}: {kind} is the pod's"
                );
            }
            assert!(!same("mnt"), "{name}: each has its own root");
            assert_eq!(same("pid"), shared, "{name}");
            assert_eq!(namespace(a, "pid") == namespace(std::process::id(), "pid"), host, "{name}");
            let sleepers = crictl.sh(&ids[0], "pidof sleep").split_whitespace().count();
            assert!(if shared { sleepers >= 2 } else { sleepers == 1 }, "{name}: {sleepers} are visible");
            let shown = crictl.json(&["inspectp", &pod_id])["info"]["namespaces"]["net"].clone();
            assert_eq!(
                namespace(a, "net").unwrap(),
                format!("net:[{shown}]"),
                "{name}: inspect shows the inode"
            );
            crictl.ok(&["rmp", "--force", &pod_id]);
        }
    }
    daemon.end();
    stage.end();
}

#[test]
fn host_network() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
    assert_eq!(namespace(pid(&crictl, &id), "net"), namespace(std::process::id(), "net"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(crictl.sh(&id, "hostname").trim(), host.trim());
    assert_eq!(crictl.json(&["inspectp", &pod_id])["status"]["network"]["ip"], "");
    crictl.ok(&["rmp", "--force", &pod_id]);
    daemon.end();
    stage.end();
}

#[test]
fn without_a_network_plugin_a_pod_that_needs_one_is_refused() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    let refused = crictl.run_runp("", &stage.network_pod("p", json!({}))).fails();
    assert!(refused.contains("network"), "{refused}");
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
    daemon.end();
    stage.end();
}

#[test]
fn hostname_dns_hosts_and_sysctls() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        let over = json!({
            "hostname": "web-0",
            "dns_config": {"servers": ["10.0.0.10"], "searches": ["a.svc", "svc"], "options": ["ndots:5"]},
            "linux": {"sysctls": {"net.ipv4.ip_unprivileged_port_start": "1"}},
        });
        let pod = stage.network_pod(handler, over);
        let pod_id = crictl.runp(handler, &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
        assert_eq!(crictl.sh(&id, "hostname; cat /etc/hostname").trim(), "web-0\nweb-0", "{handler}");
        let resolv = crictl.sh(&id, "cat /etc/resolv.conf");
        assert_eq!(resolv.trim(), "search a.svc svc\nnameserver 10.0.0.10\noptions ndots:5", "{handler}");
        let ip = crictl.json(&["inspectp", &pod_id])["status"]["network"]["ip"].as_str().unwrap().to_owned();
        let hosts = crictl.sh(&id, "cat /etc/hosts");
        let entry = |line: &str| line.split_whitespace().collect::<Vec<_>>() == [ip.as_str(), "web-0"];
        assert!(hosts.lines().any(entry), "{handler}: {ip} in {hosts}");
        assert!(crictl.sh(&id, "ip -4 addr show eth0").contains(&format!("inet {ip}/")), "{handler}");
        let start = crictl.sh(&id, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
        assert_eq!(start.trim(), "1", "{handler}");
        crictl.ok(&["rmp", "--force", &pod_id]);
    }
    daemon.end();
    stage.end();
}

#[test]
fn the_pods_own_process_gives_no_way_to_the_host() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let marker = stage.dir().join("marker");
    std::fs::write(&marker, "a secret of the host\n").unwrap();
    for handler in HANDLERS {
        for capabilities in [json!([]), json!(["SYS_PTRACE"])] {
            let pod = stage.pod(handler, pid_mode(0));
            let pod_id = crictl.runp(handler, &pod);
            let security = json!({"linux": {"security_context": {
                "namespace_options": {"pid": 0}, "capabilities": {"add_capabilities": capabilities},
            }}});
            let container = stage.container("c", "exec sleep 1000", security);
            let id = crictl.start(&pod_id, &container, &pod);
            let first = crictl.sh(&id, "cat /proc/1/comm").trim().to_owned();
            assert!(!first.contains("sleep"), "process 1 is the pod's, not the container's: {first}");
            let name = marker.display();
            let attempts = format!(
                "for way in root cwd; do cat /proc/1/$way{name} 2>/dev/null; ls -A /proc/1/$way 2>/dev/null; done; \
                 for fd in /proc/1/fd/*; do cat $fd 2>/dev/null; ls -A $fd/ 2>/dev/null; cat $fd{name} 2>/dev/null; done; \
                 dd if=/proc/1/mem bs=1 count=1 skip=4194304 2>/dev/null | wc -c; \
                 (echo x > /proc/1/exe) 2>/dev/null && echo exe is writable; \
                 (echo x > /proc/1/mem) 2>/dev/null && echo mem is writable; true"
            );
            let seen = crictl.sh(&id, &attempts);
            assert_eq!(seen.trim(), "0", "{handler} with {capabilities}: something of the host was seen");
            crictl.ok(&["rmp", "--force", &pod_id]);
        }
    }
    daemon.end();
    stage.end();
}

/// Cgroups of the test's own, which go with it however it ends.
struct Parents(Vec<std::path::PathBuf>);

impl Drop for Parents {
    fn drop(&mut self) {
        for parent in &self.0 {
            // What is left in one shows in the comparison of the host.
            let _busy = std::fs::remove_dir(parent);
        }
    }
}

#[test]
fn containers_live_below_the_cgroup_parent_that_was_asked_for() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    // As the kubelet does, its maker makes it in every hierarchy and takes it away again.
    let name = format!("gantry-e2e-{}", std::process::id());
    let top = std::path::Path::new("/sys/fs/cgroup");
    let mut parents = vec![top.join(&name)];
    if !top.join("cgroup.controllers").exists() {
        let hierarchies = std::fs::read_dir(top).unwrap().flatten();
        // Hierarchies that are mounted together have links beside them.
        let mounted = hierarchies.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        parents = mounted.map(|e| e.path().join(&name)).collect();
    }
    for parent in &parents {
        std::fs::create_dir(parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
    }
    let parents = Parents(parents);
    for handler in HANDLERS {
        let pod = stage.pod(handler, json!({"linux": {"cgroup_parent": format!("/{name}")}}));
        let pod_id = crictl.runp(handler, &pod);
        let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(&crictl, &id))).unwrap();
        let memory = cgroups.lines().find(|l| l.contains(":memory:") || l.starts_with("0::/g")).unwrap();
        assert!(memory.contains(&format!(":/{name}/")) && memory.contains(&id), "{handler}: {memory}");
        crictl.ok(&["rmp", "--force", &pod_id]);
    }
    drop(parents);
    daemon.end();
    stage.end();
}
