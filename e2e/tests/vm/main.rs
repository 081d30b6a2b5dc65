#![forbid(unsafe_code)]
//! What needs cgroup v2, AppArmor or crun: `make test-vm` runs these tests in a virtual machine.
//!
//! The systemd cgroup driver is not among them: there is no systemd in the machine.

mod lifecycle;

use gantry_e2e::{BUSYBOX, Crictl, Stage};

/// The handlers that every test runs with.
const HANDLERS: [&str; 2] = ["embedded", "crun"];

/// Runs `check` with a daemon that has the image, once for each OCI runtime.
fn with_each_handler(check: impl Fn(&Stage, &Crictl, &str)) {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        check(&stage, &crictl, handler);
        crictl.remove_all();
    }
    daemon.end();
    stage.end();
}
