//! Descriptors that asynchronous code waits for. With the feature `tokio`, which the daemon's crates
//! use and the monitor does not.

use crate::{Error, Result};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owned descriptor that is registered with the tokio reactor of the calling task.
#[derive(Debug)]
pub struct Watched {
    fd: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Registers `fd`, which must be in non-blocking mode if it is read or written.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new(fd: OwnedFd, interest: Interest) -> Result<Self> {
        Ok(Self { fd: register(fd, interest)? })
    }

    /// Waits until the descriptor is readable, without reading.
    pub async fn readable(&self) -> Result<()> {
        let ready = self.fd.readable().await;
        ready.map(|_| ()).map_err(|e| Error::from_io("epoll_wait", "", &e))
    }

    /// Runs `call` when the descriptor is ready for `interest`, again while it answers `EAGAIN`.
    pub async fn io<T>(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        let once = |fd: &OwnedFd| match call(fd.as_fd()) {
            Err(e) if e.errno() == Errno::AGAIN => Err(std::io::ErrorKind::WouldBlock.into()),
            other => Ok(other),
        };
        self.fd.async_io(interest, once).await.map_err(|e| Error::from_io("epoll_wait", "", &e))?
    }
}

/// Registers `fd`, which must be in non-blocking mode, with the tokio reactor of the calling task: for
/// callers that poll.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that is registered and never replaced; it stays open and
    // the same until the registration is dropped with it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
        .map_err(|e| Error::from_io("epoll_ctl", "", &std::io::Error::from(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seqpacket;

    #[tokio::test]
    async fn waits_for_a_message() {
        let (a, b) = seqpacket::pair().unwrap();
        seqpacket::set_nonblocking(b.as_fd()).unwrap();
        let b = Watched::new(b, Interest::READABLE).unwrap();
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 8];
            b.io(Interest::READABLE, |fd| seqpacket::receive(fd, &mut buffer)).await.unwrap().unwrap().0
        });
        tokio::task::yield_now().await;
        seqpacket::send(a.as_fd(), b"hello", &[]).unwrap();
        assert_eq!(reader.await.unwrap(), 5);
    }
}
