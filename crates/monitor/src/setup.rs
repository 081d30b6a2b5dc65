//! From the first message to a pod that can start containers.

use crate::connection::{Connection, waiting_length};
use crate::event_loop::EventLoop;
use crate::pause;
use gantry_monitor_api::{
    EVENT, Envelope, ErrorKind, Failure, MAX_MESSAGE, Reply, Request, SOCKET, Setup, VERSION,
};
use gantry_sys::fork::close_from;
use gantry_sys::pidfd::start_time;
use gantry_sys::seqpacket;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

/// Runs the monitor until it is told to shut down.
pub(crate) fn run() -> Result<(), String> {
    // What the daemon had open at the time is none of our business.
    close_from(3).map_err(|e| e.to_string())?;
    let socket =
        rustix::stdio::stdin().try_clone_to_owned().map_err(|e| format!("dup of standard input: {e}"))?;
    // The connection is held once: dropping it must be seen at the other end.
    let null = File::open("/dev/null").map_err(|e| format!("open /dev/null: {e}"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| format!("dup2: {e}"))?;
    drop(null);
    let Some((id, setup)) = first_message(&socket)? else { return Ok(()) };
    match prepare(&setup) {
        Ok(mut state) => {
            let hello = state.hello();
            state.adopt_connection(
                Connection::new(socket).map_err(|e| e.to_string())?,
                id,
                Reply::Hello(hello),
            );
            state.run()
        }
        Err(error) => {
            let failure = Failure { kind: ErrorKind::System, message: error.clone() };
            answer(&socket, id, Reply::Failed(failure));
            Err(error)
        }
    }
}

fn first_message(socket: &OwnedFd) -> Result<Option<(u64, Setup)>, String> {
    let length = waiting_length(socket.as_fd())
        .map_err(|e| format!("standard input is no socket of the daemon's: {e}"))?;
    let mut buffer = vec![0; length.clamp(1, MAX_MESSAGE)];
    let received = seqpacket::receive(socket.as_fd(), &mut buffer).map_err(|e| e.to_string())?;
    // The daemon went away before it said anything: nothing was made, nothing is left.
    let Some((length, _)) = received else { return Ok(None) };
    let envelope: Envelope<Request> = serde_json::from_slice(&buffer[..length]).map_err(|e| {
        let message = format!("first message: {e}");
        answer(socket, EVENT, Reply::Failed(Failure { kind: ErrorKind::Invalid, message: message.clone() }));
        message
    })?;
    let refuse = |kind, message: String| {
        answer(socket, envelope.id, Reply::Failed(Failure { kind, message: message.clone() }));
        message
    };
    match envelope.body {
        Request::Setup(setup) if setup.version == VERSION => Ok(Some((envelope.id, setup))),
        Request::Setup(setup) => {
            let message = format!("daemon speaks version {}, this monitor speaks {VERSION}", setup.version);
            Err(refuse(ErrorKind::Version, message))
        }
        _ => Err(refuse(ErrorKind::Invalid, "the first message must be a set-up".into())),
    }
}

fn answer(socket: &OwnedFd, id: u64, body: Reply) {
    if let Ok(bytes) = serde_json::to_vec(&Envelope { id, body }) {
        // A daemon that went away needs no answer.
        let _gone = seqpacket::send(socket.as_fd(), &bytes, &[]);
    }
}

fn prepare(setup: &Setup) -> Result<EventLoop, String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
    match rustix::process::setsid() {
        // It leads a group already, which the daemon gave it.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(e) => return Err(failed("setsid", &e)),
    }
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
        .map_err(|e| failed("subreaper", &e))?;
    let short: String = setup.pod_id.chars().take(9).collect();
    if let Ok(name) = std::ffi::CString::new(format!("gantry:{short}")) {
        // A name for people; nothing depends on it.
        let _unnamed = rustix::thread::set_name(&name);
    }
    let listener = seqpacket::listen(&setup.pod_dir, SOCKET).map_err(|e| e.to_string())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(setup.pod_dir.join(SOCKET), mode)
        .map_err(|e| failed("chmod of the socket", &e))?;
    // Forked while there is one thread, and before any descriptor worth having is open.
    let pause = pause::start(setup)?;
    let children = SigSet::from(Signal::SIGCHLD);
    // Blocked, not ignored: what is ignored would be ignored in the containers, too.
    let mut blocked = children;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        blocked.add(signal);
    }
    blocked.thread_block().map_err(|e| failed("block signals", &e))?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| failed("signalfd", &e))?;
    let start = start_time(pause).map_err(|e| e.to_string())?;
    EventLoop::new(setup, listener, signals, gantry_monitor_api::Process { pid: pause, start_time: start })
}
