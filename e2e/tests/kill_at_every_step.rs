//! The daemon is killed before and after every promise of the undo journals, the OCI runtime wherever it
//! runs: whoever asks again gets what was asked for, and nothing is left.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, Output, Stage, Watch};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

/// A pod with everything that pushes a promise, and its container.
fn wanted(stage: &Stage) -> (Value, Value) {
    let ids = json!([{"host_id": 2_000_000, "container_id": 0, "length": 65536}]);
    let user = json!({"mode": 0, "uids": ids, "gids": ids});
    let users = json!({"linux": {"security_context": {"namespace_options": {"userns_options": user}}}});
    let mut pod = stage.network_pod("p", users.clone());
    // Logs where the daemon puts them; a cgroup parent of its own choice.
    pod.as_object_mut().unwrap().remove("log_directory");
    pod["port_mappings"] =
        json!([{"protocol": 0, "container_port": 80, "host_port": gantry_e2e::free_port()}]);
    let volume = stage.dir().join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    let mount = json!({"host_path": volume, "container_path": "/v", "uidMappings": ids, "gidMappings": ids});
    let container =
        stage.container("c", "exec sleep 100000", gantry_e2e::merge(users, json!({"mounts": [mount]})));
    (pod, container)
}

/// Makes the pod and starts its container; the first call that failed.
fn try_up(crictl: &Crictl, pod: &Value, container: &Value) -> Result<(String, String), Output> {
    let ok = |output: Output| {
        if output.code == Some(0) { Ok(output.stdout.trim().to_owned()) } else { Err(output) }
    };
    let pod_id = ok(crictl.run_runp("runc", pod))?;
    let id = ok(crictl.run_create(&pod_id, container, pod))?;
    ok(crictl.run(&["start", &id]))?;
    Ok((pod_id, id))
}

/// Waits until nothing of any pod is left in the daemon's directories, and looks at mounts and cgroups.
fn assert_clean(daemon: &Daemon, at: &str) {
    let dirs = [
        daemon.run_dir().join("pods"),
        daemon.run_dir().join("network/attachments"),
        daemon.root().join("containers"),
    ];
    let count = |dir: &std::path::PathBuf| std::fs::read_dir(dir).map_or(0, |d| d.flatten().count());
    let paths: Vec<&std::path::Path> = dirs.iter().filter(|d| d.exists()).map(|d| d.as_path()).collect();
    // Undoing what a dead daemon began goes on in the background.
    Watch::new(&paths).until(&format!("everything is undone, {at}"), || {
        (dirs.iter().map(count).sum::<usize>() == 0).then_some(())
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let run = daemon.run_dir().display().to_string();
    let left: Vec<&str> = mounts.lines().filter(|l| l.contains(&format!("{run}/"))).collect();
    assert!(left.is_empty(), "{at}: {left:?}");
}

#[test]
fn of_the_daemon_while_a_pod_is_made_and_removed() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for dir in [stage.dir(), daemon.dir()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    let (pod, container) = wanted(&stage);
    let up = || try_up(&crictl, &pod, &container).unwrap_or_else(|e| panic!("{}", e.stderr));
    let owed = |info: Value| info["info"]["owed"].as_array().unwrap().len();
    let (pod_id, id) = up();
    // Nothing is undone yet, so what is owed is what was pushed.
    let found = owed(crictl.json(&["inspectp", &pod_id])) + owed(crictl.json(&["inspect", &id]));
    assert!(found >= 9, "{found}");
    crictl.remove_all();

    let mut covered = 0;
    for number in 1..=found {
        for when in ["before", "after"] {
            let at = format!("killed {when} promise {number} of {found}");
            daemon.terminate();
            daemon.restart_to_die(&format!("push:{number}:{when}"));
            try_up(&crictl, &pod, &container).expect_err(&at);
            daemon.wait_killed();
            daemon.restart();
            up();
            crictl.remove_all();
            assert_clean(&daemon, &at);
            covered += 1;

            let at = format!("killed {when} undoing {number} of {found}");
            up();
            daemon.kill();
            daemon.restart_to_die(&format!("undo:{number}:{when}"));
            let list = crictl.json(&["pods", "-q", "-o", "json"]);
            let pod_id = list["items"][0]["id"].as_str().unwrap().to_owned();
            assert_ne!(crictl.run(&["rmp", "--force", &pod_id]).code, Some(0), "{at}");
            daemon.wait_killed();
            daemon.restart();
            // The kubelet removes what it still sees; what it does not see is gone.
            crictl.remove_all();
            up();
            crictl.remove_all();
            assert_clean(&daemon, &at);
            covered += 1;
        }
    }
    println!("kill at every step: {found} promises found, {covered} kills of the daemon");
    assert_eq!(covered, found * 4);
    daemon.end();
    stage.end();
}

#[test]
fn of_the_oci_runtime_wherever_it_runs() {
    let stage = Stage::new();
    let script = stage.dir().join("runtime");
    let mode = stage.dir().join("mode");
    // Dies before it does anything, between its first cgroup and its end, or after its work; once.
    let text = format!(
        "#!/bin/bash\nmode=$(cat {mode} 2>/dev/null)\nverb=\nfor a in \"$@\"; do case $a in run|exec) verb=$a;; esac; done\n\
         if [[ -z $mode || $mode != $verb-* ]]; then exec runc \"$@\"; fi\nrm {mode}\n\
         case $mode in\n*-before) kill -9 $$;;\n*-after) runc \"$@\"; kill -9 $$;;\n\
         *-during) runc \"$@\" & until grep -q runc /proc/$!/cmdline && [[ $(cat /proc/$!/task/*/children) ]]; do :; done\n\
         kill -9 $!; kill -9 $$;;\nesac\n",
        mode = mode.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let option = format!("faulty={}", script.display());
    let daemon = stage.daemon("d").args(&["--runtime", &option]).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let mut covered = 0;
    for when in ["before", "during", "after"] {
        let pod_id = crictl.runp("faulty", &pod);
        let container = |attempt: u32| {
            stage.container("c", "exec sleep 100000", json!({"metadata": {"attempt": attempt}}))
        };
        let id = crictl.create(&pod_id, &container(0), &pod);
        std::fs::write(&mode, format!("run-{when}")).unwrap();
        assert_ne!(crictl.run(&["start", &id]).code, Some(0), "killed {when}");
        assert!(!mode.exists(), "the runtime was not killed");
        let status = crictl.status(&id);
        assert_eq!((&status["state"], &status["reason"]), (&json!("CONTAINER_EXITED"), &json!("StartError")));
        let info = crictl.json(&["inspect", &id])["info"].clone();
        let left = cgroup_processes(info["cgroup"].as_str().unwrap());
        assert!(left.is_empty(), "killed {when}: {left:?} run on");
        crictl.ok(&["rm", &id]);
        covered += 1;

        let id = crictl.start(&pod_id, &container(1), &pod);
        std::fs::write(&mode, format!("exec-{when}")).unwrap();
        assert_ne!(crictl.run(&["exec", "-s", &id, "sleep", "4321"]).code, Some(0), "killed {when}");
        assert!(!mode.exists(), "the runtime was not killed");
        // The container itself is as it was.
        assert_eq!(crictl.sh(&id, "echo here"), "here");
        assert!(!crictl.sh(&id, "ps").contains("4321"), "killed {when}: the command runs on");
        crictl.remove_all();
        covered += 1;
    }
    println!("kill at every step: {covered} kills of the OCI runtime");
    assert_eq!(covered, 6);
    daemon.end();
    stage.end();
}

/// Processes in a cgroup of any hierarchy.
fn cgroup_processes(path: &str) -> Vec<String> {
    let mounts = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
    let roots = mounts.chain(["/sys/fs/cgroup".into()]);
    let files = roots.map(|root| root.join(path.trim_start_matches('/')).join("cgroup.procs"));
    files
        .filter_map(|f| std::fs::read_to_string(f).ok())
        .flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
