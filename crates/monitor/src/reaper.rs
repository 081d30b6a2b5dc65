//! Collecting the ends of children: of those that are known, and of strays.

use rustix::process::{WaitOptions, WaitStatus};
use std::collections::BTreeMap;

/// Most ends of unknown children that are remembered while the OCI runtime is at work.
const MAX_STRAYS: usize = 4096;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Exit status, or 128 plus the signal's number.
    pub(crate) code: i32,
    /// The signal, if one ended it.
    pub(crate) signal: Option<i32>,
}

/// Ends of children that nobody has asked for yet. A container may end before the runtime that started
/// it has said its pid; while a runtime is at work such ends are kept.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    ends: BTreeMap<i32, End>,
}

impl Strays {
    pub(crate) fn keep(&mut self, pid: i32, end: End) {
        if self.ends.len() < MAX_STRAYS {
            self.ends.insert(pid, end);
        }
    }

    pub(crate) fn claim(&mut self, pid: i32) -> Option<End> {
        self.ends.remove(&pid)
    }

    pub(crate) fn forget_all(&mut self) {
        self.ends.clear();
    }
}

/// The next child that has ended, if any.
pub(crate) fn next() -> Option<(i32, End)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if let Some(end) = end_of(status) {
                    return Some((pid.as_raw_nonzero().get(), end));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn end_of(status: WaitStatus) -> Option<End> {
    if let Some(code) = status.exit_status() {
        return Some(End { code, signal: None });
    }
    status.terminating_signal().map(|signal| End { code: 128 + signal, signal: Some(signal) })
}
