//! ExecSync: run a command in a container and return what it wrote.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{Kind, io_error};
use crate::flight::detached;
use crate::monitor::Monitor;
use crate::pod::Pod;
use crate::record::ContainerState;
use crate::{Error, Realm, Result, spec};
use gantry_monitor_api::{ExecRequest, Reply, Request};
use gantry_stage::Stage;
use gantry_sys::console::ConsoleSocket;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

/// Most bytes of each stream that ExecSync returns (as the kubelet's other runtimes do); more is read and dropped.
pub const MAX_EXEC_OUTPUT: usize = 16 << 20;

/// Most bytes that a pipe holds (pipe(7), `fs.pipe-max-size`'s default).
const MAX_PIPE: usize = 1 << 20;

/// How long the OCI runtime may take to start the command.
const SPAWN_LIMIT: Duration = Duration::from_secs(60);

/// Exit code of a command that was killed because its time was up.
const TIMED_OUT: i32 = -1;

/// What a command wrote and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, cut at [`MAX_EXEC_OUTPUT`].
    pub stdout: Vec<u8>,
    /// Standard error, cut at [`MAX_EXEC_OUTPUT`].
    pub stderr: Vec<u8>,
    /// Exit status, 128 plus the signal's number, or -1 when the time was up.
    pub exit_code: i32,
}

impl Engine {
    /// Runs `command` in a running container; `timeout` in seconds, 0 for none.
    ///
    /// A command that exceeds the time is killed with what it started; that is a result (exit code -1
    /// and "command timed out" on stderr), not an error.
    pub async fn exec_sync(
        &self,
        realm: Realm,
        id: &str,
        command: Vec<String>,
        timeout: i64,
    ) -> Result<ExecOutput> {
        let container = self.inner.container(realm, id)?;
        if command.is_empty() || command[0].is_empty() {
            let message = format!("container {}: the command to execute is empty", container.id);
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let limit = u64::try_from(timeout).ok().filter(|t| *t > 0).map(Duration::from_secs);
        let inner = self.inner.clone();
        detached(async move {
            let result = run(&inner, &container, &command, limit).await;
            result.map_err(|e| e.context(format!("exec in container {}", container.id)))
        })
        .await
    }
}

async fn run(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    command: &[String],
    limit: Option<Duration>,
) -> Result<ExecOutput> {
    let pipe = || std::io::pipe().map_err(|e| Error::internal(&e).context("make a pipe"));
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let null = Path::new("/dev/null");
    let stdin = File::open(null).map_err(io_error("open", null))?;
    let (stdout, stderr) = (receiver(stdout.into())?, receiver(stderr.into())?);
    let fds = [stdin.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()];
    let (running, _) = launch(inner, container, command, fds, false).await?;
    // Ours are the last copies outside the command: with them gone its end of file is seen.
    drop((stdout_end, stderr_end, stdin));
    let Running { monitor, exec_id, exited, expected: _expected, files } = running;
    let session = Stage::ExecCommand.run(collect(stdout, stderr, exited));
    let Some(limit) = limit else { return session.await };
    match tokio::time::timeout(limit, session).await {
        Ok(output) => output,
        Err(_) => {
            kill(inner, container, &monitor, exec_id, &files).await?;
            tracing::info!(container = %container.id, seconds = limit.as_secs(), "exec timed out and was killed");
            Ok(ExecOutput {
                exit_code: TIMED_OUT,
                stderr: b"command timed out".to_vec(),
                ..Default::default()
            })
        }
    }
}

/// A command that runs in a container.
pub(crate) struct Running {
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) exec_id: String,
    /// Its exit code; an error when the monitor went away.
    pub(crate) exited: oneshot::Receiver<i32>,
    /// Forgotten when nobody waits any more.
    pub(crate) expected: Expectation,
    /// Deleted with the value.
    pub(crate) files: ExecFiles,
}

/// Kills a command and what can be told to be its own.
pub(crate) async fn kill(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    monitor: &Monitor,
    exec_id: String,
    files: &ExecFiles,
) -> Result<()> {
    if container.pod.is_sandboxed() {
        inner.kill_exec_in_sandbox(container, &files.inner_pid).await?;
    }
    monitor.order(Request::KillExec { exec_id }).await
}

/// Starts `command` with `fds` as its standard streams, or on a terminal, which is returned then.
pub(crate) async fn launch(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    command: &[String],
    fds: [BorrowedFd<'_>; 3],
    terminal: bool,
) -> Result<(Running, Option<OwnedFd>)> {
    let pod = &container.pod;
    let state = container.record().state;
    let monitor = match pod.monitor() {
        Some(monitor) if state == ContainerState::Running => monitor,
        _ => return Err(Error::new(Kind::FailedPrecondition, "the container does not run")),
    };
    let handler = inner.handlers.get(&pod.record().handler)?;
    let exec_id = crate::id::new_id()?[..16].to_owned();
    let files = ExecFiles::new(pod, &exec_id);
    write_process(&container.dir, &files.process, command, terminal)?;
    let console = match terminal {
        true => Some(ConsoleSocket::bind(&pod.dir, &format!("exec-{exec_id}.sock"))?),
        false => None,
    };
    let exited = pod.expect_exec(&exec_id);
    let expected = Expectation { pod: pod.clone(), id: exec_id.clone() };
    let request = Request::Exec(ExecRequest {
        exec_id: exec_id.clone(),
        container_id: container.id.clone(),
        runtime: handler.command(&pod.runtime_root(), &files.log),
        runtime_log: files.log.clone(),
        process_file: files.process.clone(),
        console_socket: console.as_ref().map(ConsoleSocket::short_path),
        options: match pod.is_sandboxed() {
            true => vec!["--internal-pid-file".into(), files.inner_pid.display().to_string()],
            false => Vec::new(),
        },
        timeout_ms: SPAWN_LIMIT.as_millis() as u64,
    });
    let asking = monitor.ask(&request, &fds, SPAWN_LIMIT + Duration::from_secs(10));
    match Stage::ExecRuntime.run(asking).await? {
        Reply::Started(_) => {}
        other => return Err(Error::new(Kind::Internal, format!("monitor answered {other:?} to an exec"))),
    }
    let terminal = match console.map(|console| console.receive()).transpose() {
        Ok(terminal) => terminal,
        Err(error) => {
            // Nobody can see what it does or type to it.
            monitor.order(Request::KillExec { exec_id }).await?;
            return Err(Error::from(error).context("the OCI runtime sent no terminal"));
        }
    };
    Ok((Running { monitor, exec_id, exited, expected, files }, terminal))
}

/// Reads both streams until the command has ended and they are empty. What the command left running
/// with the streams open is not waited for.
async fn collect(
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    exited: oneshot::Receiver<i32>,
) -> Result<ExecOutput> {
    let (ended, end) = watch::channel(false);
    let exit = async {
        let code = exited.await;
        ended.send_replace(true);
        code
    };
    let (code, stdout, stderr) = tokio::join!(exit, drain(stdout, end.clone()), drain(stderr, end));
    let lost = |_| Error::new(Kind::Unavailable, "the monitor went away before it told the command's end");
    Ok(ExecOutput { exit_code: code.map_err(lost)?, stdout, stderr })
}

async fn drain(mut stream: pipe::Receiver, mut end: watch::Receiver<bool>) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
        let room = MAX_EXEC_OUTPUT - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    };
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => keep(&mut kept, &buffer[..n]),
                // End of file; a pipe has no other failure to report.
                _ => return kept,
            },
            _ = end.wait_for(|ended| *ended) => break,
        }
    }
    // What the command wrote before it ended is in the pipe, and a pipe holds no more than this. The
    // descriptor is read directly: the reactor may not have heard of the last bytes yet.
    let mut left = MAX_PIPE;
    while left > 0 {
        match rustix::io::read(&stream, &mut buffer) {
            Ok(n) if n > 0 => {
                keep(&mut kept, &buffer[..n]);
                left = left.saturating_sub(n);
            }
            _ => break,
        }
    }
    kept
}

fn receiver(end: OwnedFd) -> Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(end).map_err(|e| Error::internal(&e).context("watch a pipe"))
}

/// The command as an OCI process: the container's own, with other arguments.
fn write_process(bundle: &Path, file: &Path, command: &[String], terminal: bool) -> Result<()> {
    let config: serde_json::Value = crate::record::read_json(&bundle.join("config.json"))?;
    let process = config
        .get("process")
        .ok_or_else(|| Error::new(Kind::Internal, "the container's bundle has no process"))?;
    crate::record::write_json(file, &spec::exec_process(process, command, terminal))
}

/// Files of one session, in the pod's directory; gone with the value.
pub(crate) struct ExecFiles {
    process: PathBuf,
    log: PathBuf,
    /// Where a runtime with a kernel of its own tells the pid in the container.
    inner_pid: PathBuf,
}

impl ExecFiles {
    pub(crate) fn new(pod: &Pod, id: &str) -> Self {
        let file = |kind: &str| pod.dir.join(format!("exec-{id}.{kind}"));
        Self { process: file("json"), log: file("log"), inner_pid: file("inner-pid") }
    }
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        for file in [&self.process, &self.log, &self.inner_pid] {
            // Left over they only cost their bytes until the pod is removed.
            let _gone = std::fs::remove_file(file);
        }
    }
}

/// A session whose end is waited for; forgotten with the value.
pub(crate) struct Expectation {
    pod: Arc<Pod>,
    id: String,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.pod.forget_exec(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[tokio::test]
    async fn output_is_whole_even_if_a_child_keeps_the_pipe_open() {
        let (out, mut out_end) = std::io::pipe().unwrap();
        let (err, err_end) = std::io::pipe().unwrap();
        let (tell, told) = oneshot::channel();
        out_end.write_all(&[b'x'; 60_000]).unwrap();
        tell.send(7).unwrap();
        let (out, err) = (receiver(out.into()).unwrap(), receiver(err.into()).unwrap());
        let output = collect(out, err, told).await.unwrap();
        assert_eq!((output.exit_code, output.stdout.len(), output.stderr.len()), (7, 60_000, 0));
        drop((out_end, err_end));
    }

    #[tokio::test]
    async fn output_is_cut_at_the_limit_and_read_to_the_end() {
        let (out, mut out_end) = std::io::pipe().unwrap();
        let (err, _) = std::io::pipe().unwrap();
        let (tell, told) = oneshot::channel();
        let writer = std::thread::spawn(move || {
            for _ in 0..(MAX_EXEC_OUTPUT / 65536 + 4) {
                out_end.write_all(&[b'y'; 65536]).unwrap();
            }
            drop(out_end);
            tell.send(0).unwrap();
        });
        let (out, err) = (receiver(out.into()).unwrap(), receiver(err.into()).unwrap());
        let output = collect(out, err, told).await.unwrap();
        writer.join().unwrap();
        assert_eq!(output.stdout.len(), MAX_EXEC_OUTPUT);
    }

    #[tokio::test]
    async fn a_lost_monitor_is_an_error() {
        let (out, _) = std::io::pipe().unwrap();
        let (err, _) = std::io::pipe().unwrap();
        let (tell, told) = oneshot::channel();
        drop(tell);
        let (out, err) = (receiver(out.into()).unwrap(), receiver(err.into()).unwrap());
        assert_eq!(collect(out, err, told).await.unwrap_err().kind(), Kind::Unavailable);
    }
}
