//! The default seccomp profile, on a kernel and with a runtime that hosts may lack.

use crate::bed::Bed;
use gantry_e2e::{assert_denied, calls_mounts, denied_calls};
use serde_json::json;

pub(crate) fn the_default_profile_denies_what_no_container_needs(bed: &Bed, handler: &str) {
    let answers = |kind: i32| {
        // Without AppArmor, which would refuse some of them as well.
        let id = bed.sleeper(
            handler,
            json!({
                "mounts": calls_mounts(env!("CARGO_BIN_EXE_denied-calls")),
                "linux": {"security_context": {
                    "seccomp": {"profile_type": kind}, "apparmor": {"profile_type": 1},
                }},
            }),
        );
        let answers = denied_calls(&bed.crictl, &id);
        bed.crictl.remove_all();
        answers
    };
    assert_denied(&answers(0), &answers(1));
}
