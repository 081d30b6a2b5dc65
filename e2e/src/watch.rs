//! Waiting for something to happen in a directory: inotify, never a clock.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What takes longer than this has hung.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Directories whose changes wake a waiting test.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    dirs: Vec<PathBuf>,
}

impl Watch {
    /// Watches the given directories; make it before the first look, so that no change is missed.
    pub fn new(dirs: &[&Path]) -> Self {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify_init1");
        let events = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE;
        for dir in dirs {
            inotify::add_watch(&fd, *dir, events).unwrap_or_else(|e| panic!("watch {}: {e}", dir.display()));
        }
        Self { fd, dirs: dirs.iter().map(|d| (*d).to_owned()).collect() }
    }

    /// Looks, then again after each change, until there is something to see.
    ///
    /// Panics with `what` when nothing came of it within [`LIMIT`].
    #[track_caller]
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        match self.until_or(what, None::<&OwnedFd>, look) {
            Some(seen) => seen,
            None => unreachable!("there was nothing else to end the wait"),
        }
    }

    /// As [`Watch::until`]; `None` when `other` (a pidfd) became readable first.
    #[track_caller]
    pub fn until_or<T>(
        &self,
        what: &str,
        other: Option<&impl AsFd>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(seen) = look() {
                return Some(seen);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = vec![PollFd::new(&self.fd, PollFlags::IN)];
            fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::IN)));
            let ready = poll(&mut fds, Some(&timespec(left))).unwrap_or(0);
            assert!(ready > 0 || !left.is_zero(), "{what}: nothing within {LIMIT:?} in {:?}", self.dirs);
            let ended = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            self.drain();
            if ended {
                return look();
            }
        }
    }

    fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        // Which file it was does not matter: the caller looks for itself. EAGAIN ends the queue.
        while reader.next().is_ok() {}
    }
}

/// Waits until one of `fds` is readable or has hung up; `false` when the time is up.
pub(crate) fn wait_readable(fds: &[&OwnedFd], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&timespec(left))) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_interrupted) => {}
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    let secs = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: secs, tv_nsec: duration.subsec_nanos().into() }
}

/// Waits until a file satisfies `enough`; its text then. Its directory must be there.
#[track_caller]
pub fn wait_file(path: &Path, what: &str, enough: impl Fn(&str) -> bool) -> String {
    let dir = path.parent().expect("a file is in a directory");
    Watch::new(&[dir]).until(what, || {
        // A log may hold any bytes.
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        enough(&text).then_some(text)
    })
}

/// What a container wrote, line by line, from the text of its log (`<time> <stream> <tag> <text>`).
///
/// Panics on a line that is not one of a CRI log.
#[track_caller]
pub fn logged(text: &str) -> Vec<&str> {
    let content = |line| {
        let mut fields = str::splitn(line, 4, ' ');
        let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
        let valid = time.len() > 20 && matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P");
        valid.then(|| fields.next()).flatten()
    };
    text.lines()
        .map(|line| content(line).unwrap_or_else(|| panic!("not a line of a CRI log: {line:?}")))
        .collect()
}
