//! The unit of users, deploy/gantry.service, under a real systemd.

use crate::bed::{Bed, property, systemctl};
use gantry_e2e::run;
use std::process::Command;

pub(crate) fn systemd_starts_the_unit_of_users(_: &Bed, _: &str) {
    // Where nothing is configured, there is no network of CNI, and the daemon starts all the same.
    // `start` of a Type=notify unit returns when the daemon has said that it is ready.
    systemctl(&["start", "gantry.service"]);
    assert_eq!(property("gantry.service", "ActiveState"), "active");
    assert_eq!(property("gantry.service", "Type"), "notify");
    let version = || {
        let mut crictl = Command::new("crictl");
        crictl.args(["--runtime-endpoint", "unix:///run/gantry/gantry.sock", "version"]);
        run(&mut crictl).ok()
    };
    assert!(version().contains("gantry"));
    let first = property("gantry.service", "MainPID");
    systemctl(&["restart", "gantry.service"]);
    assert_ne!(property("gantry.service", "MainPID"), first);
    version();
    // It is killed: systemd starts it again.
    systemctl(&["kill", "--signal", "KILL", "--kill-who", "main", "gantry.service"]);
    systemctl(&["restart", "gantry.service"]);
    version();
    systemctl(&["stop", "gantry.service"]);
    assert_eq!(property("gantry.service", "Result"), "success");
    assert_eq!(property("gantry.service", "ActiveState"), "inactive");
    let root = std::path::Path::new("/var/lib/gantry");
    std::fs::remove_dir_all(root).unwrap_or_else(|e| panic!("remove {}: {e}", root.display()));
}
