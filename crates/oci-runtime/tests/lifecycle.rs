//! The life of a container under the embedded runtime and under runc: the same commands, the same
//! states, exit codes and files. Needs root, runc and busybox-static.

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::{Bundle, Runtime, caps, ends, finish, read_fifo};

/// A program that says when it runs (to whoever opens the FIFO /data/ready) and then stays.
const STAY: &str = "echo ready > /data/ready; exec sleep 1000000";

fn staying() -> Bundle {
    let bundle = Bundle::new(STAY);
    assert!(Command::new("mkfifo").arg(bundle.rootfs().join("data/ready")).status().unwrap().success());
    bundle
}

fn await_ready(bundle: &Bundle) {
    assert_eq!(read_fifo(&bundle.rootfs().join("data/ready")), "ready\n");
}

/// A staying container that runs.
fn running(runtime: &Runtime, bundle: &Bundle) {
    let out = bundle.dir().join("out");
    let outcome = runtime.launch(&bundle.args("run", &["--detach"]), &out);
    assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", runtime.name);
    await_ready(bundle);
}

#[test]
fn a_container_goes_through_its_states() {
    for runtime in Runtime::both() {
        let name = runtime.name;
        let bundle = staying();
        let id = bundle.id.as_str();
        let pid_file = bundle.dir().join("pid");
        let out = bundle.dir().join("out");
        let args = bundle.args("create", &["--pid-file", pid_file.to_str().unwrap()]);
        assert_eq!(runtime.launch(&args, &out).code, Some(0), "{name}");

        let state = runtime.state(id);
        let pid = state["pid"].as_i64().unwrap();
        assert_eq!(state["status"], "created", "{name}");
        assert_eq!(state["id"], id, "{name}");
        assert_eq!(state["bundle"], bundle.dir().to_str().unwrap(), "{name}");
        assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), pid.to_string(), "{name}");
        let again = runtime.launch(&args, &out);
        assert_eq!(again.code, Some(1), "{name}: an id is taken once");
        assert!(again.stderr.contains("already exists"), "{name}: {again:?}");

        runtime.run(&["start", id]).ok();
        await_ready(&bundle);
        assert_eq!(runtime.state(id)["status"], "running", "{name}");
        assert_eq!(runtime.run(&["start", id]).code, Some(1), "{name}: it is started once");
        assert_eq!(runtime.run(&["delete", id]).code, Some(1), "{name}: a running one is not deleted");
        let listed = runtime.run(&["list", "--format", "json"]).ok();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!((&listed[0]["id"], &listed[0]["pid"]), (&json!(id), &json!(pid)), "{name}");
        let pids: Vec<i64> =
            serde_json::from_str(&runtime.run(&["ps", "--format", "json", id]).ok()).unwrap();
        assert_eq!(pids, [pid], "{name}");

        let init = runtime.init(id);
        runtime.run(&["kill", id, "KILL"]).ok();
        assert!(ends(&init), "{name}");
        let state = runtime.state(id);
        assert_eq!((&state["status"], &state["pid"]), (&json!("stopped"), &json!(0)), "{name}");
        let late = runtime.run(&["kill", id, "TERM"]);
        assert_eq!(late.code, Some(1), "{name}");
        assert!(late.stderr.contains("container not running"), "{name}: {late:?}");
        assert_eq!(
            runtime.run(&["exec", id, "true"]).code,
            Some(255),
            "{name}: nothing runs in a stopped one"
        );

        runtime.run(&["delete", id]).ok();
        let unknown = runtime.run(&["state", id]);
        assert_eq!(unknown.code, Some(1), "{name}");
        assert!(unknown.stderr.contains("does not exist"), "{name}: {unknown:?}");
        assert_eq!(runtime.run(&["delete", id]).code, Some(1), "{name}");
        runtime.run(&["delete", "--force", id]).ok();
        assert!(!bundle.has_cgroup(), "{name}");
    }
}

#[test]
fn force_deletes_what_runs_and_what_outlives_init() {
    for runtime in Runtime::both() {
        // In the host's pid namespace, children of init do not die with it.
        let mut bundle = staying();
        bundle.spec["process"]["args"] =
            json!(["sh", "-c", "sleep 1000000 & echo ready > /data/ready; wait"]);
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        running(&runtime, &bundle);
        let pids: Vec<i32> =
            serde_json::from_str(&runtime.run(&["ps", "--format", "json", &bundle.id]).ok()).unwrap();
        assert_eq!(pids.len(), 2, "{}", runtime.name);
        let processes =
            pids.iter().map(|p| gantry_sys::pidfd::Process::open(*p).unwrap()).collect::<Vec<_>>();
        runtime.run(&["delete", "--force", &bundle.id]).ok();
        for process in &processes {
            assert!(ends(process), "{}: {} is left", runtime.name, process.pid());
        }
        assert!(!bundle.has_cgroup(), "{}", runtime.name);
    }
}

#[test]
fn kill_all_reaches_every_process() {
    for runtime in Runtime::both() {
        let mut bundle = staying();
        bundle.spec["process"]["args"] =
            json!(["sh", "-c", "trap '' TERM; sleep 1000000 & echo ready > /data/ready; wait; wait"]);
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        running(&runtime, &bundle);
        let init = runtime.init(&bundle.id);
        runtime.run(&["kill", "--all", &bundle.id, "9"]).ok();
        assert!(ends(&init), "{}", runtime.name);
        assert_eq!(runtime.state(&bundle.id)["status"], "stopped", "{}", runtime.name);
        runtime.run(&["delete", &bundle.id]).ok();
    }
}

#[test]
fn a_paused_container_waits_and_can_be_killed() {
    for runtime in Runtime::both() {
        let name = runtime.name;
        let bundle = staying();
        let id = bundle.id.as_str();
        running(&runtime, &bundle);
        assert_eq!(runtime.run(&["resume", id]).code, Some(1), "{name}");
        runtime.run(&["pause", id]).ok();
        assert_eq!(bundle.limit("freezer", "freezer.state"), "FROZEN", "{name}");
        assert_eq!(runtime.state(id)["status"], "paused", "{name}");
        assert_eq!(runtime.run(&["exec", id, "true"]).code, Some(255), "{name}");
        runtime.run(&["resume", id]).ok();
        assert_eq!(runtime.state(id)["status"], "running", "{name}");
        runtime.run(&["pause", id]).ok();
        let init = runtime.init(id);
        runtime.run(&["kill", id, "KILL"]).ok();
        assert!(ends(&init), "{name}: a frozen process has to be thawed to die");
        runtime.run(&["delete", id]).ok();
    }
}

#[test]
fn limits_are_written_and_updated() {
    for runtime in Runtime::both() {
        let name = runtime.name;
        let mut bundle = staying();
        bundle.spec["linux"]["resources"] = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 67_108_864, "reservation": 33_554_432},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
            "pids": {"limit": 40},
        });
        running(&runtime, &bundle);
        let read = || {
            [
                bundle.limit("memory", "memory.limit_in_bytes"),
                bundle.limit("memory", "memory.soft_limit_in_bytes"),
                bundle.limit("cpu", "cpu.shares"),
                bundle.limit("cpu", "cpu.cfs_quota_us"),
                bundle.limit("cpu", "cpu.cfs_period_us"),
                bundle.limit("cpuset", "cpuset.cpus"),
                bundle.limit("pids", "pids.max"),
            ]
        };
        assert_eq!(read(), ["67108864", "33554432", "512", "50000", "100000", "0", "40"], "{name}");
        let change = bundle.dir().join("resources.json");
        let new = json!({"memory": {"limit": 134_217_728}, "cpu": {"shares": 256, "quota": -1}});
        std::fs::write(&change, new.to_string()).unwrap();
        runtime.run(&["update", "--resources", change.to_str().unwrap(), &bundle.id]).ok();
        let updated = ["134217728", "33554432", "256", "-1", "100000", "0", "40"];
        assert_eq!(read(), updated, "{name}");
        let mut from_stdin = runtime.command();
        std::fs::write(&change, json!({"memory": {"limit": 100_663_296}}).to_string()).unwrap();
        from_stdin
            .args(["update", "--resources", "-", &bundle.id])
            .stdin(std::fs::File::open(&change).unwrap());
        finish(from_stdin).ok();
        assert_eq!(bundle.limit("memory", "memory.limit_in_bytes"), "100663296", "{name}");
        runtime.run(&["delete", "--force", &bundle.id]).ok();
    }
}

#[test]
fn namespaces_are_joined_by_path_and_left_out_ones_are_the_hosts() {
    for runtime in Runtime::both() {
        let name = runtime.name;
        let holder = staying();
        running(&runtime, &holder);
        let pid = runtime.init(&holder.id).pid();
        let own =
            |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let held =
            |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
        let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";
        for (joined, hosts) in
            [(vec!["network", "ipc", "uts", "pid"], false), (vec!["pid"], false), (vec![], true)]
        {
            let mut bundle = Bundle::new(script);
            let mut namespaces = vec![json!({"type": "mount"})];
            for kind in &joined {
                let file = match *kind {
                    "network" => "net",
                    other => other,
                };
                namespaces.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
            }
            bundle.spec["linux"]["namespaces"] = json!(namespaces);
            if hosts {
                // The host's pids show in its own proc file system.
                bundle.spec["process"]["capabilities"] = caps(&["CAP_SYS_PTRACE"]);
            }
            let want: Vec<String> = ["net", "ipc", "uts", "pid"]
                .map(|file| {
                    let kind = if file == "net" { "network" } else { file };
                    if joined.contains(&kind) { held(file) } else { own(file) }
                })
                .to_vec();
            let got = bundle.run(&runtime).ok();
            assert_eq!(got.lines().collect::<Vec<_>>(), want, "{name}: {joined:?}");
        }
        runtime.run(&["delete", "--force", &holder.id]).ok();
    }
}

#[test]
fn mounts_propagate_as_asked() {
    // Mounts of this test stay in a mount namespace of this thread, which its children share.
    let result = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = gantry_sys::mount::set_propagation;
        use rustix::mount::MountPropagationFlags as Flags;
        private(Path::new("/"), Flags::PRIVATE | Flags::REC).unwrap();
        for runtime in Runtime::both() {
            let name = runtime.name;
            let mut bundle = staying();
            let shared = bundle.dir().join("shared");
            std::fs::create_dir(&shared).unwrap();
            rustix::mount::mount("tmpfs", &shared, "tmpfs", rustix::mount::MountFlags::empty(), c"").unwrap();
            private(&shared, Flags::SHARED).unwrap();
            for way in ["rprivate", "rslave", "rshared"] {
                bundle.mount(json!({"destination": format!("/{way}"), "type": "bind", "source": shared,
                    "options": ["rbind", way]}));
            }
            bundle.spec["linux"]["rootfsPropagation"] = json!("rshared");
            bundle.spec["process"]["capabilities"] = caps(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
            running(&runtime, &bundle);
            let late = shared.join("late");
            std::fs::create_dir(&late).unwrap();
            rustix::mount::mount("tmpfs", &late, "tmpfs", rustix::mount::MountFlags::empty(), c"").unwrap();
            std::fs::write(late.join("file"), "").unwrap();
            let script = "for w in rprivate rslave rshared; do ls /$w/late | wc -l; done; \
                          mkdir /rshared/back && mount -t tmpfs none /rshared/back && touch /rshared/back/file; \
                          mkdir /rslave/kept && mount -t tmpfs none /rslave/kept && touch /rslave/kept/file";
            let seen = runtime.run(&["exec", &bundle.id, "sh", "-c", script]).ok();
            assert_eq!(seen, "0\n1\n1\n", "{name}: a mount made on the host afterwards");
            assert!(shared.join("back/file").exists(), "{name}: a shared mount goes to the host");
            assert!(!shared.join("kept/file").exists(), "{name}: a slave's does not");
            runtime.run(&["delete", "--force", &bundle.id]).ok();
            rustix::mount::unmount(&shared, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    })
    .join();
    result.unwrap();
}

#[test]
fn a_detached_container_keeps_its_output() {
    for runtime in Runtime::both() {
        let bundle = Bundle::new("read go < /data/go; echo after the runtime has gone; echo error >&2");
        assert!(Command::new("mkfifo").arg(bundle.rootfs().join("data/go")).status().unwrap().success());
        let out = bundle.dir().join("out");
        let outcome = runtime.launch(&bundle.args("run", &["--detach"]), &out);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{}: {outcome:?}", runtime.name);
        let init = runtime.init(&bundle.id);
        std::fs::write(bundle.rootfs().join("data/go"), "go\n").unwrap();
        assert!(ends(&init), "{}", runtime.name);
        assert_eq!(
            std::fs::read_to_string(&out).unwrap(),
            "after the runtime has gone\n",
            "{}",
            runtime.name
        );
        assert_eq!(
            std::fs::read_to_string(out.with_extension("err")).unwrap(),
            "error\n",
            "{}",
            runtime.name
        );
        runtime.run(&["delete", &bundle.id]).ok();
    }
}
