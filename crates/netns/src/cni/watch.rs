//! Hearing of changes of the configuration and plugin directories, also while they do not exist.

use gantry_sys::watched::Watched;
use gantry_sys::{Error, Result};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use tokio::io::Interest;

/// Attempts to find the directories at rest while they are being made or moved.
const TRIES: usize = 16;

/// What matters in a directory whose files are read.
const INSIDE: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB);

/// What matters in the directory above, where the one that is read may come and go.
const ABOVE: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::MOVED_FROM).union(WatchFlags::DELETE);

/// What matters of every directory on the way.
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

/// Armed for the next change. Whoever is woken arms anew, then looks: so no change is missed.
#[derive(Debug)]
pub(crate) struct Changes {
    fd: Watched,
    /// What is listened for by watch: every event, or those of one name.
    watches: BTreeMap<i32, Vec<Option<OsString>>>,
}

impl Changes {
    /// Listens for changes of `dirs` from now on.
    pub(crate) fn arm(dirs: &[&Path]) -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|e| Error::new("inotify_init1", "", e))?;
        let mut watches = BTreeMap::new();
        for dir in dirs {
            let mut tries = 0;
            // A directory that appears while its parents are being watched is seen on the second look.
            while arm_one(&fd, dir, &mut watches)? != existing(dir) && tries < TRIES {
                tries += 1;
            }
        }
        let fd = Watched::new(fd, Interest::READABLE)?;
        Ok(Self { fd, watches })
    }

    /// Waits for a change that matters.
    pub(crate) async fn next(&self) -> Result<()> {
        loop {
            if self.fd.io(Interest::READABLE, |fd| read(fd, &self.watches)).await? {
                return Ok(());
            }
        }
    }
}

/// Whether one of the events that are there now matters.
fn read(fd: std::os::fd::BorrowedFd<'_>, watches: &BTreeMap<i32, Vec<Option<OsString>>>) -> Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let (mut matters, mut any) = (false, false);
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) if any => return Ok(matters),
            Err(e) => return Err(Error::new("read", "inotify", e)),
        };
        any = true;
        let itself =
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT;
        let name = event.file_name().map(|n| OsString::from(std::ffi::OsStr::from_bytes(n.to_bytes())));
        let wanted = watches.get(&event.wd()).is_some_and(|list| {
            list.iter().any(|w| w.is_none() && name.is_some() || w.is_some() && *w == name)
        });
        matters |= wanted || event.events().intersects(itself);
    }
}

/// Watches `dir`, the nearest directory above that exists, and the end of all above.
fn arm_one(
    fd: &OwnedFd,
    dir: &Path,
    watches: &mut BTreeMap<i32, Vec<Option<OsString>>>,
) -> Result<Option<PathBuf>> {
    let mut found = None;
    let mut child: Option<&Path> = None;
    for path in dir.ancestors() {
        let flags = match (child, &found) {
            (None, _) => INSIDE | ITSELF,
            // The directory that exists, or the one above it.
            (Some(_), None) => ABOVE | ITSELF,
            (Some(c), Some(f)) if c == dir && f == dir => ABOVE | ITSELF,
            _ => ITSELF,
        };
        // One directory may be above another that is read: its watch must keep what it had.
        match inotify::add_watch(fd, path, flags | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR) {
            Ok(watch) => {
                let name = child.and_then(Path::file_name).map(OsString::from);
                watches.entry(watch).or_default().push(name);
                found = found.or_else(|| Some(path.to_owned()));
            }
            // A path through something that is no directory leads nowhere, like a missing one.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(e) => return Err(Error::new("inotify_add_watch", path.display().to_string(), e)),
        }
        child = Some(path);
    }
    Ok(found)
}

fn existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|p| p.is_dir()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `change` and tells whether it was heard; `other` follows it, so that there is an end.
    async fn heard(dirs: &[&Path], change: impl FnOnce()) {
        let changes = Changes::arm(dirs).unwrap();
        change();
        changes.next().await.unwrap();
    }

    #[tokio::test]
    async fn files_and_directories_that_come_and_go_are_heard() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let dir = top.join("a/b/net.d");
        let dirs = [dir.as_path()];
        heard(&dirs, || std::fs::create_dir(top.join("a")).unwrap()).await;
        heard(&dirs, || std::fs::create_dir(top.join("a/b")).unwrap()).await;
        heard(&dirs, || std::fs::create_dir(&dir).unwrap()).await;
        heard(&dirs, || std::fs::write(dir.join("x"), "1").unwrap()).await;
        heard(&dirs, || std::fs::rename(dir.join("x"), dir.join("y")).unwrap()).await;
        heard(&dirs, || std::fs::remove_file(dir.join("y")).unwrap()).await;
        heard(&dirs, || std::fs::rename(top.join("a/b"), top.join("a/c")).unwrap()).await;
        heard(&dirs, || std::fs::rename(top.join("a/c"), top.join("a/b")).unwrap()).await;
        heard(&dirs, || std::fs::remove_dir(&dir).unwrap()).await;
        heard(&dirs, || std::fs::remove_dir_all(top.join("a")).unwrap()).await;
    }

    #[tokio::test]
    async fn what_happens_beside_is_not() {
        let top = tempfile::tempdir().unwrap();
        let (dir, bin) = (top.path().join("net.d"), top.path().join("bin"));
        std::fs::create_dir(&bin).unwrap();
        let changes = Changes::arm(&[&dir, &bin]).unwrap();
        std::fs::write(top.path().join("beside"), "").unwrap();
        let next = changes.next();
        tokio::pin!(next);
        // The event is there already; once it is read, nothing is left to wake anybody.
        let waiting = std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx).is_pending()));
        assert!(waiting.await);
        std::fs::write(bin.join("plugin"), "").unwrap();
        next.await.unwrap();
    }
}
