//! The latest events, numbered without gaps; bounded by count and by bytes.

use std::collections::VecDeque;
use std::sync::Arc;

/// What a reader finds behind its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// The next one.
    Event(Arc<T>),
    /// Nothing yet.
    Nothing,
    /// Events that are not kept any more.
    Lost,
}

/// A ring of events. The oldest give way to new ones, whether somebody has read them or not.
#[derive(Debug)]
pub(super) struct Ring<T> {
    events: VecDeque<(Arc<T>, usize)>,
    /// Number of the oldest that is kept.
    first: u64,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl<T> Ring<T> {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), first: 0, bytes: 0, max_events, max_bytes }
    }

    /// Adds one of `bytes` bytes. The newest stays, however large it is.
    pub(super) fn push(&mut self, event: T, bytes: usize) {
        self.events.push_back((Arc::new(event), bytes));
        self.bytes += bytes;
        while self.events.len() > 1 && (self.events.len() > self.max_events || self.bytes > self.max_bytes) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes)) = self.events.pop_front() {
            self.bytes -= bytes;
            self.first += 1;
        }
    }

    /// Number that the next event will get.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The event with this number.
    pub(super) fn at(&self, number: u64) -> Next<T> {
        match number.checked_sub(self.first) {
            None => Next::Lost,
            Some(index) => {
                let found = usize::try_from(index).ok().and_then(|i| self.events.get(i));
                found.map_or(Next::Nothing, |(event, _)| Next::Event(event.clone()))
            }
        }
    }

    /// Keeps none; numbers go on.
    pub(super) fn clear(&mut self) {
        self.first = self.next_number();
        self.events = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_and_the_oldest_go_first() {
        let mut ring = Ring::new(3, 100);
        assert_eq!(ring.at(0), Next::Nothing);
        for n in 0..5 {
            assert_eq!(ring.next_number(), n);
            ring.push(n, 1);
        }
        assert_eq!(ring.at(1), Next::Lost);
        for n in 2..5 {
            assert_eq!(ring.at(n), Next::Event(Arc::new(n)));
        }
        assert_eq!(ring.at(5), Next::Nothing);
        ring.clear();
        assert_eq!((ring.next_number(), ring.at(4), ring.at(5)), (5, Next::Lost, Next::Nothing));
    }

    #[test]
    fn large_ones_push_others_out_and_the_newest_stays() {
        let mut ring = Ring::new(10, 100);
        ring.push('a', 40);
        ring.push('b', 40);
        ring.push('c', 40);
        assert_eq!((ring.at(0), ring.at(1)), (Next::Lost, Next::Event(Arc::new('b'))));
        ring.push('d', 1000);
        assert_eq!((ring.at(2), ring.at(3)), (Next::Lost, Next::Event(Arc::new('d'))));
        ring.push('e', 1);
        assert_eq!((ring.at(3), ring.at(4)), (Next::Lost, Next::Event(Arc::new('e'))));
    }
}
