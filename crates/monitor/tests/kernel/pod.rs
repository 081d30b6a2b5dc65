//! One pod for one test: a monitor from a sealed memfd as the daemon starts it, bundles of busybox, and
//! a client that waits for answers and events. Dropping it removes whatever it made.

use gantry_monitor_api::{
    Client, EVENT, Event, ExecRequest, ExitRecord, Failure, Hello, Namespaces, Process, Reply, Request,
    Setup, StartRequest, VERSION,
};
use gantry_sys::{memfd, pidfd, seqpacket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A test that hears nothing for this long hangs; it fails by name instead.
const PATIENCE: Timespec = Timespec { tv_sec: 90, tv_nsec: 0 };

/// Waits until `fd` is readable or has ended.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, what: &str) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    assert_ne!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 0, "hangs: {what}");
}

/// Waits for the end of a process that need not be our child.
pub(crate) fn wait_gone(process: Process) {
    if let Ok(process) = pidfd::Process::open_exact(process.pid, process.start_time) {
        wait_readable(process.as_fd(), "a process to end");
    }
}

/// The root file system of all containers: busybox and mount points. Stays in the target directory.
fn rootfs() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gantry-monitor-rootfs");
        for dir in ["bin", "proc", "dev", "tmp"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        let busybox = Command::new("busybox").arg("--list").output().expect("install busybox-static");
        if !root.join("bin/busybox").exists() {
            std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        }
        for applet in String::from_utf8(busybox.stdout).unwrap().lines().filter(|a| *a != "busybox") {
            let link = root.join("bin").join(applet);
            if link.symlink_metadata().is_err() {
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        root
    })
}

/// Connection and everything heard on it that nobody has asked for yet.
pub(crate) struct Ear {
    pub(crate) client: Client,
    next: Cell<u64>,
    heard: RefCell<Vec<(u64, Reply)>>,
}

impl Ear {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, next: Cell::new(EVENT + 1), heard: RefCell::default() }
    }

    pub(crate) fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> u64 {
        let id = self.next.get();
        self.next.set(id + 1);
        self.client.send(id, request, fds).unwrap();
        id
    }

    /// Waits for the first message that `pick` takes.
    pub(crate) fn wait<T>(&self, what: &str, mut pick: impl FnMut(u64, &Reply) -> Option<T>) -> T {
        let mut heard = self.heard.borrow_mut();
        let mut seen = 0;
        loop {
            while let Some((id, reply)) = heard.get(seen) {
                if let Some(found) = pick(*id, reply) {
                    heard.remove(seen);
                    return found;
                }
                seen += 1;
            }
            wait_readable(self.client.as_fd(), what);
            let message = self.client.receive().unwrap().unwrap_or_else(|| panic!("monitor left: {what}"));
            heard.push((message.id, message.body));
        }
    }

    pub(crate) fn answer(&self, id: u64, what: &str) -> Reply {
        self.wait(what, |n, reply| (n == id).then(|| reply.clone()))
    }

    pub(crate) fn ask(&self, request: &Request) -> Reply {
        self.answer(self.send(request, &[]), &format!("{request:?}"))
    }

    pub(crate) fn event<T>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        self.wait(what, |_, reply| if let Reply::Event(event) = reply { pick(event) } else { None })
    }

    pub(crate) fn exited(&self, id: &str) -> ExitRecord {
        self.event(&format!("exit of {id}"), |event| match event {
            Event::ContainerExited(record) if record.container_id == id => Some(record.clone()),
            _ => None,
        })
    }

    pub(crate) fn exec_exited(&self, id: &str) -> i32 {
        self.event(&format!("exit of session {id}"), |event| match event {
            Event::ExecExited(end) if end.exec_id == id => Some(end.exit_code),
            _ => None,
        })
    }
}

pub(crate) struct Pod {
    pub(crate) ear: Ear,
    pub(crate) dir: PathBuf,
    pub(crate) hello: Hello,
    pub(crate) monitor: Child,
    cgroup: String,
    containers: RefCell<Vec<String>>,
}

pub(crate) const NETWORKED: Namespaces = Namespaces { net: true, ipc: true, uts: true, pid: false };
pub(crate) const SHARED_PIDS: Namespaces = Namespaces { net: true, ipc: true, uts: true, pid: true };

/// The program under test: `GANTRY_MONITOR` names the static one, as it is shipped; else cargo's.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("GANTRY_MONITOR").map_or(env!("CARGO_BIN_EXE_gantry-monitor").into(), PathBuf::from)
}

/// A monitor that waits for its set-up, and the pod's directory.
pub(crate) fn spawn_monitor() -> (Client, Child, PathBuf) {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    assert!(rustix::process::geteuid().is_root(), "these tests make namespaces: run them as root");
    let program = PROGRAM.get_or_init(|| memfd::seal_program(&program()).unwrap());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("gantry-monitor-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (ours, theirs) = seqpacket::pair().unwrap();
    let log = File::options().create(true).append(true).open(dir.join("monitor.log")).unwrap();
    let monitor = Command::new(memfd::exec_path(program.as_fd()))
        .env_clear()
        .current_dir("/")
        .stdin(theirs)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    (Client::from_socket(ours), monitor, dir)
}

impl Pod {
    pub(crate) fn new() -> Self {
        Self::with(NETWORKED, |_| {})
    }

    pub(crate) fn with(namespaces: Namespaces, edit: impl FnOnce(&mut Setup)) -> Self {
        let (client, monitor, dir) = spawn_monitor();
        let cgroup = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let mut setup = Setup {
            version: VERSION,
            pod_id: cgroup.clone(),
            pod_dir: dir.clone(),
            namespaces,
            user_namespace: None,
            hostname: namespaces.uts.then(|| "pod".to_owned()),
            sysctls: Vec::new(),
            pause_oom_score_adj: -998,
        };
        edit(&mut setup);
        let ear = Ear::new(client);
        let hello = match ear.ask(&Request::Setup(setup)) {
            Reply::Hello(hello) => hello,
            other => panic!("{other:?}; {}", std::fs::read_to_string(dir.join("monitor.log")).unwrap()),
        };
        Self { ear, dir, hello, monitor, cgroup: format!("/{cgroup}"), containers: RefCell::default() }
    }

    pub(crate) fn pause(&self) -> i32 {
        self.hello.pause.unwrap().pid
    }

    pub(crate) fn runtime(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let runtime = std::env::var("OCI_RUNTIME").unwrap_or_else(|_| "runc".into());
        [runtime.as_str(), "--root", &path("runc"), "--log-format", "json", "--log", &path("runc.log")]
            .map(str::to_owned)
            .to_vec()
    }

    /// Writes a bundle that runs `sh -c script` in the pod's namespaces.
    pub(crate) fn bundle(&self, id: &str, script: &str, edit: impl FnOnce(&mut Value)) -> StartRequest {
        let bundle = self.dir.join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        let path = |kind: &str| format!("/proc/{}/ns/{kind}", self.pause());
        let caps = json!(["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"]);
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
                "noNewPrivileges": true,
            },
            "root": {"path": rootfs(), "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.cgroup),
                "namespaces": [
                    {"type": "mount"}, {"type": "pid"},
                    {"type": "network", "path": path("net")},
                    {"type": "ipc", "path": path("ipc")},
                    {"type": "uts", "path": path("uts")},
                ],
            },
        });
        edit(&mut config);
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        self.containers.borrow_mut().push(id.to_owned());
        StartRequest {
            container_id: id.to_owned(),
            runtime: self.runtime(),
            runtime_log: self.dir.join("runc.log"),
            log_path: Some(bundle.join("0.log")),
            bundle,
            stdin: false,
            terminal: false,
            oom_counter: None,
            by_wait: false,
            timeout_ms: 60_000,
        }
    }

    pub(crate) fn start(&self, id: &str, script: &str) -> Process {
        self.start_with(self.bundle(id, script, |_| {}))
    }

    pub(crate) fn start_with(&self, request: StartRequest) -> Process {
        match self.ear.ask(&Request::Start(request)) {
            Reply::Started(started) => started.process,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn run(&self, id: &str, script: &str) -> ExitRecord {
        self.start(id, script);
        self.ear.exited(id)
    }

    /// The log of a container without its time stamps.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let text = std::fs::read(self.dir.join(id).join("0.log")).unwrap();
        text.split_inclusive(|b| *b == b'\n').map(log_line).collect()
    }

    pub(crate) fn exec_request(&self, container: &str, exec: &str, script: &str) -> ExecRequest {
        let process_file = self.dir.join(format!("{exec}.json"));
        let process = json!({
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        });
        std::fs::write(&process_file, process.to_string()).unwrap();
        ExecRequest {
            exec_id: exec.to_owned(),
            container_id: container.to_owned(),
            runtime: self.runtime(),
            runtime_log: self.dir.join("runc.log"),
            process_file,
            console_socket: None,
            options: Vec::new(),
            timeout_ms: 60_000,
        }
    }

    /// A script that plays the OCI runtime; it finds the pid file in `$pid_file`.
    pub(crate) fn fake_runtime(&self, name: &str, script: &str) -> Vec<String> {
        let path = self.dir.join(format!("runtime-{name}"));
        let parse = "while [ $# -gt 0 ]; do case $1 in --pid-file) pid_file=$2;; esac; shift; done";
        std::fs::write(&path, format!("{parse}\n{script}\n")).unwrap();
        // Not executed itself: a test on another thread may fork while the file is open for writing.
        vec!["/bin/sh".into(), path.display().to_string()]
    }

    /// A runtime whose process has ended with `code` before its pid is written: a shell would reap it.
    pub(crate) fn runtime_of_zombies(&self, code: i32, before: &str) -> Vec<String> {
        let perl = "$p = fork // die; exit $ARGV[1] if !$p; \
            do { open F, qq(/proc/$p/stat); $_ = <F> } until /\\) Z /; \
            open F, q(+<), $ARGV[0] or open F, q(>), $ARGV[0] or die; print F qq($p\n)";
        self.fake_runtime("zombies", &format!("{before}\nexec perl -e '{perl}' $pid_file {code}"))
    }

    pub(crate) fn failure(&self, request: &Request) -> Failure {
        match self.ear.ask(request) {
            Reply::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// A further connection that has said hello.
    pub(crate) fn dial(&self) -> (Ear, Hello) {
        let ear = Ear::new(Client::connect(&self.dir).unwrap());
        match ear.ask(&Request::Hello { version: VERSION }) {
            Reply::Hello(hello) => (ear, hello),
            other => panic!("{other:?}"),
        }
    }
}

/// `stdout F text` of a line of the log, after its time has been checked to be one.
fn log_line(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_suffix('\n').unwrap_or_else(|| panic!("torn: {text}"));
    let (time, rest) = text.split_once(' ').unwrap_or_else(|| panic!("torn: {text}"));
    let digits = time.bytes().filter(u8::is_ascii_digit).count();
    assert!(time.len() == 30 && digits == 23 && time.ends_with('Z'), "{text}");
    rest.to_owned()
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Orphans of a monitor that was killed are nobody's: the runtime knows them.
        for id in self.containers.borrow().iter() {
            let runtime = self.runtime();
            let deleted =
                Command::new(&runtime[0]).args(&runtime[1..]).args(["delete", "--force", id]).output();
            drop(deleted);
        }
        let _gone = self.monitor.kill();
        let _reaped = self.monitor.wait();
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = controller.path().join(&self.cgroup[1..]);
            for child in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                let _not_empty = std::fs::remove_dir(child.path());
            }
            let _none = std::fs::remove_dir(group);
        }
        if std::thread::panicking() {
            for name in ["monitor.log", "runc.log"] {
                eprintln!("{name}: {}", std::fs::read_to_string(self.dir.join(name)).unwrap_or_default());
            }
        }
        let _removed = std::fs::remove_dir_all(&self.dir);
    }
}
