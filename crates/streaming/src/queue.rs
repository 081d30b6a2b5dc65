//! A queue of byte pieces with a bound in bytes: one side waits while it is full, the other while it is empty.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What a piece costs beside its bytes; many small ones must not take more memory than few large ones.
const OVERHEAD: usize = 128;

/// Pieces below this size are copied: one byte must not keep the whole buffer alive that it was read into.
const SMALL: usize = 4096;

/// The queue; shared by one producer and one consumer.
#[derive(Debug)]
pub(crate) struct ByteQueue {
    limit: usize,
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Bytes>,
    cost: usize,
    ended: bool,
}

impl ByteQueue {
    /// A queue that takes pieces while it holds less than `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), filled: Notify::new(), emptied: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a piece in, when there is room; drops it after the end.
    pub(crate) async fn push(&self, piece: Bytes) {
        let piece = if piece.len() < SMALL { Bytes::copy_from_slice(&piece) } else { piece };
        loop {
            {
                let mut state = self.state();
                if state.ended {
                    return;
                }
                if state.cost < self.limit {
                    state.cost += piece.len() + OVERHEAD;
                    state.pieces.push_back(piece);
                    self.filled.notify_one();
                    return;
                }
            }
            self.emptied.notified().await;
        }
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn pop(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.state();
                if let Some(piece) = state.pieces.pop_front() {
                    state.cost -= piece.len() + OVERHEAD;
                    self.emptied.notify_one();
                    return Some(piece);
                }
                if state.ended {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Takes no more; what is in can be taken out.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.filled.notify_one();
        self.emptied.notify_one();
    }

    /// Takes no more and forgets what is in. Returns how many bytes that were.
    pub(crate) fn abort(&self) -> usize {
        let forgotten = {
            let mut state = self.state();
            state.ended = true;
            state.cost = 0;
            state.pieces.drain(..).map(|p| p.len()).sum()
        };
        self.filled.notify_one();
        self.emptied.notify_one();
        forgotten
    }

    /// Bytes that are held now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.state().pieces.iter().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_full_queue_waits_and_small_pieces_count() {
        let queue = ByteQueue::new(10_000);
        let mut pushed = 0;
        while queue.push(Bytes::from_static(b"x")).now_or_never().is_some() {
            pushed += 1;
        }
        assert!((70..90).contains(&pushed), "{pushed}");
        assert_eq!(queue.held(), pushed);
        assert_eq!(queue.pop().await.unwrap().len(), 1);
        queue.push(Bytes::from_static(b"y")).await;
        assert!(queue.push(Bytes::from_static(b"z")).now_or_never().is_none());
        queue.end();
        queue.push(Bytes::from_static(b"dropped")).await;
        let mut left = 0;
        while queue.pop().await.is_some() {
            left += 1;
        }
        assert_eq!(left, pushed);
    }

    #[tokio::test]
    async fn an_abort_wakes_both_sides() {
        let queue = ByteQueue::new(1);
        queue.push(Bytes::from_static(b"abc")).await;
        let (_, forgotten) = tokio::join!(queue.push(Bytes::from_static(b"d")), async { queue.abort() });
        assert_eq!(forgotten, 3);
        assert_eq!(queue.pop().await, None);
    }
}
