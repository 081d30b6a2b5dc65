//! Signals of this process.

use crate::{Error, Result};
use nix::libc;

/// Makes this process's signals those of a fresh program, as they have to be before execve: what the Rust
/// runtime changed at start, and what the caller had ignored or blocked, is not the new program's business.
pub fn restore_for_exec() -> Result<()> {
    // 32 and 33 are libc's own, and it refuses to touch them.
    let numbers =
        (1..=31).chain(34..=libc::SIGRTMAX()).filter(|n| ![libc::SIGKILL, libc::SIGSTOP].contains(n));
    for number in numbers {
        // SAFETY: the default disposition runs no code of ours.
        let previous = unsafe { libc::signal(number, libc::SIG_DFL) };
        if previous == libc::SIG_ERR {
            let error = std::io::Error::last_os_error();
            return Err(Error::from_io("signal", format!("{number}, SIG_DFL"), &error));
        }
    }
    let nothing = nix::sys::signal::SigSet::empty();
    nothing.thread_set_mask().map_err(|e| Error::from_io("sigprocmask", "SIG_SETMASK, {}", &e.into()))
}
