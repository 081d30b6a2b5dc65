//! What only the embedded runtime promises: refusing what it cannot do, going on where the host
//! forbids something, cleaning up after itself when it is killed. Needs root and busybox-static.

mod support;

use serde_json::{Value, json};
use std::process::{Command, Stdio};
use support::{Bundle, Runtime, caps, ends, finish, read_fifo};

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

/// A change of a configuration that works.
type Change = fn(&mut Value);

#[test]
fn what_it_cannot_do_is_refused_before_anything_is_made() {
    let runtime = Runtime::embedded();
    let cases: [(&str, Change); 17] = [
        ("an id-mapped mount", |s| {
            let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
            push(
                &mut s["mounts"],
                json!({"destination": "/data", "type": "bind", "source": "/tmp",
                "options": ["bind"], "uidMappings": map, "gidMappings": map}),
            );
        }),
        ("an id-mapped mount", |s| {
            push(
                &mut s["mounts"],
                json!({"destination": "/data", "type": "bind", "source": "/tmp",
                "options": ["bind", "idmap"]}),
            );
        }),
        ("a user namespace", |s| push(&mut s["linux"]["namespaces"], json!({"type": "user"}))),
        ("process.selinuxLabel", |s| {
            s["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
        }),
        ("linux.mountLabel", |s| s["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0")),
        ("SCMP_ACT_NOTIFY", |s| {
            s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]});
        }),
        ("libseccomp on this host does not know it", |s| {
            s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["a_call_of_the_future"], "action": "SCMP_ACT_ERRNO"}]});
        }),
        ("no mount namespace", |s| s["linux"]["namespaces"] = json!([{"type": "pid"}])),
        ("has net twice", |s| push(&mut s["linux"]["namespaces"], json!({"type": "network"}))),
        ("memory.disableOOMKiller", |s| {
            s["linux"]["resources"]["memory"] = json!({"disableOOMKiller": true});
        }),
        ("resources.unified needs cgroup v2", |s| {
            s["linux"]["resources"]["unified"] = json!({"memory.high": "1000000"});
        }),
        ("resources.rdma", |s| s["linux"]["resources"]["rdma"] = json!({"mlx5_1": {"hcaHandles": 3}})),
        ("apparmor", |s| s["process"]["apparmorProfile"] = json!("docker-default")),
        ("process.args is empty", |s| s["process"]["args"] = json!([])),
        ("cgroup hugetlb is required", |s| {
            s["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 0}]);
        }),
        ("/nowhere", |s| {
            push(&mut s["mounts"], json!({"destination": "/x", "type": "bind", "source": "/nowhere"}));
        }),
        ("EINVAL", |s| {
            push(
                &mut s["mounts"],
                json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs",
                "options": ["nonsense"]}),
            );
        }),
    ];
    for (want, change) in cases {
        let bundle = Bundle::new("echo ran").with(change);
        runtime.take_log();
        // Not `run`, so that nothing cleans up but the runtime itself.
        let outcome = runtime.run(&bundle.args("run", &[]));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{want}: {outcome:?}");
        assert!(outcome.stderr.contains(want), "{want}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{want}: {outcome:?}");
        let log = runtime.take_log();
        assert_eq!(log.len(), 1, "{want}: {log:?}");
        assert_eq!(
            (&log[0]["level"], log[0]["msg"].as_str()),
            (&json!("error"), outcome.stderr.lines().next())
        );
        assert!(!bundle.has_cgroup(), "{want}");
        assert!(!runtime.state_dir().join(&bundle.id).exists(), "{want}");
    }
}

#[test]
fn what_the_host_forbids_is_left_out_with_one_warning_each() {
    let runtime = Runtime::embedded();
    let bundle = Bundle::new("echo ran").with(|s| {
        s["process"]["oomScoreAdj"] = json!(-999);
        s["process"]["capabilities"] = caps(&["CAP_CHOWN", "CAP_SYS_RESOURCE"]);
        s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 1_000_000_000u64}]);
    });
    assert_eq!(bundle.run(&runtime).ok(), "ran\n");
    let log = runtime.take_log();
    let messages: Vec<&str> = log.iter().map(|l| l["msg"].as_str().unwrap()).collect();
    assert!(log.iter().all(|l| l["level"] == "warning"), "{log:?}");
    for about in ["CAP_SYS_RESOURCE; left out", "oom_score_adj -999", "RLIMIT_NOFILE"] {
        assert_eq!(messages.iter().filter(|m| m.contains(about)).count(), 1, "{about}: {messages:?}");
    }
    assert_eq!(log.len(), 3, "{messages:?}");
}

#[test]
fn a_bad_command_line_is_one_line_too() {
    let runtime = Runtime::embedded();
    for args in
        [&["nonsense"][..], &["create"], &["kill", "a/b"], &["exec", "x"], &["update", "--memory", "1x", "x"]]
    {
        let outcome = runtime.run(args);
        assert_ne!(outcome.code, Some(0), "{args:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{args:?}: {outcome:?}");
    }
    assert!(runtime.run(&["--version"]).ok().starts_with("gantry-runtime "));
}

#[test]
fn a_cgroup_with_processes_is_not_taken_over() {
    let runtime = Runtime::embedded();
    let bundle = Bundle::new("echo ran");
    let procs = std::path::Path::new("/sys/fs/cgroup/pids").join(bundle.cgroup.trim_start_matches('/'));
    std::fs::create_dir_all(&procs).unwrap();
    let mut other = Command::new("sleep").arg("1000000").spawn().unwrap();
    std::fs::write(procs.join("cgroup.procs"), other.id().to_string()).unwrap();
    let outcome = runtime.run(&bundle.args("run", &[]));
    assert!(outcome.stderr.contains("holds 1 processes"), "{outcome:?}");
    let process = gantry_sys::pidfd::Process::open(other.id() as i32).unwrap();
    assert!(!process.has_exited(), "it was killed by a container that could not be made");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn two_creates_with_one_id_make_one_container() {
    let runtime = Runtime::embedded();
    let bundle = Bundle::new("exit 0");
    let args = bundle.args("create", &[]);
    let start = || {
        let mut command = runtime.command();
        command.args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut both = [start(), start()];
    let codes = both.each_mut().map(|c| c.wait().unwrap().code());
    assert!(codes == [Some(0), Some(1)] || codes == [Some(1), Some(0)], "{codes:?}");
    assert_eq!(runtime.state(&bundle.id)["status"], "created");
    runtime.run(&["delete", &bundle.id]).ok();
    assert!(!bundle.has_cgroup());
}

/// A hook that says which bundle it was told of, and then waits for a word.
fn waiting_hook(bundle: &Bundle) -> Value {
    for fifo in ["told", "go"] {
        assert!(Command::new("mkfifo").arg(bundle.dir().join(fifo)).status().unwrap().success());
    }
    let dir = bundle.dir().display();
    json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {dir}/told; read go < {dir}/go")]}])
}

#[test]
fn a_create_that_was_killed_is_cleaned_up_by_delete() {
    let runtime = Runtime::embedded();
    for hook in ["createRuntime", "createContainer"] {
        let mut bundle = Bundle::new("exit 0");
        bundle.spec["hooks"][hook] = waiting_hook(&bundle);
        let args = bundle.args("create", &[]);
        let mut create = runtime.command();
        let mut create = create.args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let told: Value = serde_json::from_str(&read_fifo(&bundle.dir().join("told"))).unwrap();
        assert_eq!(told["id"], bundle.id.as_str(), "{hook}");
        assert_eq!(runtime.state(&bundle.id)["status"], "creating", "{hook}");
        assert_eq!(runtime.run(&["start", &bundle.id]).code, Some(1), "{hook}");
        assert_eq!(runtime.run(&["delete", &bundle.id]).code, Some(1), "{hook}: it may still go on");
        create.kill().unwrap();
        create.wait().unwrap();
        let hierarchies = gantry_cgroup::Hierarchies::detect().unwrap();
        let cgroup = gantry_cgroup::Cgroup::new(&hierarchies, &bundle.cgroup).unwrap();
        let left: Vec<_> = cgroup
            .pids()
            .unwrap()
            .into_iter()
            .filter_map(|p| gantry_sys::pidfd::Process::open(p).ok())
            .collect();
        runtime.run(&["delete", "--force", &bundle.id]).ok();
        assert!(left.iter().all(ends), "{hook}");
        assert!(!bundle.has_cgroup(), "{hook}");
        assert_eq!(runtime.run(&["state", &bundle.id]).code, Some(1), "{hook}");
        // A createRuntime hook is no process of the container: let it go.
        if hook == "createRuntime" {
            std::fs::write(bundle.dir().join("go"), "go\n").unwrap();
        }
    }
}

#[test]
fn hooks_run_at_their_times_and_see_the_bundle() {
    let runtime = Runtime::embedded();
    let mut bundle = Bundle::new("true");
    let file = |name: &str| bundle.dir().join(name);
    let hook = |name: &str| {
        let script = format!("cat > {}", file(name).display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let hooks = json!({"createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
                       "poststop": hook("poststop")});
    bundle.spec["hooks"] = hooks;
    bundle.run(&runtime).ok();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(bundle.dir().join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("createRuntime")["status"], "creating");
    for (name, status) in [("poststart", "running"), ("poststop", "stopped")] {
        assert_eq!(read(name)["status"], status);
        assert_eq!(read(name)["bundle"], bundle.dir().to_str().unwrap(), "{name}");
    }
}

#[test]
fn a_poststop_hook_that_fails_does_not_keep_the_container() {
    let runtime = Runtime::embedded();
    let mut bundle = Bundle::new("true");
    bundle.spec["hooks"]["poststop"] = json!([{"path": "/bin/false"}]);
    bundle.run(&runtime).ok();
    let log = runtime.take_log();
    assert!(log.iter().any(|l| l["msg"].as_str().unwrap().contains("poststop")), "{log:?}");
    assert_eq!(runtime.run(&["state", &bundle.id]).code, Some(1));
}

#[test]
fn features_are_a_json_document() {
    let features: Value = serde_json::from_str(&Runtime::embedded().run(&["features"]).ok()).unwrap();
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], false);
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(features["linux"]["selinux"]["enabled"], false);
    let options = features["mountOptions"].as_array().unwrap();
    assert!(options.contains(&json!("rro")) && !options.contains(&json!("idmap")));
    let namespaces = features["linux"]["namespaces"].as_array().unwrap();
    assert!(!namespaces.contains(&json!("user")));
}

#[test]
fn a_disk_that_is_full_fails_create_and_not_delete() {
    // State on a tmpfs of one page too few, in a mount namespace of this thread.
    let result = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        use rustix::mount::{MountFlags, MountPropagationFlags as Flags};
        gantry_sys::mount::set_propagation(std::path::Path::new("/"), Flags::PRIVATE | Flags::REC).unwrap();
        let runtime = Runtime::embedded();
        std::fs::create_dir(runtime.state_dir()).unwrap();
        rustix::mount::mount("tmpfs", runtime.state_dir(), "tmpfs", MountFlags::empty(), c"size=64k")
            .unwrap();
        let bundle = Bundle::new("exit 0");
        let created = finish({
            let mut command = runtime.command();
            command.args(bundle.args("run", &["--detach", "--keep"]));
            command
        });
        assert_eq!(created.code, Some(0), "{created:?}");
        let filler = runtime.state_dir().join("filler");
        let full = std::fs::write(&filler, vec![0; 128 * 1024]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let second = Bundle::new("exit 0");
        let refused = runtime.run(&second.args("run", &[]));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("No space left on device"), "{refused:?}");
        assert!(!second.has_cgroup());
        runtime.run(&["delete", "--force", &bundle.id]).ok();
        assert!(!bundle.has_cgroup());
        std::fs::remove_file(filler).unwrap();
        rustix::mount::unmount(runtime.state_dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
    result.join().unwrap();
}
