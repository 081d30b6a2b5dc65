//! The messages themselves.

use crate::record::ExitRecord;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Message number of an event: nobody asked for it.
pub const EVENT: u64 = 0;

/// Most sessions in one [`Reply::Sessions`].
pub const MAX_SESSIONS: usize = 100;

/// A numbered message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Number that ties an answer to its request; [`EVENT`] for events.
    pub id: u64,
    /// What is said.
    pub body: T,
}

/// Namespaces that the pause child holds for the pod; those not named are the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// A network namespace of the pod's own.
    pub net: bool,
    /// An IPC namespace of the pod's own.
    pub ipc: bool,
    /// A UTS namespace of the pod's own.
    pub uts: bool,
    /// A PID namespace shared by all containers, with the pause child as PID 1.
    pub pid: bool,
}

/// A user namespace of the pod's own, which owns its other namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids.
    pub gids: Vec<IdMap>,
}

/// A range of ids (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id in the pod.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl IdMap {
    /// The maps as the kernel takes them: one line each.
    pub fn lines(maps: &[Self]) -> String {
        maps.iter().map(|m| format!("{} {} {}\n", m.inside, m.outside, m.length)).collect()
    }

    /// The host's id of `inside`; `None` when no range has it.
    pub fn outside_of(maps: &[Self], inside: u32) -> Option<u32> {
        let of = |m: &Self| {
            let offset = inside.checked_sub(m.inside).filter(|o| *o < m.length)?;
            m.outside.checked_add(offset)
        };
        maps.iter().find_map(of)
    }
}

/// The first message, on the monitor's standard input; makes the pause child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// [`crate::VERSION`] of the daemon.
    pub version: u32,
    /// Id of the pod.
    pub pod_id: String,
    /// The pod's directory; the monitor listens on [`crate::SOCKET`] in it.
    pub pod_dir: PathBuf,
    /// What the pause child holds.
    pub namespaces: Namespaces,
    /// The user namespace, if the pod gets one of its own.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    /// Host name to set; only with a UTS namespace of the pod's own.
    pub hostname: Option<String>,
    /// Namespaced sysctls as `(net.ipv4.ip_forward, 1)`, written inside the new namespaces, in order.
    pub sysctls: Vec<(String, String)>,
    /// `oom_score_adj` of the pause child; going on where the host forbids it.
    pub pause_oom_score_adj: i32,
}

/// A process by pid and start time in clock ticks since boot, so that a recycled pid is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the host's PID namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

/// What the daemon asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Makes the pause child; only as the first message on standard input. Answer: [`Reply::Hello`].
    Setup(Setup),
    /// Says who is there, and subscribes this connection to events. Answer: [`Reply::Hello`].
    Hello {
        /// [`crate::VERSION`] of the daemon.
        version: u32,
    },
    /// Runs a container through the OCI runtime. Answer: [`Reply::Started`].
    Start(StartRequest),
    /// Runs a further process in a container; carries stdin, stdout and stderr, in this order.
    /// Answer: [`Reply::Started`]; later [`Event::ExecExited`].
    Exec(ExecRequest),
    /// Kills an exec session and everything it started that can still be told to be its own.
    /// Answer: [`Reply::Done`], also when it is gone already.
    KillExec {
        /// Id given in [`ExecRequest`].
        exec_id: String,
    },
    /// Lists sessions in the order of their ids. Answer: [`Reply::Sessions`], at most [`MAX_SESSIONS`]; ask again
    /// with the last id for those behind.
    Sessions {
        /// Only sessions with a greater id; empty for all.
        after: String,
    },
    /// Copies what a running container writes to further descriptors, and hands out its standard input.
    /// Carries a message socket and then a pipe for each stream that is asked for, standard output first.
    /// Over the socket comes one message, before the answer: with the writing side of the container's
    /// standard input, or its terminal, beside it; without a descriptor when it has neither.
    /// A pipe that is full is closed: nobody waits for who reads too slowly. Answer: [`Reply::Done`].
    Attach(AttachRequest),
    /// Closes the monitor's own copy of a container's standard input; a terminal stays.
    /// Answer: [`Reply::Done`], also when there is none.
    CloseStdin {
        /// Id of the container.
        container_id: String,
    },
    /// Opens the container's log path anew (created if missing, always appended to). Answer: [`Reply::Done`].
    ReopenLog {
        /// Id of the container.
        container_id: String,
    },
    /// Drops what is remembered of an exited container. Answer: [`Reply::Done`], also when unknown.
    Forget {
        /// Id of the container.
        container_id: String,
    },
    /// Kills the pause child, writes out the logs, removes the socket and exits. Answer: [`Reply::Done`].
    Shutdown,
}

/// How to start one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartRequest {
    /// Id of the container, as the OCI runtime is to know it.
    pub container_id: String,
    /// Program and global options of the OCI runtime (`runc --root /run/… --log …`);
    /// the monitor appends `run --detach --bundle B --pid-file P ID`.
    pub runtime: Vec<String>,
    /// File that `runtime`'s `--log` names; its last error is reported when the start fails.
    pub runtime_log: PathBuf,
    /// Bundle directory (`config.json`); the exit record goes here, too.
    pub bundle: PathBuf,
    /// Log file in the CRI format; `None` discards the output.
    pub log_path: Option<PathBuf>,
    /// Keep standard input open for attachments; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// The process has a terminal (the bundle says `terminal: true`); its output goes to the log as stdout.
    pub terminal: bool,
    /// Kernel file whose `oom_kill` line counts the container's OOM kills
    /// (`memory.events` or `memory.oom_control`).
    pub oom_counter: Option<PathBuf>,
    /// The container's first process is none of the host's (a runtime with a kernel of its own): after
    /// `run` the monitor runs `wait ID`, which stands for the container and tells how it ended.
    #[serde(default)]
    pub by_wait: bool,
    /// Milliseconds after which a runtime that does not finish is killed and the start fails.
    pub timeout_ms: u64,
}

/// What an attachment wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Id of the container.
    pub container_id: String,
    /// A pipe for standard output (or the terminal's) comes along.
    pub stdout: bool,
    /// A pipe for standard error comes along.
    pub stderr: bool,
}

/// How to start one further process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Id of the session, unique within the pod.
    pub exec_id: String,
    /// Id of the container.
    pub container_id: String,
    /// As in [`StartRequest::runtime`]; the monitor appends `exec --detach --process F --pid-file P ID`.
    pub runtime: Vec<String>,
    /// As in [`StartRequest::runtime_log`].
    pub runtime_log: PathBuf,
    /// File with the OCI `process` object.
    pub process_file: PathBuf,
    /// Where the OCI runtime is to send the terminal, if `process_file` asks for one
    /// (`--console-socket`); the requester listens there.
    pub console_socket: Option<PathBuf>,
    /// Further options of the runtime's `exec`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Milliseconds after which a runtime that does not finish is killed and the exec fails.
    pub timeout_ms: u64,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Setup`] and [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Start`] and [`Request::Exec`].
    Started(Started),
    /// To [`Request::Sessions`].
    Sessions(Vec<Session>),
    /// The request was carried out.
    Done,
    /// It was not.
    Failed(Failure),
    /// Not an answer: something happened.
    Event(Event),
}

/// Who the monitor is and what it holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the monitor.
    pub version: u32,
    /// Id of the pod.
    pub pod_id: String,
    /// The monitor itself.
    pub monitor: Process,
    /// The pause child; `None` once it has died.
    pub pause: Option<Process>,
    /// Every container that was started and not forgotten.
    pub containers: Vec<ContainerState>,
}

/// A container as the monitor knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    /// Id of the container.
    pub container_id: String,
    /// Its init process.
    pub process: Process,
    /// How it ended, if it has.
    pub exit: Option<ExitRecord>,
}

/// A session as the monitor knows it: a running one, or one of the last that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Id given in [`ExecRequest`].
    pub exec_id: String,
    /// Id of the container.
    pub container_id: String,
    /// The connection that asked for it is still there; otherwise nobody has its streams.
    pub attended: bool,
    /// How it ended, if it has.
    pub end: Option<ExecEnd>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEnd {
    /// Id given in [`ExecRequest`].
    pub exec_id: String,
    /// Id of the container.
    pub container_id: String,
    /// Exit status, or 128 plus the signal's number.
    pub exit_code: i32,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

/// A process has been started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    /// The new process; it may have exited already. With [`StartRequest::by_wait`] the runtime's `wait`.
    pub process: Process,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: the failed call, or the OCI runtime's own words.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The two sides do not speak the same version.
    Version,
    /// No container or session of that id.
    NotFound,
    /// A container or session of that id exists.
    AlreadyExists,
    /// The OCI runtime refused; the message is its own.
    Runtime,
    /// The OCI runtime did not finish in time and was killed.
    Timeout,
    /// A message that makes no sense.
    Invalid,
    /// A system call failed.
    System,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A start finished; sent to every connection but the one that asked, so that a daemon that was
    /// restarted meanwhile learns of it.
    ContainerStarted {
        /// Id of the container.
        container_id: String,
        /// What the requester was told.
        started: Started,
    },
    /// A container's init process ended; its record is on disk and its output in the log.
    ContainerExited(ExitRecord),
    /// A further process ended.
    ExecExited(ExecEnd),
    /// The pause child died: the pod's namespaces are gone.
    PauseExited,
    /// Output was lost because the log could not be written (a full disk).
    LogLost {
        /// Id of the container.
        container_id: String,
        /// Lines lost since the last such event.
        lines: u64,
        /// What the last write answered.
        error: String,
    },
}
