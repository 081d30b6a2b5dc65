//! Network namespaces: work inside one without moving the threads of the daemon.

use crate::{Error, Result};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd as _, OwnedFd};

/// Runs `work` on a thread of its own inside the network namespace `netns`, and waits for it.
///
/// Sockets that it makes stay in that namespace wherever they are used later (network_namespaces(7)).
pub fn run_inside<T: Send + 'static>(netns: OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let inside = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::new("setns", "CLONE_NEWNET", e))?;
        Ok(work())
    };
    let thread = std::thread::Builder::new()
        .name("netns".into())
        .spawn(inside)
        .map_err(|e| Error::from_io("clone", "thread for a network namespace", &e))?;
    thread.join().unwrap_or_else(|_| Err(Error::new("thread", "in a network namespace panicked", Errno::IO)))
}

/// The calling thread's network namespace.
pub fn current() -> Result<OwnedFd> {
    let path = format!("/proc/self/task/{}/ns/net", rustix::thread::gettid().as_raw_nonzero());
    let file = std::fs::File::open(&path).map_err(|e| Error::from_io("open", path, &e))?;
    Ok(file.into())
}
