//! Devices: the filter is a program in the kernel on cgroup v2.

use crate::bed::Bed;
use serde_json::json;

/// Tries to read and to write a device that is made on the spot.
const TRY: &str = "m=$(mknod /tmp/d $* 2>&1 && echo made); \
    r=$(head -c 1 /tmp/d 2>&1 >/dev/null && echo read); w=$(echo x 2>&1 >/tmp/d && echo wrote); echo $m $r $w";

pub(crate) fn asked_for_and_not(bed: &Bed, handler: &str) {
    let capability = json!({"security_context": {"capabilities": {"add_capabilities": ["MKNOD"]}}});
    let container = json!({
        "linux": capability,
        // Another than the one below, to be read only.
        "devices": [{"host_path": "/dev/vda", "container_path": "/dev/given", "permissions": "r"}],
    });
    let id = bed.sleeper(handler, container);
    let attempt = |device: &str| bed.crictl.sh(&id, &format!("set -- {device}; rm -f /tmp/d; {TRY}"));
    // The standard ones are usable, whoever makes the node.
    let null = attempt("c 1 3");
    assert!(null.contains("made") && null.contains("read") && null.contains("wrote"), "{null}");
    // Nodes of others may be made (mknod is asked of the rules too, which allow it), not used.
    for other in ["b 7 0", "c 1 1", "c 10 237"] {
        let seen = attempt(other);
        assert!(!seen.contains("read") && !seen.contains("wrote"), "{other}: {seen}");
        assert!(seen.contains("not permitted"), "{other}: {seen}");
    }
    let given = bed.crictl.sh(&id, "( : >>/dev/given ) 2>&1 || echo refused; head -c 1 /dev/given | wc -c");
    let lines: Vec<&str> = given.lines().collect();
    assert!(lines[0].contains("not permitted"), "writing: {given}");
    assert_eq!(lines[1..], ["refused", "1"], "writing is refused, reading is not");

    // A privileged one may use all.
    bed.crictl.remove_all();
    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    let id = bed.start(handler, "exec sleep 100000", privileged.clone(), privileged);
    let seen = bed.crictl.sh(&id, "head -c 1 /dev/vda | wc -c");
    assert_eq!(seen.trim(), "1");
}
