//! Processes named so that a recycled pid is never mistaken for the one that was meant.

use crate::{Error, Result};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A process held by pidfd; its pid cannot be recycled into another process behind our back.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    start_time: u64,
    fd: OwnedFd,
}

impl Process {
    /// Opens the process `pid`; `ESRCH` when there is none.
    pub fn open(pid: i32) -> Result<Self> {
        let raw = Pid::from_raw(pid).ok_or_else(|| Error::new("pidfd_open", pid.to_string(), Errno::SRCH))?;
        let fd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
            .map_err(|e| Error::new("pidfd_open", pid.to_string(), e))?;
        let start_time = start_time(pid)?;
        Ok(Self { pid, start_time, fd })
    }

    /// Opens `pid` only if it is still the process that started at `start_time`
    /// (see [`start_time`]); `ESRCH` when it is gone or recycled.
    pub fn open_exact(pid: i32, start_time: u64) -> Result<Self> {
        let process = Self::open(pid)?;
        if process.start_time != start_time {
            return Err(Error::new("pidfd_open", format!("{pid} started at {start_time}"), Errno::SRCH));
        }
        Ok(process)
    }

    /// The process id, as this process sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Start time in clock ticks since boot (proc(5), `/proc/pid/stat` field 22).
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Sends a signal by number (1 to 64); `ESRCH` when the process has been reaped.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let args = || format!("{}, {signal}", self.pid);
        // Real-time signals are valid to send; 1..=64 is the kernel's whole range.
        let signal = if (1..=64).contains(&signal) {
            // SAFETY: the number was just checked to be one that the kernel knows.
            unsafe { Signal::from_raw_unchecked(signal) }
        } else {
            return Err(Error::new("pidfd_send_signal", args(), Errno::INVAL));
        };
        rustix::process::pidfd_send_signal(&self.fd, signal)
            .map_err(|e| Error::new("pidfd_send_signal", args(), e))
    }

    /// Whether the process has exited (also true for a zombie); never blocks.
    pub fn has_exited(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }
}

impl AsFd for Process {
    /// The pidfd; it polls readable once the process has exited.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Start time of `pid` in clock ticks since boot, field 22 of `/proc/<pid>/stat`; `ESRCH` when there is no such process.
pub fn start_time(pid: i32) -> Result<u64> {
    let gone = |errno| Error::new("read /proc/pid/stat", pid.to_string(), errno);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| gone(Errno::SRCH))?;
    parse_start_time(&stat).ok_or_else(|| gone(Errno::IO))
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The command may hold spaces and parentheses: count fields after the last ')'.
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_a_hostile_command_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(parse_start_time(stat), Some(4242));
    }

    #[test]
    fn a_recycled_pid_is_refused() {
        let me = std::process::id() as i32;
        let now = start_time(me).unwrap();
        assert_eq!(Process::open_exact(me, now).unwrap().pid(), me);
        assert_eq!(Process::open_exact(me, now + 1).unwrap_err().errno(), Errno::SRCH);
    }

    #[test]
    fn a_signal_that_does_not_exist_is_refused() {
        let me = Process::open(std::process::id() as i32).unwrap();
        assert_eq!(me.signal(65).unwrap_err().errno(), Errno::INVAL);
        assert!(!me.has_exited());
    }
}
