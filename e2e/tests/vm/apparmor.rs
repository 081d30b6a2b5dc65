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
    let id = bed.crictl.create(&pod_id, &bed.stage.container("c", "true", confined("nonesuch")), &pod);
    bed.crictl.run(&["start", &id]).fails();
    assert_ne!(bed.crictl.status(&id)["state"], "CONTAINER_RUNNING");
}
