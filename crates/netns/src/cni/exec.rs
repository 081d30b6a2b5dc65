//! Running one plugin: bounded in time and output, and killed with everything that it started.

use gantry_sys::pidfd::Process;
use gantry_sys::watched::Watched;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Most that a plugin may print: results are a few hundred bytes.
const MAX_STDOUT: usize = 1 << 20;

/// What is kept of its standard error.
const MAX_STDERR: usize = 16 << 10;

/// Most bytes that a pipe holds after its writer has ended.
const MAX_PIPE: usize = 1 << 20;

/// How long a killed plugin may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// One call of a plugin.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) program: PathBuf,
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) stdin: Vec<u8>,
    /// Name of its standard input, by which a later daemon finds it; see [`super::orphans`].
    pub(crate) mark: String,
    pub(crate) limit: Duration,
}

/// How a call can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The program did not run at all.
    NotStarted(String),
    /// It was killed after its time.
    TimedOut(Duration),
    /// It printed too much, and was killed.
    TooMuch,
    /// It was killed by somebody else.
    Signal(i32),
    /// It ended with an exit code that is not 0; what it printed tells why.
    Exit { code: i32, stdout: Vec<u8>, stderr: Vec<u8> },
    /// The daemon could not follow it.
    Lost(String),
}

/// What it printed, and whether that was too much.
struct Printed {
    kept: Vec<u8>,
    overflow: bool,
}

/// Runs a plugin and returns what it printed.
pub(crate) async fn run(exec: Exec) -> Result<Vec<u8>, Failure> {
    let limit = exec.limit;
    let spawned = tokio::task::spawn_blocking(move || spawn(&exec)).await;
    let (running, stdout, stderr) = spawned.map_err(|e| Failure::Lost(e.to_string()))??;
    let (ended, end) = watch::channel(false);
    let exit = async {
        let result = running.exited().await;
        ended.send_replace(true);
        result
    };
    let stdout = async {
        let printed = drain(stdout, MAX_STDOUT, end.clone()).await;
        if printed.overflow { Err(Failure::TooMuch) } else { Ok(printed.kept) }
    };
    let stderr = async { Ok(drain_all(stderr, end.clone()).await) };
    let work = async { tokio::try_join!(exit, stdout, stderr) };
    let outcome = tokio::time::timeout(limit, work).await;
    let (status, stdout, stderr) = match outcome {
        Ok(Ok(done)) => done,
        Ok(Err(failure)) => {
            running.kill().await;
            return Err(failure);
        }
        Err(_) => {
            running.kill().await;
            return Err(Failure::TimedOut(limit));
        }
    };
    match status {
        Status::Code(0) => Ok(stdout),
        Status::Code(code) => Err(Failure::Exit { code, stdout, stderr }),
        Status::Signal(signal) => {
            // Whoever killed it may have left what it had started.
            running.kill().await;
            Err(Failure::Signal(signal))
        }
    }
}

fn spawn(exec: &Exec) -> Result<(Running, pipe::Receiver, pipe::Receiver), Failure> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| Failure::NotStarted(format!("{what}: {e}"))
    };
    let stdin = input(&exec.mark, &exec.stdin).map_err(io("make its standard input"))?;
    let (out, out_end) = std::io::pipe().map_err(io("make a pipe"))?;
    let (err, err_end) = std::io::pipe().map_err(io("make a pipe"))?;
    let out = pipe::Receiver::from_owned_fd(out.into()).map_err(io("watch a pipe"))?;
    let err = pipe::Receiver::from_owned_fd(err.into()).map_err(io("watch a pipe"))?;
    let mut command = Command::new(&exec.program);
    command.envs(exec.env.iter().map(|(k, v)| (*k, v.as_str()))).current_dir("/").process_group(0);
    command.stdin(stdin).stdout(Stdio::from(out_end)).stderr(Stdio::from(err_end));
    let child = command.spawn().map_err(io(&format!("run {}", exec.program.display())))?;
    let process = Process::open(child.id().cast_signed());
    let running = Running { child: Some(child), process: process.ok() };
    Ok((running, out, err))
}

/// The configuration as a file in memory: a plugin that never reads it cannot hold the daemon up.
fn input(mark: &str, bytes: &[u8]) -> std::io::Result<File> {
    let fd = rustix::fs::memfd_create(mark, rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

enum Status {
    Code(i32),
    Signal(i32),
}

/// A plugin that runs; dropped, it is killed with its process group.
struct Running {
    child: Option<Child>,
    process: Option<Process>,
}

impl Running {
    /// Waits for the end without reaping, so that its process group keeps its number until [`Drop`].
    async fn exited(&self) -> Result<Status, Failure> {
        let lost = |e: &dyn std::fmt::Display| Failure::Lost(e.to_string());
        let process = self.process.as_ref().ok_or_else(|| lost(&"it cannot be watched (pidfd_open)"))?;
        wait(process).await.map_err(|e| lost(&e))?;
        let pid = Pid::from_raw(process.pid()).ok_or_else(|| lost(&"it has no pid"))?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(pid), options).map_err(|e| lost(&e))?;
        let status = status.ok_or_else(|| lost(&"its end cannot be read"))?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ok(Status::Code(code)),
            (None, signal) => Ok(Status::Signal(signal.unwrap_or_default())),
        }
    }

    /// Kills the process group and waits for its leader.
    async fn kill(&self) {
        self.signal_group();
        if let Some(process) = &self.process {
            // One that waits in the kernel is reaped later.
            let _late = tokio::time::timeout(KILL_LIMIT, wait(process)).await;
        }
    }

    fn signal_group(&self) {
        let pid = self.child.as_ref().and_then(|c| Pid::from_raw(c.id().cast_signed()));
        if let Some(pid) = pid {
            // Nobody left in the group is as wanted.
            let _gone = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.process.as_ref().is_some_and(Process::has_exited);
        if !ended {
            self.signal_group();
        }
        let Some(mut child) = self.child.take() else { return };
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Killed a moment ago: it is reaped where nobody waits.
        let reaper = std::thread::Builder::new().name("cni-reaper".into());
        let _no_thread = reaper.spawn(move || child.wait());
    }
}

/// Waits until a process has exited.
pub(crate) async fn wait(process: &Process) -> Result<(), gantry_sys::Error> {
    let fd = process.as_fd().try_clone_to_owned();
    let fd: OwnedFd = fd.map_err(|e| gantry_sys::Error::from_io("dup", "pidfd", &e))?;
    Watched::new(fd, Interest::READABLE)?.readable().await
}

/// Reads until the end of the stream or of the program; stops at `max`.
async fn drain(mut stream: pipe::Receiver, max: usize, mut end: watch::Receiver<bool>) -> Printed {
    let mut printed = Printed { kept: Vec::new(), overflow: false };
    let mut buffer = vec![0; 16 << 10];
    let keep = |printed: &mut Printed, bytes: &[u8]| {
        let room = max - printed.kept.len();
        printed.overflow |= bytes.len() > room;
        printed.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    };
    while !printed.overflow {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => keep(&mut printed, &buffer[..n]),
                _ => return printed,
            },
            _ = end.wait_for(|ended| *ended) => break,
        }
    }
    // Read directly: the reactor may not have heard of the last bytes yet. What a child of the plugin
    // that keeps the stream open writes is not waited for.
    let mut left = MAX_PIPE;
    while left > 0 && !printed.overflow {
        match rustix::io::read(&stream, &mut buffer) {
            Ok(n) if n > 0 => {
                keep(&mut printed, &buffer[..n]);
                left = left.saturating_sub(n);
            }
            _ => break,
        }
    }
    printed
}

/// The first bytes of a stream, all of which is read: a plugin that says much is not held up.
async fn drain_all(mut stream: pipe::Receiver, mut end: watch::Receiver<bool>) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 4 << 10];
    loop {
        let ended = tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    kept.extend_from_slice(&buffer[..n.min(MAX_STDERR - kept.len())]);
                    false
                }
                _ => return kept,
            },
            _ = end.wait_for(|ended| *ended) => true,
        };
        if ended {
            while let Ok(n) = rustix::io::read(&stream, &mut buffer)
                && n > 0
                && kept.len() < MAX_STDERR
            {
                kept.extend_from_slice(&buffer[..n.min(MAX_STDERR - kept.len())]);
            }
            return kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn exec(dir: &Path, script: &str, limit: Duration) -> Exec {
        let program = dir.join("plugin");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = vec![("CNI_COMMAND", "ADD".to_owned())];
        Exec { program, env, stdin: b"{\"a\": 1}".to_vec(), mark: "gantry-cni:test:p".into(), limit }
    }

    const LONG: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn a_plugin_reads_its_configuration_and_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let output = run(exec(dir.path(), "echo $CNI_COMMAND; cat; echo noise >&2", LONG)).await.unwrap();
        assert_eq!(output, b"ADD\n{\"a\": 1}");
        let failure = run(exec(dir.path(), "echo out; echo err >&2; exit 3", LONG)).await.unwrap_err();
        assert_eq!(failure, Failure::Exit { code: 3, stdout: b"out\n".into(), stderr: b"err\n".into() });
        assert_eq!(run(exec(dir.path(), "kill -9 $$", LONG)).await.unwrap_err(), Failure::Signal(9));
        let mut missing = exec(dir.path(), "", LONG);
        missing.program = dir.path().join("missing");
        assert!(matches!(run(missing).await.unwrap_err(), Failure::NotStarted(_)));
    }

    #[tokio::test]
    async fn what_it_leaves_running_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        // The child holds the streams open until the test lets it go.
        let gate = dir.path().join("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &gate, 0o600.into()).unwrap();
        let script = format!("(cat {} >/dev/null) & echo done", gate.display());
        assert_eq!(run(exec(dir.path(), &script, LONG)).await.unwrap(), b"done\n");
        drop(File::options().write(true).open(&gate).unwrap());
    }

    #[tokio::test]
    async fn too_much_output_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let failure = run(exec(dir.path(), "exec cat /dev/zero", LONG)).await.unwrap_err();
        assert_eq!(failure, Failure::TooMuch);
        let much_noise = "head -c 3000000 /dev/zero >&2; echo ok";
        assert_eq!(run(exec(dir.path(), much_noise, LONG)).await.unwrap(), b"ok\n");
    }

    #[tokio::test]
    async fn time_out_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, pids) = (dir.path().join("gate"), dir.path().join("pids"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &gate, 0o600.into()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pids, 0o600.into()).unwrap();
        let script = format!("sh -c 'echo $$ > {}; exec cat {}' & wait", pids.display(), gate.display());
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(pids).unwrap());
        let call = run(exec(dir.path(), &script, Duration::from_secs(2)));
        let (result, pid) = tokio::join!(call, read);
        assert_eq!(result.unwrap_err(), Failure::TimedOut(Duration::from_secs(2)));
        let pid: i32 = pid.unwrap().trim().parse().unwrap();
        if let Ok(child) = Process::open(pid) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(
                !stat.contains("gate") || child.has_exited() || {
                    wait(&child).await.unwrap();
                    true
                }
            );
        }
    }
}
