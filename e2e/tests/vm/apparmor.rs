//! AppArmor profiles of the node.

use crate::bed::{Bed, read};
use gantry_e2e::run;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Name of the profile of these tests.
const PROFILE: &str = "gantry-test";

/// Allows everything but to write one file.
const TEXT: &str = "profile gantry-test flags=(attach_disconnected,mediate_deleted) {\n\
    file, capability, network, signal, ptrace, unix, mount, umount, pivot_root,\n\
    deny /tmp/forbidden w,\n}\n";

fn confined(profile: &str) -> Value {
    // 2 is Localhost: a profile that the node has.
    json!({"linux": {"security_context": {"apparmor": {"profile_type": 2, "localhost_ref": profile}}}})
}

pub(crate) fn a_profile_of_the_node_is_enforced(bed: &Bed, handler: &str) {
    let file = bed.stage.dir().join("profile");
    std::fs::write(&file, TEXT).unwrap();
    run(Command::new("apparmor_parser").args(["--skip-cache", "--replace"]).arg(&file)).ok();
    let script = "echo x >/tmp/forbidden && echo wrote; exec sleep 100000";
    let id = bed.start(handler, script, json!({}), confined(PROFILE));
    let pid = bed.crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap();
    let of = |pid: &str| read(Path::new(&format!("/proc/{pid}/attr/apparmor/current")));
    assert_eq!(of(&pid.to_string()), format!("{PROFILE} (enforce)"));
    // Also for what is started in it later.
    assert_eq!(bed.crictl.sh(&id, "cat /proc/self/attr/current").trim(), format!("{PROFILE} (enforce)"));
    let seen = bed
        .crictl
        .sh(&id, "( echo x >/tmp/forbidden ) 2>&1 || echo refused; echo x >/tmp/other && echo wrote");
    assert!(seen.contains("Permission denied") && seen.contains("refused"), "{seen}");
    assert!(seen.trim().ends_with("wrote"), "{seen}");
    assert!(!bed.crictl.ok(&["logs", &id]).contains("wrote"), "its first process is confined as well");
    bed.crictl.remove_all();
    run(Command::new("apparmor_parser").args(["--skip-cache", "--remove"]).arg(&file)).ok();
    std::fs::remove_file(&file).unwrap();
}

pub(crate) fn an_unknown_profile_is_refused(bed: &Bed, handler: &str) {
    let pod = bed.stage.pod("p", json!({}));
    let pod_id = bed.crictl.runp(handler, &pod);
    for (name, over) in
        [("c", confined("nonesuch")), ("d", security(json!({"apparmor_profile": "localhost/nonesuch"})))]
    {
        let refused = bed.crictl.run_create(&pod_id, &bed.stage.container(name, "true", over), &pod).fails();
        assert!(refused.contains("nonesuch") && refused.contains("apparmor_parser"), "{refused}");
    }
}

fn security(over: Value) -> Value {
    json!({"linux": {"security_context": over}})
}

/// The profile of a container's first process.
fn profile_of(bed: &Bed, id: &str) -> String {
    let pid = bed.crictl.json(&["inspect", id])["info"]["pid"].as_u64().unwrap();
    read(Path::new(&format!("/proc/{pid}/attr/apparmor/current")))
}

pub(crate) fn the_default_profile_is_loaded_and_enforced(bed: &Bed, handler: &str) {
    for asked in
        [json!({}), json!({"apparmor": {"profile_type": 0}}), json!({"apparmor_profile": "runtime/default"})]
    {
        let id = bed.sleeper(handler, security(asked));
        assert_eq!(profile_of(bed, &id), "gantry-default (enforce)");
        let own = bed.crictl.sh(&id, "cat /proc/self/attr/apparmor/current");
        assert_eq!(own.trim(), "gantry-default (enforce)", "a command's, too");
        // A container reaches its own processes, and the node reaches it.
        assert_eq!(bed.crictl.sh(&id, "kill -0 $(pidof sleep) && echo reached").trim(), "reached");
        bed.crictl.ok(&["stop", "--timeout", "0", &id]);
        bed.crictl.remove_all();
    }
    // Capabilities and paths that are open leave the profile as the only thing that refuses.
    let open = |profile: i32| {
        security(json!({
            "apparmor": {"profile_type": profile},
            "capabilities": {"add_capabilities": ["SYS_ADMIN"]},
            "masked_paths": ["/nonexistent"],
        }))
    };
    let script = "mount -t tmpfs none /tmp 2>/dev/null && echo mounted; \
        ( cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness ) 2>/dev/null && echo node; \
        ( echo d >/proc/sys/kernel/domainname ) 2>/dev/null && echo own; \
        ( head -c 1 /proc/kcore >/dev/null ) 2>/dev/null && echo memory; true";
    for (profile, seen) in [(1, "mounted node own"), (0, "own")] {
        let id = bed.sleeper(handler, open(profile));
        let said = bed.crictl.sh(&id, script).replace("memory\n", "");
        assert_eq!(said.split_whitespace().collect::<Vec<_>>().join(" "), seen, "profile type {profile}");
        bed.crictl.remove_all();
    }
    let privileged = security(json!({"privileged": true}));
    let id = bed.start(handler, "exec sleep 100000", privileged.clone(), privileged);
    assert_eq!(profile_of(bed, &id), "unconfined");
}
