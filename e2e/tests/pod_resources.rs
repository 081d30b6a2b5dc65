//! Limits of a sandbox as a whole, and the addresses that the cluster gives a node.

use gantry_cri_api::v1;
use gantry_e2e::{BUSYBOX, Rpc, Stage, wait_file};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tonic::Code;

/// A control file of a sandbox's own cgroup.
fn control(pod_id: &str, controller: &str, v1: &str, v2: &str) -> String {
    let below = format!("gantry/cri/{pod_id}");
    let root = Path::new("/sys/fs/cgroup");
    let separate = root.join(controller);
    let file: PathBuf =
        if separate.is_dir() { separate.join(below).join(v1) } else { root.join(below).join(v2) };
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

fn memory(pod_id: &str) -> u64 {
    control(pod_id, "memory", "memory.limit_in_bytes", "memory.max").parse().unwrap()
}

fn quota(pod_id: &str) -> String {
    let text = control(pod_id, "cpu", "cpu.cfs_quota_us", "cpu.max");
    text.split(' ').next().unwrap().to_owned()
}

fn update(
    rpc: &Rpc,
    id: &str,
    resources: v1::LinuxContainerResources,
    overhead: Option<v1::LinuxContainerResources>,
) -> Result<(), tonic::Status> {
    let resources = Some(resources);
    let request = v1::UpdatePodSandboxResourcesRequest { pod_sandbox_id: id.into(), overhead, resources };
    rpc.call(|mut c| async move { c.update_pod_sandbox_resources(request).await }).map(|_| ())
}

fn limits(memory: i64, quota: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources { memory_limit_in_bytes: memory, cpu_quota: quota, ..Default::default() }
}

#[test]
fn a_sandbox_has_limits_that_change_together_or_not_at_all() {
    const M: i64 = 1 << 20;
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod(
        "p",
        json!({"linux": {
            "resources": {"memory_limit_in_bytes": 64 * M, "cpu_quota": 50_000, "cpu_period": 100_000},
            "overhead": {"memory_limit_in_bytes": 16 * M},
        }}),
    );
    let pod_id = crictl.runp("", &pod);
    assert_eq!((memory(&pod_id), quota(&pod_id).as_str()), (80 << 20, "50000"));
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 100000", json!({})), &pod);
    let rpc = Rpc::connect(&daemon.socket());
    update(&rpc, &pod_id, limits(128 * M, 0), None).unwrap();
    assert_eq!((memory(&pod_id), quota(&pod_id).as_str()), (144 << 20, "50000"), "what is 0 stays");
    update(&rpc, &pod_id, limits(0, 20_000), Some(limits(32 * M, 0))).unwrap();
    assert_eq!((memory(&pod_id), quota(&pod_id).as_str()), (160 << 20, "20000"));
    // A CPU that this machine has not: nothing is changed.
    let wrong = v1::LinuxContainerResources { cpuset_cpus: "4095".into(), ..limits(256 * M, 30_000) };
    let refused = update(&rpc, &pod_id, wrong, None).unwrap_err();
    assert!(refused.message().contains("cpuset.cpus"), "{refused:?}");
    assert_eq!((memory(&pod_id), quota(&pod_id).as_str()), (160 << 20, "20000"));
    assert_eq!(crictl.sh(&id, "echo alive").trim(), "alive");

    // A new daemon knows the limits, and the same request still means the same sandbox.
    drop(rpc);
    daemon.kill();
    daemon.restart();
    let rpc = Rpc::connect(&daemon.socket());
    assert_eq!(crictl.runp("", &pod), pod_id);
    update(&rpc, &pod_id, limits(0, 40_000), None).unwrap();
    assert_eq!((memory(&pod_id), quota(&pod_id).as_str()), (160 << 20, "40000"));

    assert_eq!(update(&rpc, "nonesuch", limits(M, 0), None).unwrap_err().code(), Code::NotFound);
    crictl.ok(&["stopp", &pod_id]);
    let stopped = update(&rpc, &pod_id, limits(64 * M, 0), None).unwrap_err();
    assert_eq!(stopped.code(), Code::FailedPrecondition, "{stopped:?}");
    crictl.remove_all();
    drop(rpc);
    daemon.end();
    stage.end();
}

fn set_cidr(rpc: &Rpc, cidr: &str) -> Result<(), tonic::Status> {
    let network = v1::NetworkConfig { pod_cidr: cidr.into() };
    let config = v1::RuntimeConfig { network_config: Some(network) };
    let request = v1::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
    rpc.call(|mut c| async move { c.update_runtime_config(request).await }).map(|_| ())
}

#[test]
fn a_nodes_addresses_fill_in_the_network_configuration() {
    let stage = Stage::new();
    let template = stage.dir().join("template");
    let conf_dir = stage.dir().join("net.d");
    let text = r#"{"cniVersion": "1.0.0", "name": "from-template", "plugins": [{"type": "ptp", "ipam": {
        "type": "host-local", "subnet": "{{.PodCIDR}}",
        "routes": [{{range $i, $r := .Routes}}{{if $i}}, {{end}}{"dst": "{{$r}}"}{{end}}]}}]}"#;
    std::fs::write(&template, text).unwrap();
    let args = ["--cni-conf-dir", conf_dir.to_str().unwrap(), "--cni-bin-dir", "/usr/lib/cni"];
    let with_template = ["--cni-conf-template", template.to_str().unwrap()];
    let daemon = stage.daemon("d").args(&args).args(&with_template).start();
    let rpc = Rpc::connect(&daemon.socket());
    set_cidr(&rpc, "").unwrap();
    assert!(!conf_dir.join("10-gantry.conflist").exists(), "no addresses, no network");
    assert_eq!(set_cidr(&rpc, "10.9.0.0").unwrap_err().code(), Code::InvalidArgument);
    set_cidr(&rpc, "10.9.0.0/24").unwrap();
    let log = daemon.dir().join("log");
    let read =
        |log: &str| log.lines().any(|l| l.contains("CNI configuration read") && l.contains("from-template"));
    wait_file(&log, "the new configuration is read", read);
    set_cidr(&rpc, "10.8.0.0/24,fd00:8::/64").unwrap();
    let conf = std::fs::read(conf_dir.join("10-gantry.conflist")).unwrap();
    let conf: Value = serde_json::from_slice(&conf).unwrap();
    let ipam = &conf["plugins"][0]["ipam"];
    assert_eq!(ipam["subnet"], "10.8.0.0/24");
    assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    assert!(daemon.crictl().ok(&["info"]).contains("10.8.0.0/24"));
    drop(rpc);
    daemon.end();

    // Somebody else's network stays the only one; without a template the addresses are only noted.
    let foreign = stage.dir().join("other.d");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("50-other.conflist"), conf.to_string()).unwrap();
    let args = ["--cni-conf-dir", foreign.to_str().unwrap(), "--cni-bin-dir", "/usr/lib/cni"];
    for template in [&with_template[..], &[]] {
        let daemon = stage.daemon("other").args(&args).args(template).start();
        let rpc = Rpc::connect(&daemon.socket());
        set_cidr(&rpc, "10.7.0.0/24").unwrap();
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
        drop(rpc);
        daemon.end();
    }
    stage.end();
}
