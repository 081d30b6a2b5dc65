//! Standard streams on threads of their own: they may be files, pipes or terminals, are shared with others, and
//! so can neither be made non-blocking nor be waited for together with a connection.

use crate::output;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Size of a read.
const READ: usize = 32 << 10;
/// Pieces that wait on either side.
const QUEUE: usize = 4;

/// Reads standard input on a thread that ends with the program, or at the end of file.
pub(crate) fn read_stdin() -> Result<mpsc::Receiver<io::Result<Bytes>>> {
    let (send, receive) = mpsc::channel(QUEUE);
    let read = move || {
        let mut buffer = vec![0; READ];
        loop {
            let read = match rustix::io::read(io::stdin().as_fd(), &mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(&buffer[..n])),
                Err(rustix::io::Errno::INTR) => continue,
                // The other side of a terminal is gone.
                Err(rustix::io::Errno::IO) => return,
                Err(error) => Err(error.into()),
            };
            let failed = read.is_err();
            if send.blocking_send(read).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read).context("start a thread")?;
    Ok(receive)
}

/// Writes to one descriptor on a thread.
#[derive(Debug)]
pub(crate) struct Pump {
    send: mpsc::Sender<Bytes>,
    ended: oneshot::Receiver<()>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

/// A thread that writes to a copy of `fd`.
pub(crate) fn write_to(fd: BorrowedFd<'_>) -> Result<Pump> {
    let fd = fd.try_clone_to_owned().context("duplicate a descriptor")?;
    let (send, mut receive) = mpsc::channel::<Bytes>(QUEUE);
    let (tell, ended) = oneshot::channel();
    let failed = Arc::<Mutex<Option<io::Error>>>::default();
    let slot = failed.clone();
    let write = move || {
        while let Some(bytes) = receive.blocking_recv() {
            if let Err(error) = write_all(&fd, &bytes) {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                break;
            }
        }
        drop(receive);
        // Who asked may have ended.
        let _heard = tell.send(());
    };
    std::thread::Builder::new().name("output".into()).spawn(write).context("start a thread")?;
    Ok(Pump { send, ended, failed })
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Somebody who shares it has made it non-blocking.
                let mut wait = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut wait, None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Pump {
    /// Queues bytes; waits while others are being written.
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() || self.send.send(bytes).await.is_ok() {
            return Ok(());
        }
        self.failure()
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(self) -> Result<()> {
        drop(self.send);
        // The thread going away means the same.
        let _ended = self.ended.await;
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), |error| Err(output::cannot_write(error)))
    }

    fn failure(&self) -> Result<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(output::cannot_write(failed.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[tokio::test]
    async fn what_is_written_comes_whole_and_a_closed_reader_is_told() {
        let (mut reader, writer) = io::pipe().unwrap();
        let pump = write_to(writer.as_fd()).unwrap();
        drop(writer);
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all.len()
        });
        for _ in 0..100 {
            pump.write(vec![7; 10_000].into()).await.unwrap();
        }
        pump.finish().await.unwrap();
        assert_eq!(reading.join().unwrap(), 1_000_000);

        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let pump = write_to(writer.as_fd()).unwrap();
        let error = loop {
            if let Err(error) = pump.write(Bytes::from_static(b"x")).await {
                break error;
            }
        };
        assert!(!output::is_worth_telling(&error));
    }
}
