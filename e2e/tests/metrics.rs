//! What the daemon counts, and what a client with little time gets.

use gantry_e2e::{BUSYBOX, Daemon, Scrape, Stage, free_port};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// A daemon that serves metrics on a socket in its directory.
fn measured(stage: &Stage, args: &[&str]) -> (Daemon, PathBuf) {
    let socket = stage.dir().join("metrics.sock");
    let address = format!("unix://{}", socket.display());
    let daemon =
        stage.daemon("d").args(&["--metrics-address", &address]).args(args).builtin_network().start();
    (daemon, socket)
}

#[test]
fn counts_change_as_calls_are_made() {
    let stage = Stage::new();
    let (daemon, socket) = measured(&stage, &[]);
    let crictl = daemon.crictl();
    let before = Scrape::unix(&socket);
    let calls = |scrape: &Scrape, method: &str, code: &str| {
        scrape.sum("gantry_rpc_total", &[("method", method), ("code", code)])
    };
    assert_eq!(calls(&before, "RunPodSandbox", "OK"), 0.0);
    assert_eq!(before.sum("gantry_stage_duration_seconds_count", &[("operation", "Start")]), 3.0);
    assert!(before.sum("gantry_handlers", &[("usable", "true")]) >= 1.0);
    assert_eq!(before.sum("gantry_build_info", &[]), 1.0);

    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
    assert_eq!(crictl.sh(&id, "echo here").trim(), "here");
    crictl.run(&["inspectp", "0123456789abcdef"]).fails();
    crictl.run(&["pull", "registry.example.com/library/nonesuch:1"]).fails();
    let scrape = Scrape::unix(&socket);
    for method in ["PullImage", "RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync"] {
        assert_eq!(calls(&scrape, method, "OK"), 1.0, "{method}");
        assert_eq!(scrape.sum("gantry_rpc_in_flight", &[("method", method)]), 0.0, "{method}");
    }
    assert_eq!(scrape.sum("gantry_rpc_duration_seconds_count", &[("method", "RunPodSandbox")]), 1.0);
    for method in ["PodSandboxStatus", "PullImage"] {
        assert!(calls(&scrape, method, "NOT_FOUND") >= 1.0, "{method}\n{}", scrape.text());
        let labels = [("operation", method), ("code", "NOT_FOUND")];
        assert!(scrape.sum("gantry_errors_total", &labels) >= 1.0, "{method}\n{}", scrape.text());
    }
    for (operation, stages) in [
        ("RunPodSandbox", &["record", "monitor", "network", "files"][..]),
        ("CreateContainer", &["sources", "image", "snapshot", "spec", "bundle"]),
        ("StartContainer", &["wait", "runtime"]),
        ("ExecSync", &["runtime", "command"]),
        ("PullImage", &["manifest", "config", "fetch", "unpack", "publish"]),
    ] {
        for stage in stages {
            let labels = [("operation", operation), ("stage", stage)];
            let count = scrape.sum("gantry_stage_duration_seconds_count", &labels);
            // Once for each layer of the image.
            let times = if matches!(*stage, "fetch" | "unpack") { 2.0 } else { 1.0 };
            assert_eq!(count, times, "{operation} {stage}\n{}", scrape.text());
        }
    }
    let cri = ("realm", "cri");
    assert_eq!(scrape.sum("gantry_pods", &[cri, ("state", "ready")]), 1.0);
    assert_eq!(scrape.sum("gantry_containers", &[cri, ("state", "running")]), 1.0);
    assert_eq!((scrape.sum("gantry_monitors", &[]), scrape.sum("gantry_images", &[cri])), (1.0, 1.0));
    assert_eq!(scrape.sum("gantry_images", &[("realm", "local")]), 0.0);
    assert!(scrape.sum("gantry_image_bytes", &[]) > 100_000.0);
    assert!(scrape.sum("process_cpu_seconds_total", &[]) >= before.sum("process_cpu_seconds_total", &[]));
    for id in [&pod_id, &id] {
        assert!(!scrape.text().contains(id.as_str()), "no id is a label");
    }

    crictl.ok(&["stop", "--timeout", "0", &id]);
    let stopped = Scrape::unix(&socket);
    assert_eq!(stopped.sum("gantry_containers", &[cri, ("state", "exited")]), 1.0);
    crictl.remove_all();
    let after = Scrape::unix(&socket);
    for metric in ["gantry_pods", "gantry_containers", "gantry_monitors"] {
        assert_eq!(after.sum(metric, &[]), 0.0, "{metric}");
    }
    for (operation, part) in
        [("StopContainer", "kill"), ("StopPodSandbox", "undo"), ("RemovePodSandbox", "undo")]
    {
        let labels = [("operation", operation), ("stage", part)];
        assert!(after.sum("gantry_stage_duration_seconds_count", &labels) >= 1.0, "{operation}");
    }
    daemon.end();
    assert!(!socket.exists(), "the socket goes with the daemon");
    stage.end();
}

#[test]
fn scraping_while_twenty_pods_start() {
    let stage = Stage::new();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let daemon = stage.daemon("d").args(&["--metrics-address", &address]).builtin_network().start();
    let crictl = daemon.crictl();
    let done = AtomicBool::new(false);
    let scrapes = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut count, mut most) = (0, 0.0);
            while !done.load(Ordering::Acquire) {
                let scrape = Scrape::tcp(port);
                // Counters never go back, whatever happens meanwhile.
                let made = scrape.sum("gantry_rpc_total", &[("method", "RunPodSandbox"), ("code", "OK")]);
                assert!(made >= most, "{made} after {most}");
                most = made;
                count += 1;
            }
            count
        });
        let starters: Vec<_> = (0..4)
            .map(|worker| {
                let (stage, crictl) = (&stage, &crictl);
                scope.spawn(move || {
                    for i in 0..5 {
                        crictl.runp("", &stage.network_pod(&format!("p{worker}-{i}"), json!({})));
                    }
                })
            })
            .collect();
        let started: Vec<_> = starters.into_iter().map(|s| s.join()).collect();
        done.store(true, Ordering::Release);
        let scrapes = scraper.join().expect("every scrape succeeded");
        for result in started {
            result.expect("every pod started");
        }
        scrapes
    });
    assert!(scrapes >= 1);
    let scrape = Scrape::tcp(port);
    let run = [("method", "RunPodSandbox")];
    assert_eq!(scrape.sum("gantry_rpc_total", &[run[0], ("code", "OK")]), 20.0);
    assert_eq!(scrape.sum("gantry_rpc_duration_seconds_count", &run), 20.0);
    assert_eq!(scrape.sum("gantry_rpc_in_flight", &[]), 0.0);
    assert_eq!(scrape.sum("gantry_pods", &[("state", "ready")]), 20.0);
    assert_eq!(scrape.sum("gantry_monitors", &[]), 20.0);
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn a_client_without_time_is_told_and_its_container_starts() {
    let stage = Stage::new();
    // An OCI runtime that starts nothing before its gate opens; the self-test passes.
    let (program, gate) = (stage.dir().join("slow-runtime"), stage.dir().join("gate"));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *self-test*) ;; *' run '*) read -r _ <'{}' ;; esac\nexec /usr/sbin/runc \"$@\"\n",
        gate.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let slow = format!("slow={}", program.display());
    let (daemon, socket) = measured(&stage, &["--runtime", &slow]);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("slow", &pod);
    let id = crictl.create(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);

    let refused = crictl.run(&["--timeout", "1s", "start", &id]).fails();
    assert!(refused.contains("DeadlineExceeded") || refused.contains("deadline exceeded"), "{refused}");
    let state = Scrape::unix(&socket);
    assert_eq!(state.sum("gantry_containers", &[("state", "starting")]), 1.0, "the start goes on");
    // Reads are not held up by it.
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"].as_array().unwrap().len(), 1);

    // Open for both, so that opening does not wait for the runtime.
    let mut open = std::fs::File::options().read(true).write(true).open(&gate).unwrap();
    std::thread::scope(|scope| {
        let again = scope.spawn(|| crictl.ok(&["start", &id]));
        open.write_all(b"go\n").unwrap();
        again.join().expect("the same call again joins the first");
    });
    assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING");
    let state = Scrape::unix(&socket);
    let starts = |code| state.sum("gantry_rpc_total", &[("method", "StartContainer"), ("code", code)]);
    // Which of the two comes first, the client's reset or the daemon's timer, is up to the kernel.
    assert_eq!((starts("OK"), starts("DEADLINE_EXCEEDED") + starts("CANCELLED")), (1.0, 1.0));
    let runs = [("operation", "StartContainer"), ("stage", "runtime")];
    assert_eq!(state.sum("gantry_stage_duration_seconds_count", &runs), 1.0, "the runtime ran once");
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn the_daemon_may_open_more_files_than_its_containers() {
    let stage = Stage::new();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1000), maximum: before.maximum }).unwrap();
    let (daemon, socket) = measured(&stage, &[]);
    setrlimit(Resource::Nofile, before).unwrap();
    let hard = before.maximum.expect("the hard limit is a number here") as f64;
    assert_eq!(Scrape::unix(&socket).sum("process_max_fds", &[]), hard);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    // Not runc: being a Go program it raises the limit itself, and older ones hand that on.
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("embedded", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
    let pid = crictl.json(&["inspect", &id])["info"]["pid"].clone();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("1000"), "{line}");
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn credentials_are_in_no_log_and_no_metric() {
    let stage = Stage::new();
    let (daemon, socket) = measured(&stage, &[]);
    let crictl = daemon.crictl();
    crictl.ok(&["pull", "--creds", "somebody:very-secret-word", BUSYBOX]);
    crictl
        .run(&["pull", "--creds", "somebody:very-secret-word", "registry.example.com/library/nonesuch:1"])
        .fails();
    crictl
        .run(&["pull", "--auth", "dmVyeS1zZWNyZXQtd29yZA==", "registry.example.com/library/nonesuch:1"])
        .fails();
    let log = daemon.log();
    assert!(log.contains("call answered") && log.contains("method=\"PullImage\""), "{log}");
    let all = log + Scrape::unix(&socket).text();
    // Also as Basic authentication encodes it.
    for secret in ["very-secret-word", "dmVyeS1zZWNyZXQ", "c29tZWJvZHk6"] {
        assert!(!all.contains(secret), "{secret} is shown");
    }
    daemon.end();
    stage.end();
}
