//! What the monitor keeps of a container and of an exec session.

use crate::reaper::End;
use crate::waiter::Answer;
use gantry_monitor_api::{ExitRecord, Process, VERSION};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A container that was started and not forgotten.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) process: Process,
    pub(crate) bundle: PathBuf,
    pub(crate) started_at: i64,
    /// The same moment by a clock that nobody sets.
    pub(crate) begun: Instant,
    pub(crate) oom: OomCounter,
    /// Our end of its standard input, if it has one.
    pub(crate) stdin: Option<OwnedFd>,
    /// The controlling side of its terminal, if it has one.
    pub(crate) terminal: Option<OwnedFd>,
    /// Where the runtime's `wait` tells how it ended, if that stands for it.
    pub(crate) answer: Option<Answer>,
    pub(crate) exit: Option<ExitRecord>,
    /// There was no room for the exit record; it is tried again.
    pub(crate) unwritten: bool,
}

/// The kernel's count of OOM kills, and what it was when the container started.
#[derive(Debug, Default)]
pub(crate) struct OomCounter {
    file: Option<PathBuf>,
    before: u64,
}

impl OomCounter {
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let before = file.as_deref().map_or(0, oom_kills);
        Self { file, before }
    }

    fn has_grown(&self) -> bool {
        self.file.as_deref().is_some_and(|f| oom_kills(f) > self.before)
    }
}

/// The `oom_kill` line of `memory.events` (v2) or `memory.oom_control` (v1); 0 when it cannot be read.
fn oom_kills(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// When a container ended that ran for `ran`: what the clock says now, unless it was set back meanwhile; a
/// container has never run for less time than it has.
fn finished_at(started_at: i64, now: i64, ran: Duration) -> i64 {
    now.max(started_at.saturating_add(i64::try_from(ran.as_nanos()).unwrap_or(i64::MAX)))
}

/// How a container ended: on disk before anybody is told.
pub(crate) fn record_end(id: &str, container: &mut Container, end: End) {
    let end = container.answer.take().map_or(end, Answer::end);
    let record = ExitRecord {
        version: VERSION,
        container_id: id.to_owned(),
        exit_code: end.code,
        signal: end.signal,
        // The kernel kills with SIGKILL; a process that ended otherwise was not its victim.
        oom_killed: end.signal == Some(9) && container.oom.has_grown(),
        started_at: container.started_at,
        finished_at: finished_at(container.started_at, crate::runtime_call::now(), container.begun.elapsed()),
    };
    if let Err(error) = record.write(&container.bundle) {
        // It stays in memory, is told all the same, and is written as soon as there is room; only a daemon
        // that starts after this monitor died meanwhile would not know it.
        crate::note(format_args!("{error}; trying again"));
        container.unwritten = true;
    }
    container.exit = Some(record);
}

/// Tries again to write the record of an end for which there was no room.
pub(crate) fn write_again(container: &mut Container) {
    if let (true, Some(record)) = (container.unwritten, &container.exit) {
        container.unwritten = record.write(&container.bundle).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_after_its_start_whatever_becomes_of_the_clock() {
        let ran = Duration::from_secs(5);
        assert_eq!(finished_at(1_000, 9_000_000_000, ran), 9_000_000_000, "set forward, or not at all");
        assert_eq!(finished_at(8_000_000_000, 1_000, ran), 13_000_000_000, "set back");
        assert_eq!(finished_at(i64::MAX, 0, ran), i64::MAX);
    }

    #[test]
    fn oom_kills_are_counted_on_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c");
        for (text, count) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
            ("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n", 1),
            ("", 0),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(oom_kills(&file), count, "{text}");
        }
        assert_eq!(oom_kills(Path::new("/nonexistent")), 0);
        assert!(!OomCounter::new(None).has_grown());
    }
}
