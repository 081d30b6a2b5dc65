//! What the daemon asks for, and how the OCI runtime's answers come back.

use crate::container::{Container, OomCounter};
use crate::event_loop::{EventLoop, kill};
use crate::kill_tree::{kill_tree, parent_of};
use crate::log::LogThread;
use crate::reaper::{End, is_child};
use crate::runtime_call::{RuntimeCall, last_words};
use crate::spawn::Streams;
use crate::waiter::{self, Answer};
use gantry_monitor_api::{
    ErrorKind, ExecRequest, Failure, Process, Reply, Request, StartRequest, Started, VERSION,
};
use gantry_sys::console::ConsoleSocket;
use gantry_sys::pidfd;
use std::fs::File;
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Most runs of the OCI runtime at a time.
const MAX_PENDING: usize = 256;

/// Most containers that are remembered, so that they fit into one `Hello`.
const MAX_CONTAINERS: usize = 100;

/// Longest id of a container.
const MAX_ID: usize = 100;

/// Most logs that are being opened anew at a time.
const MAX_REOPENING: usize = 64;

/// Most bytes of what the runtime wrote to standard error that are looked at.
const STDERR: usize = 4096;

/// A run of the OCI runtime, and who waits for it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) call: RuntimeCall,
    /// The runtime's own end, when it has left a helper behind that is still the parent of what it started.
    ended: Option<End>,
    /// Connection and message number; `None` once it has been answered.
    asker: Option<(u64, u64)>,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Start {
        request: Box<StartRequest>,
        oom: OomCounter,
        stdin: Option<OwnedFd>,
        output: Output,
        console: Option<ConsoleSocket>,
    },
    Exec {
        exec_id: String,
        container_id: String,
        killed: bool,
    },
}

/// The process that a runtime started, its end if it has ended already, and where its end is told if
/// another process stands for it.
type Adopted = (i32, Option<End>, Option<Answer>);

/// Our ends of a container's output. They go to the log thread once the container runs; what the OCI
/// runtime itself says before, when it fails, is no container's output.
#[derive(Debug)]
struct Output {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Output {
    /// The last that the runtime wrote to standard error, without waiting for more.
    fn last_words(&self) -> Option<String> {
        let mut said = Vec::new();
        let mut buffer = [0; STDERR];
        rustix::io::ioctl_fionbio(&self.stderr, true).ok()?;
        // A pipe holds at most 64 KiB, and its writers are dead or about to be.
        for _ in 0..16 {
            match rustix::io::read(&self.stderr, &mut buffer) {
                Ok(n) if n > 0 => said.extend_from_slice(&buffer[..n]),
                Ok(_) | Err(_) => break,
            }
            said.drain(..said.len().saturating_sub(STDERR));
        }
        last_words(&String::from_utf8_lossy(&said))
    }
}

impl EventLoop {
    pub(crate) fn carry_out(&mut self, token: u64, id: u64, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Setup(_) => self.fail(token, id, ErrorKind::Invalid, "the pod is set up already"),
            Request::Hello { version } if version == VERSION => {
                self.subscribe(token);
                let hello = self.hello();
                self.say(token, id, Reply::Hello(hello));
            }
            Request::Hello { version } => {
                let message = format!("this monitor speaks version {VERSION}, not {version}");
                self.fail(token, id, ErrorKind::Version, message);
            }
            Request::Start(request) => {
                if let Err((kind, why)) = self.start(token, id, request) {
                    self.fail(token, id, kind, why);
                }
            }
            Request::Exec(request) => {
                if let Err((kind, why)) = self.exec(token, id, request, fds) {
                    self.fail(token, id, kind, why);
                }
            }
            Request::KillExec { exec_id } => {
                self.kill_exec(&exec_id);
                self.say(token, id, Reply::Done);
            }
            Request::Sessions { after } => {
                let sessions = self.list_sessions(&after);
                self.say(token, id, sessions);
            }
            Request::Attach(request) => {
                let answer = match self.attach(&request, fds) {
                    Ok(()) => Reply::Done,
                    Err((kind, message)) => Reply::Failed(Failure { kind, message }),
                };
                self.say(token, id, answer);
            }
            Request::CloseStdin { container_id } => {
                if let Some(container) = self.containers.get_mut(&container_id) {
                    container.stdin = None;
                }
                self.say(token, id, Reply::Done);
            }
            Request::ReopenLog { container_id } => self.reopen(token, id, &container_id),
            Request::Forget { container_id } => {
                if self.containers.get(&container_id).is_some_and(|c| c.exit.is_none()) {
                    self.fail(token, id, ErrorKind::Invalid, "the container still runs");
                    return;
                }
                if self.containers.remove(&container_id).is_some() {
                    self.forget_log(&container_id);
                }
                self.say(token, id, Reply::Done);
            }
            Request::Shutdown => self.begin_shutdown(token, id),
        }
    }

    fn check_room(&self) -> Result<(), (ErrorKind, String)> {
        if self.is_ending() {
            return Err((ErrorKind::System, "the pod has ended: its namespaces are gone".into()));
        }
        if self.pending.len() >= MAX_PENDING {
            return Err((ErrorKind::System, format!("{MAX_PENDING} OCI runtimes run already; retry")));
        }
        Ok(())
    }

    fn start(&mut self, token: u64, id: u64, request: StartRequest) -> Result<(), (ErrorKind, String)> {
        let container = &request.container_id;
        let starting = |p: &Pending| matches!(&p.purpose, Purpose::Start { request, .. } if request.container_id == *container);
        if self.containers.contains_key(container) || self.pending.values().any(starting) {
            return Err((ErrorKind::AlreadyExists, format!("container {container} was started already")));
        }
        if !is_plain(container, b"-_.+") {
            let message = format!("container id {container:?} is not made of letters, digits and \"-_.+\"");
            return Err((ErrorKind::Invalid, message));
        }
        self.check_room()?;
        self.make_room()?;
        if !self.logs().map_err(|e| (ErrorKind::System, e))?.keeps_up() {
            let message = "the log thread hangs: has the file system of the logs stalled?";
            return Err((ErrorKind::System, message.into()));
        }
        let system = |e: std::io::Error| (ErrorKind::System, format!("pipes of container {container}: {e}"));
        let (stdout, stdout_end) = pipe().map_err(system)?;
        let (stderr, stderr_end) = pipe().map_err(system)?;
        // A terminal is standard input, too.
        let (stdin_end, stdin) = match request.stdin && !request.terminal {
            false => (File::open("/dev/null").map_err(system)?.into(), None),
            true => {
                let (end, ours) = pipe().map_err(system)?;
                (OwnedFd::from(end), Some(OwnedFd::from(ours)))
            }
        };
        let streams = Streams { stdin: stdin_end, stdout: stdout_end.into(), stderr: stderr_end.into() };
        let pid_file = request.bundle.join("init.pid");
        let (bundle, pid_path) = (request.bundle.display().to_string(), pid_file.display().to_string());
        let mut args = vec!["run", "--detach", "--bundle", &bundle, "--pid-file", &pid_path];
        let console = match request.terminal {
            true => Some(
                ConsoleSocket::bind(&request.bundle, "console.sock")
                    .map_err(|e| (ErrorKind::System, format!("terminal of container {container}: {e}")))?,
            ),
            false => None,
        };
        let console_path = console.as_ref().map(|c| c.short_path().display().to_string());
        if let Some(path) = &console_path {
            args.extend(["--console-socket", path]);
        }
        args.push(container);
        let oom = OomCounter::new(request.oom_counter.clone());
        let limit = Duration::from_millis(request.timeout_ms);
        let log = request.runtime_log.clone();
        let call = RuntimeCall::start(&request.runtime, &args, &streams, pid_file, log, limit)
            .map_err(|why| (ErrorKind::Runtime, why))?;
        let output = Output { stdout: stdout.into(), stderr: stderr.into() };
        let purpose = Purpose::Start { request: Box::new(request), oom, stdin, output, console };
        self.pending.insert(call.pid, Pending { call, ended: None, asker: Some((token, id)), purpose });
        Ok(())
    }

    /// Forgets the container that ended first if there are too many; its exit record is on disk.
    fn make_room(&mut self) -> Result<(), (ErrorKind, String)> {
        if self.containers.len() + self.pending.len() < MAX_CONTAINERS {
            return Ok(());
        }
        let told = |id: &String| !self.draining.contains_key(id);
        let ended = self.containers.iter().filter(|(id, c)| !c.unwritten && told(id));
        let ended = ended.filter_map(|(id, c)| c.exit.as_ref().map(|e| (e.finished_at, id.clone())));
        let Some((_, oldest)) = ended.min() else {
            return Err((ErrorKind::System, format!("the pod has {MAX_CONTAINERS} running containers")));
        };
        self.containers.remove(&oldest);
        self.forget_log(&oldest);
        Ok(())
    }

    fn exec(
        &mut self,
        token: u64,
        id: u64,
        request: ExecRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(), (ErrorKind, String)> {
        let container = &request.container_id;
        match self.containers.get(container) {
            Some(known) if known.exit.is_none() => {}
            Some(_) => return Err((ErrorKind::NotFound, format!("container {container} has ended"))),
            None => return Err((ErrorKind::NotFound, format!("no container {container} in this pod"))),
        }
        let same =
            |p: &Pending| matches!(&p.purpose, Purpose::Exec { exec_id, .. } if *exec_id == request.exec_id);
        if self.sessions.has(&request.exec_id) || self.pending.values().any(same) {
            return Err((ErrorKind::AlreadyExists, format!("session {} exists already", request.exec_id)));
        }
        let plain =
            |id: &str| !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !plain(&request.exec_id) {
            return Err((ErrorKind::Invalid, "the session id must be letters and digits".into()));
        }
        self.check_room()?;
        let streams = Streams::from_fds(fds)
            .ok_or((ErrorKind::Invalid, "an exec carries stdin, stdout and stderr".to_owned()))?;
        let pid_file = self.pod_dir.join(format!("exec-{}.pid", request.exec_id));
        let (file, pid_path) = (request.process_file.display().to_string(), pid_file.display().to_string());
        let console = request.console_socket.as_ref().map(|path| path.display().to_string());
        let mut args = vec!["exec", "--detach", "--process", &file, "--pid-file", &pid_path];
        if let Some(path) = &console {
            args.extend(["--console-socket", path]);
        }
        args.extend(request.options.iter().map(String::as_str).chain([container.as_str()]));
        let limit = Duration::from_millis(request.timeout_ms);
        let log = request.runtime_log.clone();
        let call = RuntimeCall::start(&request.runtime, &args, &streams, pid_file, log, limit)
            .map_err(|why| (ErrorKind::Runtime, why))?;
        let purpose =
            Purpose::Exec { exec_id: request.exec_id, container_id: request.container_id, killed: false };
        self.pending.insert(call.pid, Pending { call, ended: None, asker: Some((token, id)), purpose });
        Ok(())
    }

    fn kill_exec(&mut self, wanted: &str) {
        if let Some(pid) = self.sessions.pid(wanted) {
            kill_tree(pid);
        }
        for pending in self.pending.values_mut() {
            if let Purpose::Exec { exec_id, killed, .. } = &mut pending.purpose {
                // Its process is killed as soon as the runtime tells its pid.
                *killed |= exec_id == wanted;
            }
        }
    }

    fn reopen(&mut self, token: u64, id: u64, container: &str) {
        if !self.containers.contains_key(container) {
            self.fail(token, id, ErrorKind::NotFound, format!("no container {container} in this pod"));
            return;
        }
        if self.reopening.len() >= MAX_REOPENING || !self.logs().is_ok_and(LogThread::keeps_up) {
            let message = "the log thread hangs: has the file system of the logs stalled?";
            self.fail(token, id, ErrorKind::System, message);
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.reopening.insert(ticket, (token, id));
        match self.logs() {
            Ok(logs) => logs.reopen(container, ticket),
            Err(why) => {
                self.reopening.remove(&ticket);
                self.fail(token, id, ErrorKind::System, why);
            }
        }
    }

    /// Answers for a runtime that was killed and does not die (it hangs in the kernel, or is frozen). Its
    /// end is still waited for; until then its container or session cannot be started again.
    pub(crate) fn give_up(&mut self, runtime: i32) {
        let Some(pending) = self.pending.get_mut(&runtime) else { return };
        let Some((token, id)) = pending.asker.take() else { return };
        let message =
            format!("the OCI runtime (process {runtime}) did not finish in time and cannot be killed");
        self.fail(token, id, ErrorKind::Timeout, message);
    }

    /// The OCI runtime has ended: adopt what it started, or tell why it did not.
    pub(crate) fn runtime_ended(&mut self, mut pending: Pending, end: End) {
        let end = pending.ended.unwrap_or(end);
        if let Some(helper) = self.helper_of(&pending, end) {
            // It is an orphan of the runtime's, so ours; at its end the process that it holds is ours, too.
            (pending.call.pid, pending.ended) = (helper, Some(end));
            self.pending.insert(helper, pending);
            return;
        }
        let Pending { call, asker, purpose, .. } = pending;
        let started = self.outcome(&call, end, &purpose);
        if started.is_err() {
            // A runtime that was killed after its work has left a process that nobody asked for.
            match call.started_pid() {
                Ok(pid) if is_child(pid) && !self.knows(pid) => kill_tree(pid),
                _ => {}
            }
        }
        // Read once; left over it would only be bytes on a tmpfs.
        let _gone = std::fs::remove_file(&call.pid_file);
        let (pid, ended, answer) = match started {
            Ok(started) => started,
            Err((kind, why)) => {
                if let Some((token, id)) = asker {
                    self.fail(token, id, kind, why);
                }
                return;
            }
        };
        // Only what has timed out is answered before its end, and that has started nothing.
        let Some((token, id)) = asker else { return };
        let process = Process { pid, start_time: pidfd::start_time(pid).unwrap_or(0) };
        let started = Started { process, started_at: call.started_at };
        match purpose {
            Purpose::Start { request, oom, stdin, output, console } => {
                let StartRequest { container_id, bundle, log_path, .. } = *request;
                let (output, terminal) = match sources(output, console.as_ref()) {
                    Ok(sources) => sources,
                    Err(why) => {
                        // Nobody could see or type anything, or the log would miss it.
                        kill(pid);
                        self.fail(token, id, ErrorKind::Runtime, why);
                        return;
                    }
                };
                let container = Container {
                    process,
                    bundle,
                    started_at: call.started_at,
                    begun: call.begun,
                    oom,
                    stdin,
                    terminal,
                    answer,
                    exit: None,
                    unwritten: false,
                };
                self.containers.insert(container_id.clone(), container);
                self.announce_start_later(&container_id, (token, id), started);
                if let Ok(logs) = self.logs() {
                    logs.add(&container_id, output.0, output.1, log_path);
                }
                match ended {
                    Some(end) => {
                        self.child_ended(pid, end);
                    }
                    // The pause child died, or a shutdown was asked for, while the runtime was at work.
                    None if self.is_ending() => kill(pid),
                    None => {}
                }
            }
            Purpose::Exec { exec_id, container_id, killed } => {
                self.sessions.add(exec_id, pid, container_id, token);
                self.say(token, id, Reply::Started(started));
                match ended {
                    Some(end) => {
                        self.child_ended(pid, end);
                    }
                    None if killed || self.is_ending() => kill_tree(pid),
                    None => {}
                }
            }
        }
    }

    /// The process between this one and what a successful runtime started: crun forks twice, and may end
    /// before its first child does.
    fn helper_of(&self, pending: &Pending, end: End) -> Option<i32> {
        let by_wait = matches!(&pending.purpose, Purpose::Start { request, .. } if request.by_wait);
        if end.code != 0 || pending.call.timed_out || by_wait {
            return None;
        }
        let pid = pending.call.started_pid().ok()?;
        if is_child(pid) {
            return None;
        }
        parent_of(pid).filter(|parent| !self.knows(*parent) && is_child(*parent))
    }

    /// The process that a runtime started, and its end if it has ended already; or why there is none.
    fn outcome(
        &mut self,
        call: &RuntimeCall,
        end: End,
        purpose: &Purpose,
    ) -> Result<Adopted, (ErrorKind, String)> {
        let words = || match purpose {
            Purpose::Start { output, .. } => call.words().or_else(|| output.last_words()),
            Purpose::Exec { .. } => call.words(),
        };
        if call.timed_out {
            let words = words().map_or(String::new(), |w| format!("; it said: {w}"));
            let message = format!("the OCI runtime did not finish in time and was killed{words}");
            return Err((ErrorKind::Timeout, message));
        }
        if end.code != 0 {
            let words = words().unwrap_or_else(|| format!("the OCI runtime ended with status {}", end.code));
            return Err((ErrorKind::Runtime, words));
        }
        if let Purpose::Start { request, .. } = purpose
            && request.by_wait
        {
            let waiter = waiter::start(&request.runtime, &request.container_id);
            return waiter.map(|(pid, answer)| (pid, None, Some(answer))).map_err(|e| (ErrorKind::System, e));
        }
        let pid = call.started_pid().map_err(|why| (ErrorKind::Runtime, why))?;
        let ended = self.claim_stray(pid, call.begun);
        if self.knows(pid) || (ended.is_none() && !is_child(pid)) {
            let message = format!("the OCI runtime named process {pid}, which is none that it started");
            return Err((ErrorKind::Runtime, message));
        }
        Ok((pid, ended, None))
    }
}

/// What the log reads of a new container, and its terminal if it has one.
type Sources = ((OwnedFd, Option<OwnedFd>), Option<OwnedFd>);

fn sources(output: Output, console: Option<&ConsoleSocket>) -> Result<Sources, String> {
    let Some(console) = console else { return Ok(((output.stdout, Some(output.stderr)), None)) };
    let failed = |e: &dyn std::fmt::Display| format!("the OCI runtime sent no terminal: {e}");
    let terminal = console.receive().map_err(|e| failed(&e))?;
    let copy = terminal.try_clone().map_err(|e| failed(&e))?;
    Ok(((copy, None), Some(terminal)))
}

/// Whether `id` may be an argument of the OCI runtime and part of a file name: letters, digits, and of
/// `others` what does not come first.
fn is_plain(id: &str, others: &[u8]) -> bool {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && id.len() <= MAX_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_be_options_or_paths() {
        for (id, container, session) in [
            ("a1", true, true),
            ("web-1_x.y", true, false),
            ("", false, false),
            ("--root", false, false),
            ("../x", false, false),
            ("a/b", false, false),
        ] {
            assert_eq!(is_plain(id, b"-_.+"), container, "{id}");
            assert_eq!(is_plain(id, b""), session, "{id}");
        }
        assert!(!is_plain(&"x".repeat(MAX_ID + 1), b""));
    }
}
