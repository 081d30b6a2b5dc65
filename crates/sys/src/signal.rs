//! Signals of this process.

use crate::{Error, Result};
use nix::libc;

/// Undoes what the Rust runtime changed at start, as it has to be before execve: a program that
/// writes to a broken pipe is to be killed by `SIGPIPE`, and nothing is to be blocked.
pub fn restore_for_exec() -> Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if previous == libc::SIG_ERR {
        return Err(Error::from_io("signal", "SIGPIPE, SIG_DFL", &std::io::Error::last_os_error()));
    }
    let nothing = nix::sys::signal::SigSet::empty();
    nothing.thread_set_mask().map_err(|e| Error::from_io("sigprocmask", "SIG_SETMASK, {}", &e.into()))
}
