//! Confinement as a container sees it: filters, capabilities, paths, groups, profiles.

use super::containers::{sleeper, with_each_handler};
use gantry_e2e::{BUSYBOX, Crictl, HANDLERS, Stage, assert_denied, calls_mounts, denied_calls};
use serde_json::{Value, json};

fn security(over: Value) -> Value {
    json!({"linux": {"security_context": over}})
}

/// A mask of capabilities of the container's processes.
fn mask(crictl: &Crictl, id: &str, field: &str) -> u64 {
    let line = crictl.sh(id, &format!("grep ^{field}: /proc/self/status"));
    u64::from_str_radix(line.split_once(':').unwrap().1.trim(), 16).unwrap()
}

#[test]
fn the_default_profile_denies_what_no_container_needs() {
    with_each_handler(|stage, crictl, handler| {
        let with = |kind: i32| {
            let mounts = calls_mounts(env!("CARGO_BIN_EXE_denied-calls"));
            json!({"mounts": mounts, "linux": {"security_context": {"seccomp": {"profile_type": kind}}}})
        };
        let confined = sleeper(stage, crictl, handler, json!({}), with(0));
        let free = sleeper(stage, crictl, handler, json!({}), with(1));
        assert_denied(&denied_calls(crictl, &confined), &denied_calls(crictl, &free));
        // The deprecated field says the same.
        let old = json!({
            "mounts": calls_mounts(env!("CARGO_BIN_EXE_denied-calls")),
            "linux": {"security_context": {"seccomp_profile_path": "runtime/default"}},
        });
        let old = sleeper(stage, crictl, handler, json!({}), old);
        assert_eq!(denied_calls(crictl, &old)["keyctl"], 1, "{handler}");
    });
}

#[test]
fn a_seccomp_profile_of_the_node() {
    with_each_handler(|stage, crictl, handler| {
        let file = stage.dir().join("profile.json");
        let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28});
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        std::fs::write(&file, profile.to_string()).unwrap();
        let path = file.display();
        for asked in [
            json!({"seccomp": {"profile_type": 2, "localhost_ref": path.to_string()}}),
            json!({"seccomp": {"profile_type": 2, "localhost_ref": format!("localhost/{path}")}}),
            json!({"seccomp_profile_path": format!("localhost/{path}")}),
        ] {
            let id = sleeper(stage, crictl, handler, json!({}), security(asked));
            let seen = crictl.sh(&id, "mkdir /tmp/d 2>&1 || true; touch /tmp/f && echo touched");
            assert!(seen.contains("No space left") && seen.contains("touched"), "{handler}: {seen}");
        }
        let missing = security(json!({"seccomp": {"profile_type": 2, "localhost_ref": "/no/such.json"}}));
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned();
        let refused = crictl.run_create(&pod_id, &stage.container("x", "true", missing), &pod).fails();
        assert!(refused.contains("/no/such.json"), "{handler}: {refused}");
    });
}

#[test]
fn ambient_capabilities_reach_a_user_that_is_not_root() {
    with_each_handler(|stage, crictl, handler| {
        let user = json!({"value": 1000});
        let over = security(json!({
            "run_as_user": user,
            "capabilities": {"drop_capabilities": ["ALL"], "add_ambient_capabilities": ["NET_RAW"]},
        }));
        let id = sleeper(stage, crictl, handler, json!({}), over);
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(mask(crictl, &id, field), 1 << 13, "{handler}: {field}");
        }
        // Without it a user has none, whatever is added.
        let over = security(json!({
            "run_as_user": user,
            "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_RAW"]},
        }));
        let id = sleeper(stage, crictl, handler, json!({}), over);
        for (field, expected) in [("CapEff", 0), ("CapAmb", 0), ("CapBnd", 1 << 13)] {
            assert_eq!(mask(crictl, &id, field), expected, "{handler}: {field}");
        }
    });
}

#[test]
fn privileges_are_not_gained_where_that_is_said() {
    with_each_handler(|stage, crictl, handler| {
        for (said, seen) in [(true, "1"), (false, "0")] {
            let id = sleeper(stage, crictl, handler, json!({}), security(json!({"no_new_privs": said})));
            let line = crictl.sh(&id, "grep ^NoNewPrivs /proc/self/status");
            assert_eq!(line.split_whitespace().last(), Some(seen), "{handler}");
        }
    });
}

#[test]
fn paths_are_masked_and_frozen_as_asked() {
    with_each_handler(|stage, crictl, handler| {
        let over = security(json!({"masked_paths": ["/proc/version", "/www"], "readonly_paths": ["/tmp"]}));
        let id = sleeper(stage, crictl, handler, json!({}), over);
        let seen = crictl.sh(
            &id,
            "cat /proc/version | wc -c; ls /www | wc -l; touch /tmp/x 2>&1 || echo frozen; \
             head -c 1 /proc/interrupts | wc -c",
        );
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[..2], ["0", "0"], "{handler}: masked: {seen}");
        assert!(lines[2].contains("Read-only") && lines[3] == "frozen", "{handler}: {seen}");
        assert_eq!(lines[4], "1", "{handler}: lists that are given replace the default ones: {seen}");
    });
}

#[test]
fn groups_of_the_image_are_joined_unless_the_policy_is_strict() {
    with_each_handler(|stage, crictl, handler| {
        for (policy, expected) in [(0, "1000 2000 3000"), (1, "1000 3000")] {
            let over = security(json!({
                "run_as_user": {"value": 1000}, "run_as_group": {"value": 1000},
                "supplemental_groups": [3000], "supplemental_groups_policy": policy,
            }));
            let id = sleeper(stage, crictl, handler, json!({}), over);
            let mut groups: Vec<String> =
                crictl.sh(&id, "id -G").split_whitespace().map(str::to_owned).collect();
            groups.sort();
            assert_eq!(groups.join(" "), expected, "{handler}: policy {policy}");
            let told = crictl.status(&id)["user"]["linux"].clone();
            assert_eq!((&told["uid"], &told["gid"]), (&json!("1000"), &json!("1000")), "{handler}: {told}");
            let listed = told["supplementalGroups"].as_array().unwrap();
            assert!(listed.contains(&json!("3000")), "{handler}: {told}");
            assert_eq!(listed.contains(&json!("2000")), policy == 0, "{handler}: {told}");
        }
    });
}

#[test]
fn settings_of_the_node_are_refused_to_pods() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for (name, network) in
        [("kernel.core_pattern", true), ("vm.swappiness", true), ("net.core.somaxconn", false)]
    {
        let over = json!({"linux": {"sysctls": {name: "1"}}});
        let pod = if network { stage.network_pod("p", over) } else { stage.pod("p", over) };
        let refused = crictl.run_runp("", &pod).fails();
        assert!(refused.contains(name), "{refused}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
    daemon.end();
    stage.end();
}

#[test]
fn a_profile_that_the_kernel_cannot_enforce_is_refused() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let has =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'));
    for asked in [
        json!({"apparmor": {"profile_type": 2, "localhost_ref": "nonesuch"}}),
        json!({"apparmor_profile": "localhost/nonesuch"}),
        json!({"apparmor": {"profile_type": 0}}),
        json!({"apparmor_profile": "runtime/default"}),
    ] {
        let said = crictl.run_create(&pod_id, &stage.container("c", "true", security(asked.clone())), &pod);
        // Where the kernel has it, the virtual machine's tests tell more.
        if !has {
            let refused = said.fails();
            assert!(refused.contains("AppArmor"), "{asked}: {refused}");
        }
    }
    for (name, asked) in
        [("u", json!({"apparmor": {"profile_type": 1}})), ("v", json!({"apparmor_profile": "unconfined"}))]
    {
        crictl.create(&pod_id, &stage.container(name, "true", security(asked)), &pod);
    }
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn limits_of_processes_and_umask() {
    let stage = Stage::new();
    let limits = ["--default-ulimit", "nofile=321:654", "--default-ulimit", "core=0"];
    let daemon = stage.daemon("d").args(&limits).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        let over = json!({"annotations": {"umask.crio.io": "0077"}});
        let id = sleeper(&stage, &crictl, handler, json!({}), over);
        let seen =
            crictl.sh(&id, "ulimit -Sn; ulimit -Hn; ulimit -Hc; grep ^Umask /proc/$(pidof sleep)/status");
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(words, ["321", "654", "0", "Umask:", "0077"], "{handler}");
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}
