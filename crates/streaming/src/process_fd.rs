//! Descriptors of processes: pipes and terminals, read and written as they are.

use gantry_sys::watched::register;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Most bytes that a pipe holds (pipe(7), `fs.pipe-max-size`'s default); more is not read after the end.
const MAX_PIPE: usize = 1 << 20;

/// One end of a pipe, or the controlling side of a terminal. Clones share the descriptor.
///
/// A terminal without processes, which answers `EIO`, is at its end of file.
#[derive(Debug)]
pub struct ProcessFd {
    fd: Arc<AsyncFd<OwnedFd>>,
    ended: Option<Ended>,
}

/// The end of the process, for a reader that must not wait for what the process left behind.
#[derive(Debug)]
struct Ended {
    token: CancellationToken,
    wait: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What may still be read after the end.
    left: usize,
}

impl ProcessFd {
    /// Takes over a descriptor and makes it non-blocking.
    ///
    /// # Errors
    ///
    /// What the kernel says: the descriptor cannot be waited for, or no memory.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd: Arc::new(register(fd, interest).map_err(io::Error::other)?), ended: None })
    }

    /// Another handle on the same descriptor.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { fd: self.fd.clone(), ended: None }
    }

    /// Reading ends when `token` is cancelled and what is in the pipe by then has been read: a process that
    /// left something running with the pipe open is not waited for.
    #[must_use]
    pub fn until(mut self, token: CancellationToken) -> Self {
        let wait = Box::pin(token.clone().cancelled_owned());
        self.ended = Some(Ended { token, wait, left: MAX_PIPE });
        self
    }

    /// The descriptor.
    pub fn get(&self) -> &OwnedFd {
        self.fd.get_ref()
    }

    fn read_now(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        match rustix::io::read(self.fd.get_ref(), buffer.initialize_unfilled()) {
            Ok(n) => {
                buffer.advance(n);
                Ok(n)
            }
            Err(Errno::IO) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsyncRead for ProcessFd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ended.as_ref().is_some_and(|e| e.token.is_cancelled()) {
                // The descriptor is read directly: the reactor may not have heard of the last bytes yet.
                let read = loop {
                    match this.read_now(buffer) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(0),
                        other => break other,
                    }
                };
                let read = read?;
                if let Some(ended) = &mut this.ended {
                    if ended.left == 0 {
                        buffer.set_filled(buffer.filled().len() - read);
                    }
                    ended.left = ended.left.saturating_sub(read);
                }
                return Poll::Ready(Ok(()));
            }
            let mut guard = match this.fd.poll_read_ready(context) {
                Poll::Ready(guard) => guard?,
                Poll::Pending => {
                    let Some(ended) = &mut this.ended else { return Poll::Pending };
                    ready!(ended.wait.as_mut().poll(context));
                    continue;
                }
            };
            match this.read_now(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for ProcessFd {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            match rustix::io::write(self.fd.get_ref(), bytes) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn what_is_in_the_pipe_at_the_end_is_read_and_the_rest_is_not_waited_for() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let token = CancellationToken::new();
        let mut reader = ProcessFd::new(reader.into(), Interest::READABLE).unwrap().until(token.clone());
        writer.write_all(&[1; 50_000]).unwrap();
        let mut bytes = Vec::new();
        let ends = async { token.cancel() };
        let (read, ()) = tokio::join!(reader.read_to_end(&mut bytes), ends);
        assert_eq!((read.unwrap(), bytes.len()), (50_000, 50_000));
        drop(writer);
    }

    #[tokio::test]
    async fn the_end_wakes_a_reader() {
        let (reader, writer) = std::io::pipe().unwrap();
        let token = CancellationToken::new();
        let mut reader = ProcessFd::new(reader.into(), Interest::READABLE).unwrap().until(token.clone());
        let waiting = tokio::spawn(async move { reader.read_u8().await });
        tokio::task::yield_now().await;
        token.cancel();
        waiting.await.unwrap().unwrap_err();
        drop(writer);
    }
}
