//! Waiting for a child in the foreground, with this program's signals passed on to it.

use crate::error::{Error, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions};

/// Waits until the child `pid` has exited; its exit status as shells have it (128 + signal).
pub(crate) fn wait(pid: i32) -> Result<i32> {
    let failed = |what: &str, e: std::io::Error| Error::Usage(format!("{what} {pid}: {e}"));
    let child = gantry_sys::pidfd::Process::open(pid)?;
    let mut signals = SigSet::all();
    // These are for this program: a fault of its own, and the end of children.
    for own in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGCHLD] {
        signals.remove(own);
    }
    signals.thread_block().map_err(|e| failed("block signals for", e.into()))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let pending = SignalFd::with_flags(&signals, flags).map_err(|e| failed("signalfd for", e.into()))?;
    loop {
        let mut fds = [PollFd::new(&child, PollFlags::IN), PollFd::new(&pending, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed("wait for", e.into())),
        }
        while let Ok(Some(info)) = pending.read_signal() {
            // The child may have gone in between.
            let _gone = child.signal(info.ssi_signo as i32);
        }
        if child.has_exited() {
            break;
        }
    }
    let status = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())
        .map_err(|e| failed("reap", e.into()))?;
    let code = status.and_then(|(_, s)| s.exit_status().or_else(|| s.terminating_signal().map(|s| 128 + s)));
    Ok(code.unwrap_or(255))
}
