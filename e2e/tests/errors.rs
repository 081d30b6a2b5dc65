//! docs/errors.md: what is answered when something is wrong.

use gantry_cri_api::v1;
use gantry_e2e::{BUSYBOX, Crictl, Daemon, Output, Rpc, Stage, free_port, merge};
use serde_json::{Value, json};
use std::path::Path;

/// A daemon with the image, and its crictl.
fn begin() -> (Stage, Daemon, Crictl) {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    (stage, daemon, crictl)
}

fn end(stage: Stage, daemon: Daemon, crictl: &Crictl) {
    crictl.remove_all();
    daemon.end();
    stage.end();
}

/// The call failed with `code` and says all of `words`.
#[track_caller]
fn refused(output: &Output, code: &str, words: &[&str]) {
    assert_ne!(output.code, Some(0), "it succeeded: {output:?}");
    let said = &output.stderr;
    assert!(said.contains(&format!("code = {code}")), "{code} expected: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not said: {said}");
    }
}

#[test]
fn a_name_that_is_taken() {
    let (stage, daemon, crictl) = begin();
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let container = stage.container("c", "exec sleep 1000", json!({}));
    let id = crictl.create(&pod_id, &container, &pod);
    let other = stage.pod("p", json!({"labels": {"another": "one"}}));
    refused(&crictl.run_runp("", &other), "AlreadyExists", &[&pod_id, "default/p"]);
    refused(&crictl.run_runp("runc", &pod), "AlreadyExists", &[&pod_id]);
    let changed = stage.container("c", "exec sleep 2000", json!({}));
    refused(&crictl.run_create(&pod_id, &changed, &pod), "AlreadyExists", &[&id, "attempt"]);
    // Another attempt is another container.
    let again = stage.container("c", "exec sleep 2000", json!({"metadata": {"attempt": 1}}));
    assert_ne!(crictl.create(&pod_id, &again, &pod), id);
    end(stage, daemon, &crictl);
}

#[test]
fn a_stopped_sandbox() {
    let (stage, daemon, crictl) = begin();
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let container = stage.container("c", "exec sleep 1000", json!({}));
    let id = crictl.create(&pod_id, &container, &pod);
    crictl.ok(&["stopp", &pod_id]);
    let other = stage.container("other", "exec sleep 1000", json!({}));
    refused(&crictl.run_create(&pod_id, &other, &pod), "FailedPrecondition", &[&pod_id, "not ready"]);
    refused(&crictl.run(&["start", &id]), "FailedPrecondition", &[&id]);
    refused(&crictl.run_runp("", &pod), "AlreadyExists", &[&pod_id, "remove it"]);
    end(stage, daemon, &crictl);
}

#[test]
fn a_container_that_has_ended() {
    let (stage, daemon, crictl) = begin();
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exit 0", json!({})), &pod);
    crictl.wait_exited(&id);
    refused(&crictl.run(&["start", &id]), "FailedPrecondition", &[&id, "exited"]);
    refused(&crictl.run(&["exec", "-s", &id, "true"]), "FailedPrecondition", &[&id, "does not run"]);
    refused(&crictl.run(&["update", "--cpu-share", "2", &id]), "FailedPrecondition", &[&id]);
    end(stage, daemon, &crictl);
}

#[test]
fn what_is_not_there() {
    let (stage, daemon, crictl) = begin();
    let unknown = "0123456789abcdef";
    // crictl looks before it removes: asked without it.
    let rpc = Rpc::connect(&daemon.socket());
    let (pod_sandbox_id, container_id) = (unknown.to_owned(), unknown.to_owned());
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    rpc.call(|mut c| async move { c.stop_pod_sandbox(request).await }).unwrap();
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
    rpc.call(|mut c| async move { c.remove_pod_sandbox(request).await }).unwrap();
    let request = v1::StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
    rpc.call(|mut c| async move { c.stop_container(request).await }).unwrap();
    let request = v1::RemoveContainerRequest { container_id };
    rpc.call(|mut c| async move { c.remove_container(request).await }).unwrap();
    for call in [
        &["inspectp", unknown][..],
        &["inspect", unknown],
        &["start", unknown],
        &["exec", "-s", unknown, "true"],
        &["update", "--cpu-share", "2", unknown],
        &["logs", "--follow", unknown],
    ] {
        refused(&crictl.run(call), "NotFound", &[unknown]);
    }
    let pod = stage.pod("p", json!({}));
    let container = stage.container("c", "true", json!({"image": {"image": "registry.example.com/none:1"}}));
    refused(&crictl.run_create(unknown, &container, &pod), "NotFound", &[unknown]);
    let pod_id = crictl.runp("", &pod);
    refused(&crictl.run_create(&pod_id, &container, &pod), "NotFound", &["none:1", "pull"]);
    assert!(!crictl.run(&["inspecti", "registry.example.com/none:1"]).stderr.contains("code ="));

    // Of seventeen ids at least two begin with the same digit.
    let ids: Vec<String> = (0..16)
        .map(|n| crictl.create(&pod_id, &stage.container(&format!("c{n}"), "true", json!({})), &pod))
        .chain([crictl.create(&pod_id, &stage.container("c16", "true", json!({})), &pod)])
        .collect();
    let shared = |first: &&String| ids.iter().filter(|id| id[..1] == first[..1]).count() > 1;
    let first = ids.iter().find(shared).unwrap();
    refused(&crictl.run(&["start", &first[..1]]), "InvalidArgument", &["ambiguous"]);
    end(stage, daemon, &crictl);
}

#[test]
fn what_makes_no_sense() {
    let (stage, daemon, crictl) = begin();
    let long = "x".repeat(300);
    let huge = json!({"annotations": {"big": "x".repeat(10 << 20)}});
    // crictl looks at some of this itself: asked without it.
    let rpc = Rpc::connect(&daemon.socket());
    let good = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "bad".into(),
            uid: "u".into(),
            namespace: "n".into(),
            attempt: 0,
        }),
        ..Default::default()
    };
    type Change = fn(&mut v1::PodSandboxConfig);
    let pods: [(&str, Change); 7] = [
        ("metadata", |c| c.metadata = None),
        ("name", |c| c.metadata.as_mut().unwrap().name.clear()),
        ("name", |c| c.metadata.as_mut().unwrap().name = "x".repeat(300)),
        ("uid", |c| c.metadata.as_mut().unwrap().uid.clear()),
        ("namespace", |c| c.metadata.as_mut().unwrap().namespace = "x".repeat(300)),
        ("host name", |c| c.hostname = "x".repeat(65)),
        ("4194304", |c| drop(c.annotations.insert("big".into(), "x".repeat(10 << 20)))),
    ];
    for (word, change) in pods {
        let mut config = good.clone();
        change(&mut config);
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let status = rpc.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{word}: {status}");
        assert!(status.message().contains(word), "{word}: {status}");
    }
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let missing = json!({"mounts": [{"host_path": "/nonexistent/volume", "container_path": "/v"}]});
    let limit = |name: &str, value: Value| json!({"linux": {"resources": {name: value}}});
    let security = |name: &str, value: Value| json!({"linux": {"security_context": {name: value}}});
    let containers: [(Value, &str); 10] = [
        (json!({"metadata": {"name": long}}), "name"),
        (huge, "4194304"),
        (missing, "/nonexistent/volume"),
        (json!({"log_path": "../../etc/passwd"}), "log path"),
        (json!({"working_dir": "relative"}), "working_dir"),
        (limit("memory_limit_in_bytes", json!(1000)), "memory_limit_in_bytes"),
        (limit("cpu_shares", json!(-5)), "cpu_shares"),
        (limit("oom_score_adj", json!(5000)), "oom_score_adj"),
        (security("capabilities", json!({"add_capabilities": ["FLY"]})), "FLY"),
        (security("run_as_username", json!("nobody-knows")), "nobody-knows"),
    ];
    for (over, word) in containers {
        let config = stage.container("bad", "true", over);
        refused(&crictl.run_create(&pod_id, &config, &pod), "InvalidArgument", &[word]);
    }
    // Nothing of them is left, and the name is free.
    assert_eq!(crictl.json(&["ps", "-a", "-o", "json"])["containers"], json!([]));
    crictl.create(&pod_id, &stage.container("bad", "true", json!({})), &pod);
    end(stage, daemon, &crictl);
}

#[test]
fn images_that_cannot_be_had() {
    let (stage, daemon, crictl) = begin();
    refused(&crictl.run(&["pull", "Not A Reference"]), "InvalidArgument", &["Not A Reference"]);
    let unknown = "registry.example.com/library/nonesuch:1";
    refused(&crictl.run(&["pull", unknown]), "NotFound", &["nonesuch"]);
    let down = format!("localhost:{}", free_port());
    let image = format!("{down}/library/busybox:1");
    refused(&crictl.run(&["pull", &image]), "Unavailable", &[&down]);
    end(stage, daemon, &crictl);
}

#[test]
fn a_program_that_is_not_there() {
    let (stage, daemon, crictl) = begin();
    for handler in ["embedded", "runc"] {
        let pod = stage.pod(handler, json!({}));
        let pod_id = crictl.runp(handler, &pod);
        let config = merge(stage.container("c", "", json!({})), json!({"command": ["/no/such/program"]}));
        let id = crictl.create(&pod_id, &config, &pod);
        refused(&crictl.run(&["start", &id]), "Internal", &["/no/such/program"]);
        let status = crictl.status(&id);
        assert_eq!(
            (&status["reason"], &status["exitCode"]),
            (&json!("StartError"), &json!(128)),
            "{handler}"
        );
        assert!(status["message"].as_str().unwrap().contains("/no/such/program"), "{handler}: {status}");
    }
    end(stage, daemon, &crictl);
}

/// Every row of the document names a test that there is, and every test of this file has a row.
#[test]
fn the_document_and_the_tests_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("../docs/errors.md")).unwrap();
    let rows = document.lines().filter(|l| l.starts_with("| ") && l.contains("::"));
    let named: Vec<(&str, &str)> = rows
        .map(|row| row.rsplit('|').nth(1).unwrap().trim().trim_matches('`').split_once("::").unwrap())
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for (file, test) in &named {
        let source = std::fs::read_to_string(root.join(format!("tests/{file}.rs"))).unwrap();
        assert!(source.contains(&format!("fn {test}(")), "{file}::{test} is in docs/errors.md only");
    }
    let own = include_str!("errors.rs");
    let tests = own.split("#[test]\nfn ").skip(1).filter_map(|t| t.split_once('('));
    for (test, _) in tests.filter(|(t, _)| *t != "the_document_and_the_tests_agree") {
        assert!(named.contains(&("errors", test)), "errors::{test} has no row in docs/errors.md");
    }
}
