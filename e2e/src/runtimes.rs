//! OCI runtimes that need help to run on the machine of the tests.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Handlers that every daemon of the tests has, and that can do the same.
pub const HANDLERS: [&str; 3] = ["embedded", "runc", "crun"];

/// gVisor's `runsc`: `$GANTRY_RUNSC`, else Debian's through a script in `dir`.
///
/// Debian's (of 2022) takes every network namespace for the host's on newer kernels, by a file that these
/// show everywhere; the script hides it from the runtime, in a mount namespace of its own.
pub fn runsc(dir: &Path) -> PathBuf {
    if let Some(path) = std::env::var_os("GANTRY_RUNSC") {
        return path.into();
    }
    installed("/usr/bin/runsc");
    script(
        dir,
        "runsc",
        "mount --make-rslave /proc && mount -t tmpfs -o ro none /proc/sys/net && exec /usr/bin/runsc \"$@\"",
    )
}

/// `crun`, on hosts with hybrid control groups through a script in `dir`.
///
/// crun 1.8 refuses such hosts; the script hides the cgroup2 mount from the runtime, in a mount namespace
/// of its own, and leaves it the v1 controllers.
pub(crate) fn crun(dir: &Path) -> PathBuf {
    let program = installed("/usr/bin/crun");
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        return program;
    }
    script(
        dir,
        "crun",
        "mount --make-rslave /sys && umount /sys/fs/cgroup/unified && exec /usr/bin/crun \"$@\"",
    )
}

fn installed(path: &str) -> PathBuf {
    assert!(Path::new(path).is_file(), "{path} is missing: run e2e/setup.sh");
    path.into()
}

/// Runs `body` in a mount namespace of its own. Mounts travel as they do without it (containers may share
/// theirs with the host), so `body` cuts off what it changes first.
fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(format!("{name}.sh"));
    let text = format!("#!/bin/sh\nexec unshare -m --propagation unchanged sh -c '{body}' {name} \"$@\"\n");
    std::fs::write(&path, text).expect("write a runtime's script");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("make a script executable");
    path
}
