//! What the tests of the virtual machine share: one stage, one daemon that has the image.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, DaemonBuilder, Stage, merge, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Slice of the pods with systemd, as the kubelet names them.
const SLICE: &str = "kubepods-burstable-pod1.slice";

/// One stage with one daemon, which has the image.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) stage: Stage,
    pub(crate) daemon: Daemon,
    pub(crate) crictl: Crictl,
    /// systemd is process 1, and manages control groups.
    systemd: bool,
}

impl Bed {
    /// Starts the daemon and pulls the image.
    pub(crate) fn make(systemd: bool) -> Self {
        if systemd {
            // systemd's own, which it makes with the first transient unit and keeps.
            std::fs::create_dir_all("/run/systemd/transient").expect("make systemd's directory");
        }
        let stage = Stage::new();
        let daemon = with_driver(stage.daemon("d"), systemd).start();
        let crictl = daemon.crictl();
        crictl.ok(&["pull", BUSYBOX]);
        Self { stage, daemon, crictl, systemd }
    }

    /// Ends both, and compares the machine with what it was.
    pub(crate) fn end(self) {
        self.daemon.end();
        if self.systemd {
            // As the kubelet does with the slices that it named.
            systemctl(&["stop", "kubepods.slice"]);
            crate::systemd::wait_no_units();
        }
        self.stage.end();
    }

    /// A further daemon called `name`, with the same cgroup driver.
    pub(crate) fn another(&self, name: &str) -> DaemonBuilder {
        with_driver(self.stage.daemon(name), self.systemd)
    }

    /// Takes away all pods and what they logged: the next test uses the same names.
    pub(crate) fn clean(&self) {
        self.crictl.remove_all();
        let logs = self.stage.log_dir("p");
        if logs.exists() {
            std::fs::remove_dir_all(&logs).unwrap_or_else(|e| panic!("remove {}: {e}", logs.display()));
        }
    }

    /// What the daemon has logged after its first `start` bytes.
    pub(crate) fn log_from(&self, start: usize) -> String {
        self.daemon.log().get(start..).unwrap_or_default().to_owned()
    }

    /// Starts a container that runs `script`, in a new pod called `p`.
    pub(crate) fn start(&self, handler: &str, script: &str, pod_over: Value, over: Value) -> String {
        let pod = self.stage.pod("p", merge(self.parent(), pod_over));
        let pod_id = self.crictl.runp(handler, &pod);
        self.crictl.start(&pod_id, &self.stage.container("c", script, over), &pod)
    }

    /// The cgroup parent that the kubelet would name, where that must be a slice.
    fn parent(&self) -> Value {
        if self.systemd { json!({"linux": {"cgroup_parent": SLICE}}) } else { json!({}) }
    }

    /// Starts a container that waits for ever, in a new pod called `p`.
    pub(crate) fn sleeper(&self, handler: &str, over: Value) -> String {
        self.start(handler, "exec sleep 100000", json!({}), over)
    }

    /// The container's cgroup.
    pub(crate) fn cgroup(&self, id: &str) -> PathBuf {
        let pid = self.crictl.json(&["inspect", id])["info"]["pid"].as_u64().expect("it runs");
        let text = read(Path::new(&format!("/proc/{pid}/cgroup")));
        let path = text.strip_prefix("0::/").unwrap_or_else(|| panic!("not a cgroup of v2: {text}"));
        Path::new("/sys/fs/cgroup").join(path)
    }
}

fn with_driver(builder: DaemonBuilder, systemd: bool) -> DaemonBuilder {
    let driver = if systemd { "systemd" } else { "cgroupfs" };
    builder.builtin_network().args(&["--cgroup-driver", driver])
}

/// Runs systemctl; what it says.
#[track_caller]
pub(crate) fn systemctl(args: &[&str]) -> String {
    run(Command::new("systemctl").args(args)).ok()
}

/// A property of a unit, as systemd tells it.
#[track_caller]
pub(crate) fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit]).trim().to_owned()
}

/// A file's text without the newline at its end.
pub(crate) fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim_end().to_owned()
}
