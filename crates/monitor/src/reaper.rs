//! Collecting the ends of children: of those that are known, and of strays.

use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use std::collections::BTreeMap;
use std::time::Instant;

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
    ends: BTreeMap<i32, (Instant, End)>,
}

impl Strays {
    pub(crate) fn keep(&mut self, pid: i32, end: End) {
        if self.ends.len() >= MAX_STRAYS {
            // A pod that floods its monitor with orphans; the oldest one is the least likely to be asked for.
            let oldest = self.ends.iter().min_by_key(|(_, (at, _))| *at).map(|(pid, _)| *pid);
            oldest.map(|pid| self.ends.remove(&pid));
        }
        self.ends.insert(pid, (Instant::now(), end));
    }

    /// The end of `pid`, if it came after `since`: an earlier one was another process with the same number.
    pub(crate) fn claim(&mut self, pid: i32, since: Instant) -> Option<End> {
        self.ends.remove(&pid).filter(|(at, _)| *at >= since).map(|(_, end)| end)
    }

    /// Drops what came before `since`, the start of the longest running runtime.
    pub(crate) fn forget_before(&mut self, since: Option<Instant>) {
        match since {
            Some(since) => self.ends.retain(|_, (at, _)| *at >= since),
            None => self.ends.clear(),
        }
    }
}

/// Whether `pid` is a child of this process, running or not yet reaped.
pub(crate) fn is_child(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return false };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(pid), look).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_claimed_once_and_only_by_who_started_before_it() {
        let mut strays = Strays::default();
        let end = End { code: 3, signal: None };
        let before = Instant::now();
        strays.keep(7, end);
        let after = Instant::now() + std::time::Duration::from_nanos(1);
        assert_eq!(strays.claim(7, before), Some(end));
        assert_eq!(strays.claim(7, before), None);
        strays.keep(7, end);
        assert_eq!(strays.claim(7, after + std::time::Duration::from_secs(9)), None);
        strays.keep(7, end);
        strays.forget_before(Some(before));
        assert_eq!(strays.claim(7, before), Some(end));
        strays.keep(7, end);
        strays.forget_before(None);
        assert_eq!(strays.claim(7, before), None);
    }

    #[test]
    fn a_flood_of_orphans_is_bounded_and_the_last_one_is_known() {
        let mut strays = Strays::default();
        let (since, end) = (Instant::now(), End { code: 0, signal: None });
        for pid in 1..=MAX_STRAYS as i32 + 5 {
            strays.keep(pid, end);
        }
        assert_eq!(strays.ends.len(), MAX_STRAYS);
        assert_eq!(strays.claim(MAX_STRAYS as i32 + 5, since), Some(end));
    }

    #[test]
    fn others_are_no_children() {
        assert!(!is_child(1));
        assert!(!is_child(0));
    }
}
