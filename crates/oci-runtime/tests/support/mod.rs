//! Bundles from busybox, the runtimes under test, and taking everything away again.
#![allow(dead_code, reason = "each test program uses a part of it")]

use gantry_cgroup::{Cgroup, Hierarchies};
use gantry_sys::pidfd::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A command that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(60);

/// What a command of a runtime did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The output of a command that succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// A runtime under test, with a state directory of its own.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    program: PathBuf,
    _sealed: Option<OwnedFd>,
    state: tempfile::TempDir,
}

impl Runtime {
    /// Ours, run from a sealed memory file as the monitor does.
    pub(crate) fn embedded() -> Self {
        let sealed =
            gantry_sys::memfd::seal_program(Path::new(env!("CARGO_BIN_EXE_gantry-runtime"))).unwrap();
        let program = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), sealed.as_raw_fd()));
        Self { name: "embedded", program, _sealed: Some(sealed), state: tempfile::tempdir().unwrap() }
    }

    /// Debian's runc, what ours is compared with. It has to be installed.
    pub(crate) fn runc() -> Self {
        let program = ["/usr/sbin/runc", "/usr/bin/runc"].map(PathBuf::from);
        let found = program.into_iter().find(|p| p.is_file()).expect("runc is not installed");
        Self { name: "runc", program: found, _sealed: None, state: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn both() -> [Self; 2] {
        [Self::embedded(), Self::runc()]
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.path().join("state")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.state.path().join("log")
    }

    /// Log lines since the last call.
    pub(crate) fn take_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        std::fs::write(self.log(), "").unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l:?}: {e}"))).collect()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(self.state_dir())
            .arg("--log")
            .arg(self.log())
            .args(["--log-format", "json"]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Outcome {
        let mut command = self.command();
        command.args(args);
        finish(command)
    }
}

impl Runtime {
    /// Runs a command whose container or process stays: its output goes to `out` and `out.err`.
    #[track_caller]
    pub(crate) fn launch<S: AsRef<std::ffi::OsStr>>(&self, args: &[S], out: &Path) -> Outcome {
        let open = |path: &Path| std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let errors = out.with_extension("err");
        let mut command = self.command();
        let child = command.args(args).stdout(open(out)).stderr(open(&errors)).spawn();
        let code = await_child(child.unwrap(), &command);
        let stderr = std::fs::read_to_string(errors).unwrap();
        Outcome { code, stdout: std::fs::read_to_string(out).unwrap(), stderr }
    }

    /// The state of a container, as printed.
    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.run(&["state", id]).ok()).unwrap()
    }

    /// The first process of a container.
    #[track_caller]
    pub(crate) fn init(&self, id: &str) -> Process {
        Process::open(self.state(id)["pid"].as_i64().unwrap() as i32).unwrap()
    }
}

#[track_caller]
fn await_child(mut child: std::process::Child, command: &Command) -> Option<i32> {
    let ended = ends(&Process::open(child.id() as i32).unwrap());
    if !ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(ended, "{command:?} did not end");
    status.code()
}

/// Runs a command to its end, reading all it says; one that hangs is killed and fails the test.
#[track_caller]
pub(crate) fn finish(mut command: Command) -> Outcome {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let code = await_child(child, &command);
    Outcome { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits until a process has exited; false when it takes too long.
pub(crate) fn ends(process: &Process) -> bool {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// Text of a FIFO's writers, until the last has closed it.
pub(crate) fn read_fifo(path: &Path) -> String {
    let mut text = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// A busybox root file system with a configuration that asks for little.
#[derive(Debug)]
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
    pub(crate) spec: Value,
    pub(crate) id: String,
    pub(crate) cgroup: String,
}

impl Bundle {
    /// A container that runs `script` with busybox's shell.
    pub(crate) fn new(script: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        for sub in ["bin", "proc", "sys", "dev", "etc", "tmp", "root", "data"] {
            std::fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        std::fs::copy("/usr/bin/busybox", rootfs.join("bin/busybox"))
            .expect("busybox-static is not installed");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(rootfs.join("etc/group"), "root:x:0:\n").unwrap();
        let id = format!("c{}-{number}", std::process::id());
        let cgroup = format!("/gantry-test-{}-{number}/{id}", std::process::id());
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "cwd": "/",
                "env": ["PATH=/bin"], "capabilities": caps(&["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"]),
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            ],
            "linux": {
                "cgroupsPath": cgroup,
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                               {"type": "network"}],
            },
        });
        Self { dir, spec, id, cgroup }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// Changes the configuration.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Writes `config.json` and gives the arguments `<command> --bundle <dir> <more> <id>`.
    pub(crate) fn args(&self, command: &str, more: &[&str]) -> Vec<String> {
        std::fs::write(self.dir().join("config.json"), self.spec.to_string()).unwrap();
        let mut args = vec![command.to_owned(), "--bundle".to_owned(), self.dir().display().to_string()];
        args.extend(more.iter().map(|m| (*m).to_owned()));
        args.push(self.id.clone());
        args
    }

    /// Runs it in the foreground and takes away what a failure leaves.
    pub(crate) fn run(&self, runtime: &Runtime) -> Outcome {
        let outcome = runtime.run(&self.args("run", &[]));
        if outcome.code != Some(0) {
            runtime.run(&["delete", "--force", &self.id]);
        }
        outcome
    }

    /// The container's file `file` of `controller` on the host.
    pub(crate) fn limit(&self, controller: &str, file: &str) -> String {
        let path =
            Path::new("/sys/fs/cgroup").join(controller).join(self.cgroup.trim_start_matches('/')).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    /// Whether the container's cgroup exists in any hierarchy.
    pub(crate) fn has_cgroup(&self) -> bool {
        let relative = self.cgroup.trim_start_matches('/');
        Hierarchies::detect().unwrap().mounts().any(|m| m.join(relative).exists())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let hierarchies = Hierarchies::detect().unwrap();
        let cgroup = Cgroup::new(&hierarchies, &self.cgroup).unwrap();
        cgroup.kill(LIMIT).unwrap();
        cgroup.remove().unwrap();
        let parent = self.cgroup.rsplit_once('/').unwrap().0;
        hierarchies.remove_if_empty(parent).unwrap();
    }
}

/// The same set for everything but inheritable and ambient.
pub(crate) fn caps(names: &[&str]) -> Value {
    json!({"bounding": names, "effective": names, "permitted": names})
}

const APPLETS: [&str; 30] = [
    "sh", "sleep", "cat", "ls", "id", "env", "echo", "mount", "umount", "grep", "head", "stat", "touch",
    "mkdir", "true", "false", "hostname", "pwd", "readlink", "mknod", "kill", "tr", "sort", "cut", "test",
    "chmod", "dd", "unshare", "wc", "printf",
];
