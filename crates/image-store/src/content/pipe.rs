//! The bounded pipe from the network to the thread that unpacks.

use crate::Error;
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Chunks that wait in the pipe; with the size of an HTTP read this bounds the memory of a layer.
const DEPTH: usize = 8;

/// One message of the pipe: bytes, or the end of the blob.
#[derive(Debug)]
pub(crate) enum Chunk {
    Data(Bytes),
    End,
}

/// The writing end.
pub(crate) type Sender = mpsc::Sender<Chunk>;

/// Makes a pipe.
pub(crate) fn pipe() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (sender, Receiver { receiver, current: Bytes::new(), ended: false })
}

/// The reading end, for a thread that may block. A sender that goes away without [`Chunk::End`] is an
/// error, so that a download that was given up never looks complete.
#[derive(Debug)]
pub(crate) struct Receiver {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(bytes)) => self.current = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(wrap(given_up())),
            }
        }
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// The work was given up by whoever wanted it.
pub(crate) fn given_up() -> Error {
    Error::io("fetch", "layer", io::Error::new(io::ErrorKind::Interrupted, "given up"))
}

/// Carries an error of the store through `std::io`.
pub(crate) fn wrap(error: Error) -> io::Error {
    io::Error::other(error)
}

/// What [`wrap`] carried, or the reader's own error as damage of `object`.
pub(crate) fn unwrap(object: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::corrupt(object, error.to_string()),
    }
}
