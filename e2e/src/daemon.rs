//! A real `gantry serve` with directories and sockets of its own.

use crate::process::{pidfd, processes};
use crate::watch::wait_readable;
use crate::{Crictl, LIMIT, Output, Watch, dist, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// How a daemon is to be started.
#[derive(Debug, Clone)]
pub struct DaemonBuilder {
    dir: PathBuf,
    root: PathBuf,
    args: Vec<String>,
    /// `GANTRY_FAULT` of the next start.
    fault: Option<String>,
    env: Vec<(String, String)>,
    registries_conf: PathBuf,
}

impl DaemonBuilder {
    /// A daemon in `dir` that reaches registries as `registries_conf` says.
    pub fn new(dir: PathBuf, registries_conf: PathBuf) -> Self {
        let root = dir.join("root");
        Self { root, dir, args: Vec::new(), fault: None, env: Vec::new(), registries_conf }
    }

    /// Another place for images and writable layers.
    #[must_use]
    pub fn root(mut self, root: &Path) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Further arguments of `gantry serve`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// A further variable of the environment of `gantry serve`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives pods of the CRI the built-in network.
    #[must_use]
    pub fn builtin_network(self) -> Self {
        self.args(&["--cri-network", "builtin"])
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Daemon {
        std::fs::create_dir_all(&self.dir).expect("make the daemon's directory");
        let config = format!("registries_conf = {:?}\n", self.registries_conf.display().to_string());
        std::fs::write(self.dir.join("config.toml"), config).expect("write the daemon's configuration");
        let crun = format!("crun={}", crate::runtimes::crun(&self.dir).display());
        let setup = self.args(&["--runtime", &crun]);
        let mut daemon = Daemon { setup, child: None };
        daemon.restart();
        daemon
    }
}

/// A daemon that is taken away with all its pods when the test fails.
#[derive(Debug)]
pub struct Daemon {
    setup: DaemonBuilder,
    child: Option<Child>,
}

impl Daemon {
    /// The kubelet's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("gantry.sock")
    }

    /// crictl on the kubelet's socket.
    pub fn crictl(&self) -> Crictl {
        Crictl::new(&self.dir().join("gantry.sock"), self.dir())
    }

    /// crictl on the socket of the command line, where the local realm is.
    pub fn local_crictl(&self) -> Crictl {
        Crictl::new(&self.dir().join("local.sock"), self.dir())
    }

    /// Runs `gantry` against this daemon.
    #[track_caller]
    pub fn gantry(&self, args: &[&str]) -> Output {
        run(&mut self.gantry_command(args))
    }

    /// `gantry` against this daemon, to be run otherwise.
    pub fn gantry_command(&self, args: &[&str]) -> Command {
        let socket = format!("unix://{}", self.dir().join("local.sock").display());
        let mut command = Command::new(dist().join("gantry"));
        command.args(["--socket", &socket]).args(args);
        command
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.setup.dir
    }

    /// Its run directory (`--run-dir`).
    pub fn run_dir(&self) -> PathBuf {
        self.setup.dir.join("run")
    }

    /// Its root (`--root`).
    pub fn root(&self) -> &Path {
        &self.setup.root
    }

    /// Its process id. Panics when it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// The kernel ends it, as an OOM kill would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill the daemon");
        child.wait().expect("wait for the daemon");
    }

    /// Starts it again so that it dies at `fault` (`push:3:after`).
    #[track_caller]
    pub fn restart_to_die(&mut self, fault: &str) {
        self.setup.fault = Some(fault.to_owned());
        self.restart();
        self.setup.fault = None;
    }

    /// Waits for the end that a fault brings. Panics when it ends in any other way.
    #[track_caller]
    pub fn wait_killed(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        let fd = pidfd(child.id());
        if !fd.is_none_or(|fd| wait_readable(&[&fd], LIMIT)) {
            self.child = Some(child);
            panic!("the daemon did not die at its fault:\n{}", self.log());
        }
        let status = child.wait().expect("wait for the daemon");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{}", self.log());
    }

    /// Starts it again, with the same options, and waits until it answers.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let dir = self.setup.dir.clone();
        let (pid_file, log) = (dir.join("pid"), dir.join("log"));
        let _old = std::fs::remove_file(&pid_file);
        let watch = Watch::new(&[&dir]);
        let child = self.spawn(&pid_file, &log);
        let id = child.id().to_string();
        let pidfd = pidfd(child.id());
        self.child = Some(child);
        let ready = watch.until_or("the daemon is ready", pidfd.as_ref(), || {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            (text.trim() == id).then_some(())
        });
        assert!(ready.is_some(), "gantry serve ended before it was ready:\n{}", self.log());
    }

    fn spawn(&self, pid_file: &Path, log: &Path) -> Child {
        let setup = &self.setup;
        let log = File::options().create(true).append(true).open(log).expect("open the daemon's log");
        let socket = |name: &str| format!("unix://{}", setup.dir.join(name).display());
        let mut command = Command::new(dist().join("gantry"));
        command.arg("serve").arg("--config").arg(setup.dir.join("config.toml"));
        command.arg("--root").arg(&setup.root).arg("--run-dir").arg(self.run_dir());
        command.args(["--listen", &socket("gantry.sock"), "--local-listen", &socket("local.sock")]);
        command.arg("--pid-file").arg(pid_file).args(["--log-level", "debug"]).args(&setup.args);
        command.env_remove("GANTRY_FAULT").envs(setup.fault.iter().map(|f| ("GANTRY_FAULT", f)));
        command.envs(setup.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"))
    }

    /// Asks it to end, as systemd does, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        let fd = pidfd(child.id());
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("signal the daemon");
        let in_time = fd.is_none_or(|fd| wait_readable(&[&fd], LIMIT));
        if !in_time {
            child.kill().expect("kill the daemon");
        }
        let status = child.wait().expect("wait for the daemon");
        assert!(in_time, "the daemon did not end after SIGTERM:\n{}", self.log());
        status
    }

    /// Ends it; panics unless it ends well and takes its run directory with it.
    #[track_caller]
    pub fn end(mut self) {
        let status = self.terminate();
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
        let left =
            std::fs::read_dir(self.run_dir()).map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>());
        assert!(left.is_err(), "left in the run directory: {left:?}\n{}", self.log());
    }

    fn pod_ids(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.run_dir().join("pods")) else { return Vec::new() };
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Takes away what a failed test left, without the daemon's help.
    fn sweep(&self) {
        let ids = self.pod_ids();
        let concerns = |text: &str| ids.iter().any(|id| text.contains(id.as_str()));
        for process in processes().iter().filter(|p| concerns(&p.cgroups)) {
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
            let gone = pidfd(process.pid);
            // What is gone already is as wanted.
            let _gone = pid.map(|pid| kill_process(pid, Signal::KILL));
            if let Some(fd) = gone {
                wait_readable(&[&fd], LIMIT);
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|p| Path::new(p).starts_with(self.dir()));
        for point in points.collect::<Vec<_>>().into_iter().rev() {
            let _gone = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        remove_cgroups(Path::new("/sys/fs/cgroup"), &concerns);
    }
}

fn remove_cgroups(dir: &Path, concerns: &impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()) {
        remove_cgroups(&path, concerns);
        if concerns(&path.display().to_string()) {
            let _busy = std::fs::remove_dir(&path);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- end of the daemon's log ({})\n{tail}\n---", self.dir().display());
            let alive = self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)));
            if alive {
                for crictl in [self.crictl(), self.local_crictl()] {
                    let list = crictl.run(&["pods", "--quiet"]);
                    let ids: Vec<&str> = list.stdout.split_whitespace().collect();
                    if !ids.is_empty() {
                        crictl.run(&[&["rmp", "--force"], ids.as_slice()].concat());
                    }
                }
            }
        }
        if let Some(child) = &self.child {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _gone = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        if let Some(mut child) = self.child.take() {
            if !pidfd(child.id()).is_none_or(|fd| wait_readable(&[&fd], LIMIT)) {
                let _gone = child.kill();
            }
            let _status = child.wait();
        }
        self.sweep();
    }
}
