//! What pods and containers use, in statistics and in metrics.

use gantry_cri_api::v1;
use gantry_e2e::{BUSYBOX, Rpc, Stage, wait_file};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;

fn number(value: &Value) -> u64 {
    value["value"].as_str().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn statistics_are_complete_also_of_a_container_that_is_being_stopped() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().args(&["--stats-interval", "1"]).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    // Writes, then uses its CPU for good, and does not end when it is asked to.
    let script =
        "trap 'echo asked' TERM; head -c 5000000 /dev/zero >/big; sleep 1; echo ready; while :; do :; done";
    let id = crictl.start(&pod_id, &stage.container("c", script, json!({})), &pod);
    let log = stage.log_dir("p").join("c.log");
    wait_file(&log, "it works", |text| text.contains("ready"));
    let measured = |log: &str| {
        let line = |l: &str| {
            let bytes = l.split("bytes=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok()?;
            (l.contains("writable layer measured") && l.contains(&id)).then_some(bytes)
        };
        log.lines().filter_map(line).any(|bytes| bytes >= 5_000_000)
    };
    wait_file(&daemon.dir().join("log"), "the layer is measured", measured);
    let of = |id: &str| crictl.json(&["stats", "-o", "json", "--id", id])["stats"][0].clone();
    let stats = of(&id);
    assert!(number(&stats["cpu"]["usageNanoCores"]) > 100_000_000, "{stats}");
    assert!((5_000_000..8_000_000).contains(&number(&stats["writableLayer"]["usedBytes"])), "{stats}");
    assert!(number(&stats["writableLayer"]["inodesUsed"]) >= 2, "{stats}");
    let pod_stats = crictl.json(&["statsp", "-o", "json"])["stats"][0]["linux"].clone();
    assert!(number(&pod_stats["cpu"]["usageNanoCores"]) > 0, "{pod_stats}");
    let network = &pod_stats["network"]["defaultInterface"];
    assert_eq!(network["name"], "eth0", "{pod_stats}");
    number(&network["rxBytes"]);

    let stop = ["stop", "--timeout", "1000", &id];
    let mut stop = crictl.command(&stop).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_file(&log, "it was asked to stop", |text| text.contains("asked"));
    let stats = of(&id);
    assert!(number(&stats["cpu"]["usageCoreNanoSeconds"]) > 0, "{stats}");
    assert!(number(&stats["memory"]["workingSetBytes"]) > 0, "{stats}");
    crictl.ok(&["stop", "--timeout", "0", &id]);
    stop.wait().unwrap();

    let fs = crictl.json(&["imagefsinfo", "-o", "json"])["status"].clone();
    let (images, layers) = (&fs["imageFilesystems"][0], &fs["containerFilesystems"][0]);
    assert!(number(&images["usedBytes"]) > 0 && number(&layers["usedBytes"]) >= 5_000_000, "{fs}");
    assert_eq!(images["fsId"], layers["fsId"], "both are on one filesystem");
    crictl.remove_all();
    daemon.end();
    stage.end();
}

/// Metrics by name: label values, value.
fn by_name(metrics: &[v1::Metric]) -> BTreeMap<&str, Vec<(&[String], u64)>> {
    let mut all: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for metric in metrics {
        let value = metric.value.expect("a metric has a value").value;
        all.entry(&metric.name).or_default().push((metric.label_values.as_slice(), value));
    }
    all
}

#[test]
fn metrics_are_those_that_were_described() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let limits = json!({"linux": {"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_shares": 512}}});
    // Until it has used more than a second of CPU time.
    let script = "while [ $(cut -d' ' -f14 /proc/$$/stat) -lt 120 ]; do i=0; \
                  while [ $i -lt 100000 ]; do i=$((i+1)); done; done; echo ready; exec sleep 100000";
    let id = crictl.start(&pod_id, &stage.container("c", script, limits), &pod);
    wait_file(&stage.log_dir("p").join("c.log"), "it has worked", |text| text.contains("ready"));
    let rpc = Rpc::connect(&daemon.socket());
    let described =
        rpc.call(|mut c| async move { c.list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).await });
    let described: BTreeMap<String, Vec<String>> =
        described.unwrap().into_inner().descriptors.into_iter().map(|d| (d.name, d.label_keys)).collect();
    let metrics = rpc
        .call(|mut c| async move { c.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await });
    let pods = metrics.unwrap().into_inner().pod_metrics;
    assert_eq!((pods.len(), pods[0].pod_sandbox_id.as_str()), (1, pod_id.as_str()));
    let container = &pods[0].container_metrics[0];
    assert_eq!(container.container_id, id);
    for metric in pods[0].metrics.iter().chain(&container.metrics) {
        let keys = described.get(&metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
        assert_eq!(keys.len(), metric.label_values.len(), "{}", metric.name);
        assert!(metric.timestamp > 0);
    }
    let own = by_name(&container.metrics);
    let (labels, seconds) = own["container_cpu_usage_seconds_total"][0];
    assert!(seconds >= 1, "{seconds}");
    let shown: BTreeMap<&str, &str> = described["container_cpu_usage_seconds_total"]
        .iter()
        .map(String::as_str)
        .zip(labels.iter().map(String::as_str))
        .collect();
    let expected =
        [("container", "c"), ("name", &id), ("namespace", "default"), ("pod", "p"), ("cpu", "total")];
    for (key, value) in expected {
        assert_eq!(shown[key], value);
    }
    assert!(shown["id"].ends_with(&format!("crio-{id}")) && shown["image"].contains("busybox"), "{shown:?}");
    for name in [
        "container_memory_working_set_bytes",
        "container_memory_usage_bytes",
        "container_fs_usage_bytes",
        "container_fs_limit_bytes",
        "container_processes",
        "container_threads",
        "container_file_descriptors",
        "container_start_time_seconds",
        "container_last_seen",
    ] {
        assert!(own[name][0].1 > 0, "{name}");
    }
    assert_eq!(own["container_spec_memory_limit_bytes"][0].1, 64 << 20);
    assert_eq!(own["container_spec_cpu_shares"][0].1, 512);
    assert!(own.contains_key("container_memory_cache") && own.contains_key("container_oom_events_total"));
    assert_eq!(own["container_memory_failures_total"].len(), 4);
    let whole = by_name(&pods[0].metrics);
    assert!(whole.contains_key("container_network_receive_bytes_total"));
    assert!(!own.contains_key("container_network_receive_bytes_total"), "the network is the pod's");
    assert!(crictl.ok(&["metricsp"]).contains("container_cpu_usage_seconds_total"));
    drop(rpc);
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn groups_of_metrics_can_be_left_out() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").args(&["--pod-metrics", "memory"]).start();
    let crictl = daemon.crictl();
    let descs = crictl.ok(&["metricdescs"]);
    assert!(descs.contains("container_memory_rss") && descs.contains("container_last_seen"), "{descs}");
    assert!(!descs.contains("container_cpu_usage_seconds_total"), "{descs}");
    daemon.end();
    stage.end();
}
