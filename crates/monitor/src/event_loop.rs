//! The event thread: waits for everything at once and never for one thing alone.

use crate::connection::{Connection, Received};
use crate::container::{Container, record_end, write_again};
use crate::kill_tree::kill_tree;
use crate::log::{LogThread, Report};
use crate::reaper::{self, End, Strays};
use crate::requests::Pending;
use crate::sessions::Sessions;
use gantry_monitor_api::{
    ContainerState, ErrorKind, Event, Failure, Hello, Process, Reply, SOCKET, Setup, Started, VERSION,
};
use gantry_sys::{pidfd, seqpacket};
use nix::sys::signalfd::SignalFd;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most clients at a time: the daemon, and the next one that takes over.
const MAX_CONNECTIONS: usize = 8;

/// How long the end of a container waits for its last output to be in the log.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// How long the answer to a start waits for the log file to be there.
const OPEN_LIMIT: Duration = Duration::from_secs(1);

/// How long an OCI runtime may take to die of SIGKILL before its caller is answered.
const DEATH_LIMIT: Duration = Duration::from_secs(2);

/// How long a shutdown waits for the logs.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// How long an exit record for which there was no room waits to be tried again.
const RECORD_PACE: Duration = Duration::from_secs(2);

/// Most messages of one connection that are carried out before others have their turn.
const TURN: usize = 16;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const LOGS: u64 = 2;
/// Connections have the tokens from here on.
const FIRST_CONNECTION: u64 = 16;

/// A start that is to be told.
struct Start {
    /// Connection and message number of who asked.
    asker: (u64, u64),
    started: Started,
    until: Instant,
}

/// Everything that the monitor knows.
pub(crate) struct EventLoop {
    pub(crate) pod_id: String,
    pub(crate) pod_dir: PathBuf,
    myself: Process,
    pause: Option<Process>,
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: SignalFd,
    logs: Option<LogThread>,
    connections: BTreeMap<u64, Connection>,
    next_token: u64,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) sessions: Sessions,
    /// Runs of the OCI runtime, by the runtime's pid.
    pub(crate) pending: BTreeMap<i32, Pending>,
    strays: Strays,
    /// Ends that wait for the log, with the time when they stop waiting.
    pub(crate) draining: BTreeMap<String, Instant>,
    /// Containers that run and wait for their log file before it is told.
    starting: BTreeMap<String, Start>,
    /// Who asked for a log to be opened anew: connection and message number, by ticket.
    pub(crate) reopening: BTreeMap<u64, (u64, u64)>,
    pub(crate) next_ticket: u64,
    /// When exit records that could not be written are tried again.
    next_record: Option<Instant>,
    /// A shutdown was asked for: who asked, and until when the logs have time.
    shutdown: Option<(u64, u64, Instant)>,
}

impl EventLoop {
    pub(crate) fn new(
        setup: &Setup,
        listener: OwnedFd,
        signals: SignalFd,
        pause: Process,
    ) -> Result<Self, String> {
        let failed = |e: Errno| format!("epoll: {e}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        seqpacket::set_nonblocking(listener.as_fd()).map_err(|e| e.to_string())?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).map_err(failed)?;
        epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN).map_err(failed)?;
        let pid = std::process::id() as i32;
        let start_time = pidfd::start_time(pid).map_err(|e| e.to_string())?;
        Ok(Self {
            pod_id: setup.pod_id.clone(),
            pod_dir: setup.pod_dir.clone(),
            myself: Process { pid, start_time },
            pause: Some(pause),
            epoll,
            listener,
            signals,
            logs: None,
            connections: BTreeMap::new(),
            next_token: FIRST_CONNECTION,
            containers: BTreeMap::new(),
            sessions: Sessions::default(),
            pending: BTreeMap::new(),
            strays: Strays::default(),
            draining: BTreeMap::new(),
            starting: BTreeMap::new(),
            reopening: BTreeMap::new(),
            next_ticket: 0,
            next_record: None,
            shutdown: None,
        })
    }

    pub(crate) fn hello(&self) -> Hello {
        let containers = self.containers.iter().map(|(id, c)| ContainerState {
            container_id: id.clone(),
            process: c.process,
            exit: c.exit.clone(),
        });
        Hello {
            version: VERSION,
            pod_id: self.pod_id.clone(),
            monitor: self.myself,
            pause: self.pause,
            containers: containers.collect(),
        }
    }

    /// Takes a connection in and says the first thing on it.
    pub(crate) fn adopt_connection(&mut self, mut connection: Connection, id: u64, first: Reply) {
        connection.subscribed = true;
        if let Some(token) = self.watch_connection(connection) {
            self.say(token, id, first);
        }
    }

    pub(crate) fn list_sessions(&self, after: &str) -> Reply {
        Reply::Sessions(self.sessions.list(after, |token| self.connections.contains_key(&token)))
    }

    fn watch_connection(&mut self, connection: Connection) -> Option<u64> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let token = self.next_token;
        self.next_token += 1;
        epoll::add(&self.epoll, &connection, EventData::new_u64(token), EventFlags::IN).ok()?;
        self.connections.insert(token, connection);
        Some(token)
    }

    /// Runs until shutdown.
    pub(crate) fn run(mut self) -> Result<(), String> {
        // A child may have ended before the signals were watched.
        self.reap();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(32);
        while !self.is_finished() {
            events.clear();
            let timeout = self.next_deadline();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(format!("epoll_wait: {e}")),
            }
            let ready: Vec<u64> = events.iter().map(|e| e.data.u64()).collect();
            for token in ready {
                match token {
                    LISTENER => self.accept(),
                    SIGNALS => {
                        while let Ok(Some(_)) = self.signals.read_signal() {}
                        self.reap();
                    }
                    LOGS => self.hear_logs(),
                    token => self.serve(token),
                }
            }
            self.check_deadlines();
        }
        // Gone already if a newer monitor took its place, which never happens for one pod.
        let _gone = std::fs::remove_file(self.pod_dir.join(SOCKET));
        if let Some((token, id, _)) = self.shutdown {
            self.say(token, id, Reply::Done);
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.shutdown.is_some_and(|(_, _, until)| {
            let dead = self.pause.is_none() && self.containers.values().all(|c| c.exit.is_some());
            (dead && self.pending.is_empty() && self.draining.is_empty()) || Instant::now() >= until
        })
    }

    fn accept(&mut self) {
        while let Ok(socket) = seqpacket::accept(self.listener.as_fd()) {
            // Beyond the bound, or unusable: closed at once, which the other side sees.
            if let Ok(connection) = Connection::new(socket) {
                self.watch_connection(connection);
            }
        }
    }

    fn serve(&mut self, token: u64) {
        // What is left after a turn makes the descriptor readable again at once.
        for _ in 0..TURN {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            if !connection.flush() {
                self.drop_connection(token);
                return;
            }
            match connection.receive() {
                Received::Request(id, request, fds) => self.carry_out(token, id, request, fds),
                Received::Nonsense(why) => {
                    self.fail(token, gantry_monitor_api::EVENT, ErrorKind::Invalid, why);
                }
                Received::Nothing => break,
                Received::End => {
                    self.drop_connection(token);
                    return;
                }
            }
        }
        self.watch_for_writing(token);
    }

    fn watch_for_writing(&mut self, token: u64) {
        if let Some(connection) = self.connections.get(&token) {
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, connection.has_queue());
            if epoll::modify(&self.epoll, connection, EventData::new_u64(token), flags).is_err() {
                self.drop_connection(token);
            }
        }
    }

    fn drop_connection(&mut self, token: u64) {
        // Closing the socket takes it out of the epoll set.
        self.connections.remove(&token);
    }

    pub(crate) fn say(&mut self, token: u64, id: u64, reply: Reply) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.say(id, reply) {
            self.watch_for_writing(token);
        } else {
            self.drop_connection(token);
        }
    }

    pub(crate) fn fail(&mut self, token: u64, id: u64, kind: ErrorKind, message: impl Into<String>) {
        self.say(token, id, Reply::Failed(Failure { kind, message: message.into() }));
    }

    /// Tells every subscriber but one.
    pub(crate) fn tell(&mut self, event: &Event, except: Option<u64>) {
        let tokens: Vec<u64> = self.connections.keys().copied().filter(|t| Some(*t) != except).collect();
        for token in tokens {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            if connection.tell(event) {
                self.watch_for_writing(token);
            } else {
                self.drop_connection(token);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, token: u64) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.subscribed = true;
        }
    }

    /// The log thread, started when it is first needed.
    pub(crate) fn logs(&mut self) -> Result<&LogThread, String> {
        if self.logs.is_none() {
            let logs = LogThread::start()?;
            epoll::add(&self.epoll, &logs, EventData::new_u64(LOGS), EventFlags::IN)
                .map_err(|e| format!("watch the log thread: {e}"))?;
            self.logs = Some(logs);
        }
        self.logs.as_ref().ok_or_else(|| "no log thread".to_owned())
    }

    pub(crate) fn forget_log(&mut self, id: &str) {
        if let Some(logs) = &self.logs {
            logs.remove(id);
        }
    }

    fn hear_logs(&mut self) {
        while let Some(report) = self.logs.as_ref().and_then(LogThread::report) {
            match report {
                Report::Reopened { ticket, result } => {
                    let Some((token, id)) = self.reopening.remove(&ticket) else { continue };
                    match result {
                        Ok(()) => self.say(token, id, Reply::Done),
                        Err(why) => self.fail(token, id, ErrorKind::System, why),
                    }
                }
                Report::Added { id } => self.announce_start(&id),
                Report::Drained { id } => self.announce_end(&id),
                Report::Lost { id, lines, why } => {
                    self.tell(&Event::LogLost { container_id: id, lines, error: why }, None);
                }
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, end)) = reaper::next() {
            if self.pause.is_some_and(|p| p.pid == pid) {
                self.pause_ended();
            } else if let Some(pending) = self.pending.remove(&pid) {
                self.runtime_ended(pending, end);
            } else if !self.child_ended(pid, end) && !self.pending.is_empty() {
                self.strays.keep(pid, end);
            }
        }
        self.strays.forget_before(self.pending.values().map(|p| p.call.begun).min());
    }

    /// Whether `pid` is a child that is something else already.
    pub(crate) fn knows(&self, pid: i32) -> bool {
        self.pause.is_some_and(|p| p.pid == pid)
            || self.pending.contains_key(&pid)
            || self.sessions.pids().any(|p| p == pid)
            || self.containers.values().any(|c| c.process.pid == pid && c.exit.is_none())
    }

    /// The end of a child that the OCI runtime has just told the pid of, if it ended before.
    pub(crate) fn claim_stray(&mut self, pid: i32, since: Instant) -> Option<End> {
        self.strays.claim(pid, since)
    }

    /// Takes note of the end of a container's or session's process; `false` for an unknown one.
    pub(crate) fn child_ended(&mut self, pid: i32, end: End) -> bool {
        if let Some(ended) = self.sessions.end(pid, end.code) {
            self.tell(&Event::ExecExited(ended), None);
            return true;
        }
        let found = self.containers.iter_mut().find(|(_, c)| c.process.pid == pid && c.exit.is_none());
        let Some((id, container)) = found else { return false };
        record_end(id, container, end);
        if container.unwritten {
            self.next_record.get_or_insert(Instant::now() + RECORD_PACE);
        }
        let id = id.clone();
        // Told when the log has what it wrote, or at the deadline.
        self.draining.insert(id.clone(), Instant::now() + DRAIN_LIMIT);
        match &self.logs {
            Some(logs) => logs.drain(&id),
            None => self.announce_end(&id),
        }
        true
    }

    /// Tells a start once the log file is there: who asked may look for it at once (the kubelet links to
    /// it only if it exists).
    pub(crate) fn announce_start_later(&mut self, id: &str, asker: (u64, u64), started: Started) {
        let start = Start { asker, started, until: Instant::now() + OPEN_LIMIT };
        self.starting.insert(id.to_owned(), start);
    }

    fn announce_start(&mut self, id: &str) {
        let Some(Start { asker: (token, number), started, .. }) = self.starting.remove(id) else { return };
        self.say(token, number, Reply::Started(started.clone()));
        self.tell(&Event::ContainerStarted { container_id: id.to_owned(), started }, Some(token));
    }

    fn announce_end(&mut self, id: &str) {
        // In this order also where the log is late.
        self.announce_start(id);
        if self.draining.remove(id).is_none() {
            return;
        }
        if let Some(record) = self.containers.get(id).and_then(|c| c.exit.clone()) {
            self.tell(&Event::ContainerExited(record), None);
        }
    }

    /// Without the pause child the pod has no namespaces: its containers are killed.
    fn pause_ended(&mut self) {
        self.pause = None;
        for container in self.containers.values().filter(|c| c.exit.is_none()) {
            kill(container.process.pid);
        }
        if self.shutdown.is_none() {
            self.tell(&Event::PauseExited, None);
        }
    }

    pub(crate) fn begin_shutdown(&mut self, token: u64, id: u64) {
        self.shutdown = Some((token, id, Instant::now() + SHUTDOWN_LIMIT));
        let containers = self.containers.values().filter(|c| c.exit.is_none()).map(|c| c.process.pid);
        for pid in containers.chain(self.sessions.pids()).chain(self.pause.map(|p| p.pid)) {
            kill(pid);
        }
        // Nobody waits for what they would start.
        for pending in self.pending.values() {
            kill_tree(pending.call.pid);
        }
    }

    /// Whether the pod's namespaces are gone or going: nothing is started any more.
    pub(crate) fn is_ending(&self) -> bool {
        self.pause.is_none() || self.shutdown.is_some()
    }

    fn next_deadline(&self) -> Option<Timespec> {
        let calls = self.pending.values().filter_map(|p| p.call.deadline);
        let others = self.shutdown.map(|s| s.2).into_iter().chain(self.next_record);
        let others = others.chain(self.starting.values().map(|s| s.until));
        let next = calls.chain(self.draining.values().copied()).chain(others).min()?;
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up by a little, so that the deadline is over when it wakes.
        let left = left + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        let mut hanging = Vec::new();
        let over = |p: &&mut Pending| p.call.deadline.is_some_and(|at| at <= now);
        for Pending { call, .. } in self.pending.values_mut().filter(over) {
            if call.timed_out {
                call.deadline = None;
                hanging.push(call.pid);
            } else {
                (call.timed_out, call.deadline) = (true, Some(now + DEATH_LIMIT));
                kill_tree(call.pid);
            }
        }
        for runtime in hanging {
            self.give_up(runtime);
        }
        let late: Vec<String> =
            self.starting.iter().filter(|(_, s)| s.until <= now).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.announce_start(&id);
        }
        let over: Vec<String> =
            self.draining.iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.announce_end(&id);
        }
        if self.next_record.is_some_and(|at| at <= now) {
            self.containers.values_mut().for_each(write_again);
            let owed = self.containers.values().any(|c| c.unwritten);
            self.next_record = owed.then(|| now + RECORD_PACE);
        }
    }
}

/// Kills a child; it is ours to reap, so its pid cannot have been recycled.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // A zombie that is reaped next is fine.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
