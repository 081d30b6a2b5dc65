//! What the daemon asks for, and how the OCI runtime's answers come back.

use crate::container::{Container, OomCounter};
use crate::event_loop::EventLoop;
use crate::kill_tree::kill_tree;
use crate::reaper::End;
use crate::runtime_call::{RuntimeCall, Streams};
use gantry_monitor_api::{
    ErrorKind, Event, ExecRequest, Process, Reply, Request, StartRequest, Started, VERSION,
};
use gantry_sys::pidfd;
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

/// Most runs of the OCI runtime at a time.
const MAX_PENDING: usize = 256;

/// A run of the OCI runtime, and who waits for it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) call: RuntimeCall,
    /// Connection and message number.
    asker: (u64, u64),
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Start { request: Box<StartRequest>, oom: OomCounter, stdin: Option<OwnedFd> },
    Exec { exec_id: String, killed: bool },
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
            Request::ReopenLog { container_id } => self.reopen(token, id, &container_id),
            Request::Forget { container_id } => {
                if self.containers.get(&container_id).is_some_and(|c| c.exit.is_none()) {
                    self.fail(token, id, ErrorKind::Invalid, "the container still runs");
                    return;
                }
                self.containers.remove(&container_id);
                self.forget_log(&container_id);
                self.say(token, id, Reply::Done);
            }
            Request::Shutdown => self.begin_shutdown(token, id),
        }
    }

    fn check_room(&self) -> Result<(), (ErrorKind, String)> {
        match self.pending.len() < MAX_PENDING {
            true => Ok(()),
            false => Err((ErrorKind::System, format!("{MAX_PENDING} OCI runtimes run already; retry"))),
        }
    }

    fn start(&mut self, token: u64, id: u64, request: StartRequest) -> Result<(), (ErrorKind, String)> {
        let container = &request.container_id;
        let starting = |p: &Pending| matches!(&p.purpose, Purpose::Start { request, .. } if request.container_id == *container);
        if self.containers.contains_key(container) || self.pending.values().any(starting) {
            return Err((ErrorKind::AlreadyExists, format!("container {container} was started already")));
        }
        if request.terminal {
            return Err((ErrorKind::Invalid, "terminals are not supported yet: run it without tty".into()));
        }
        self.check_room()?;
        let system = |e: std::io::Error| (ErrorKind::System, format!("pipe for the output: {e}"));
        let (stdout, stdout_end) = pipe().map_err(system)?;
        let (stderr, stderr_end) = pipe().map_err(system)?;
        let (stdin, keep) = match request.stdin {
            false => (Stdio::null(), None),
            true => {
                let (end, ours) = pipe().map_err(system)?;
                (Stdio::from(end), Some(OwnedFd::from(ours)))
            }
        };
        let streams = Streams { stdin, stdout: stdout_end.into(), stderr: stderr_end.into() };
        let pid_file = request.bundle.join("init.pid");
        let (bundle, pid_path) = (request.bundle.display().to_string(), pid_file.display().to_string());
        let args = ["run", "--detach", "--bundle", &bundle, "--pid-file", &pid_path, container];
        let oom = OomCounter::new(request.oom_counter.clone());
        let log = self.logs().map_err(|e| (ErrorKind::System, e))?;
        log.add(container, stdout.into(), Some(stderr.into()), request.log_path.clone());
        let limit = Duration::from_millis(request.timeout_ms);
        let call = RuntimeCall::start(
            &request.runtime,
            &args,
            streams,
            pid_file.clone(),
            request.runtime_log.clone(),
            limit,
        );
        match call {
            Ok(call) => {
                let purpose = Purpose::Start { request: Box::new(request), oom, stdin: keep };
                self.pending.insert(call.pid, Pending { call, asker: (token, id), purpose });
                Ok(())
            }
            Err(why) => {
                let container = container.clone();
                self.forget_log(&container);
                Err((ErrorKind::Runtime, why))
            }
        }
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
        if self.execs.contains_key(&request.exec_id) || self.pending.values().any(same) {
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
        let args = ["exec", "--detach", "--process", &file, "--pid-file", &pid_path, container];
        let limit = Duration::from_millis(request.timeout_ms);
        let call = RuntimeCall::start(
            &request.runtime,
            &args,
            streams,
            pid_file.clone(),
            request.runtime_log.clone(),
            limit,
        )
        .map_err(|why| (ErrorKind::Runtime, why))?;
        let purpose = Purpose::Exec { exec_id: request.exec_id, killed: false };
        self.pending.insert(call.pid, Pending { call, asker: (token, id), purpose });
        Ok(())
    }

    fn kill_exec(&mut self, wanted: &str) {
        if let Some(pid) = self.execs.get(wanted) {
            kill_tree(*pid);
        }
        for pending in self.pending.values_mut() {
            if let Purpose::Exec { exec_id, killed } = &mut pending.purpose {
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

    /// The OCI runtime has ended: adopt what it started, or tell why it did not.
    pub(crate) fn runtime_ended(&mut self, pending: Pending, end: End) {
        let Pending { call, asker: (token, id), purpose } = pending;
        let failure = if call.timed_out {
            let message = call.words().unwrap_or_default();
            Some((
                ErrorKind::Timeout,
                format!("the OCI runtime did not finish in time and was killed {message}"),
            ))
        } else if end.code != 0 {
            let words =
                call.words().unwrap_or_else(|| format!("the OCI runtime ended with status {}", end.code));
            Some((ErrorKind::Runtime, words))
        } else {
            None
        };
        let started = match failure {
            None => call.started_pid().map_err(|why| (ErrorKind::Runtime, why)),
            Some(failure) => Err(failure),
        };
        // Read once; left over it would only be bytes on a tmpfs.
        let _gone = std::fs::remove_file(&call.pid_file);
        match (purpose, started) {
            (Purpose::Start { request, oom, stdin }, Ok(pid)) => {
                let ended = self.claim_stray(pid);
                let process = Process { pid, start_time: pidfd::start_time(pid).unwrap_or(0) };
                let started = Started { process, started_at: call.started_at };
                let container = Container {
                    process,
                    bundle: request.bundle.clone(),
                    started_at: call.started_at,
                    oom,
                    has_log: true,
                    _stdin: stdin,
                    exit: None,
                };
                self.containers.insert(request.container_id.clone(), container);
                let event =
                    Event::ContainerStarted { container_id: request.container_id, started: started.clone() };
                self.say(token, id, Reply::Started(started));
                self.tell(&event, Some(token));
                if let Some(end) = ended {
                    self.child_ended(pid, end);
                }
            }
            (Purpose::Start { request, .. }, Err((kind, why))) => {
                self.forget_log(&request.container_id);
                self.fail(token, id, kind, why);
            }
            (Purpose::Exec { exec_id, killed }, Ok(pid)) => {
                let ended = self.claim_stray(pid);
                let process = Process { pid, start_time: pidfd::start_time(pid).unwrap_or(0) };
                self.execs.insert(exec_id, pid);
                self.say(token, id, Reply::Started(Started { process, started_at: call.started_at }));
                match ended {
                    Some(end) => {
                        self.child_ended(pid, end);
                    }
                    None if killed => kill_tree(pid),
                    None => {}
                }
            }
            (Purpose::Exec { .. }, Err((kind, why))) => self.fail(token, id, kind, why),
        }
    }
}
