//! The user's terminal, raw while a session has it.

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::os::fd::{AsFd as _, OwnedFd};

/// The terminal on standard input. It is as it was when this value is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Terminal {
    fd: OwnedFd,
    before: Termios,
}

impl Terminal {
    /// Makes it raw: keys come as they are typed, and none of them is a signal. `None` where standard input is
    /// no terminal.
    pub(crate) fn raw() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !isatty(stdin.as_fd()) {
            return Ok(None);
        }
        let fd = stdin.as_fd().try_clone_to_owned().context("duplicate standard input")?;
        let before = tcgetattr(&fd).context("look at the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        let terminal = Self { fd, before };
        tcsetattr(&terminal.fd, OptionalActions::Drain, &raw).context("make the terminal raw")?;
        Ok(Some(terminal))
    }

    /// Columns and rows; `None` where it has none (a serial line).
    pub(crate) fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.fd).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.fd, OptionalActions::Now, &self.before) {
            // EIO: the terminal itself is gone.
            if error != rustix::io::Errno::IO {
                eprintln!("gantry: the terminal cannot be set as it was ({error}); `reset` does it");
            }
        }
    }
}
