//! OCI runtimes by name.

use gantry_e2e::Stage;
use serde_json::json;

#[test]
fn an_unknown_handler_is_refused_with_the_known_ones() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").args(&["--runtime", "other=/usr/sbin/runc"]).start();
    let crictl = daemon.crictl();
    let refused = crictl.run_runp("nonesuch", &stage.pod("p", json!({}))).fails();
    for word in ["nonesuch", "embedded", "runc", "other"] {
        assert!(refused.contains(word), "{word} is named: {refused}");
    }
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
    daemon.end();
    stage.end();
}

#[test]
fn a_handler_that_does_not_work_is_refused_and_others_go_on() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").args(&["--runtime", "broken=/bin/false"]).start();
    let crictl = daemon.crictl();
    let refused = crictl.run_runp("broken", &stage.pod("p", json!({}))).fails();
    assert!(refused.contains("broken") && refused.contains("/bin/false"), "{refused}");
    let id = crictl.runp("", &stage.pod("p", json!({})));
    crictl.ok(&["rmp", "--force", &id]);
    daemon.end();
    stage.end();
}

#[test]
fn the_default_is_the_one_that_was_named() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").args(&["--default-runtime", "runc"]).start();
    let crictl = daemon.crictl();
    let id = crictl.runp("", &stage.pod("p", json!({})));
    assert_eq!(crictl.json(&["inspectp", &id])["info"]["runtimeHandler"], "runc");
    crictl.ok(&["rmp", "--force", &id]);
    daemon.end();
    stage.end();
}
