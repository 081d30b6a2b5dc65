//! Work that concurrent callers share: the first starts it, the others wait for its result.

use crate::{Error, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// A running or finished piece of work. It runs by itself, whoever polls it, and ends when the last
/// waiter has lost interest.
pub(crate) type Flight<T> = Shared<BoxFuture<'static, Result<T>>>;

/// Flights by what they bring.
#[derive(Debug)]
pub(crate) struct Flights<T, P> {
    #[allow(clippy::type_complexity)]
    known: Mutex<HashMap<String, (WeakShared<BoxFuture<'static, Result<T>>>, Arc<P>)>>,
}

impl<T, P> Default for Flights<T, P> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

/// A seat in a flight.
#[derive(Debug)]
pub(crate) struct Joined<T: Clone, P> {
    pub(crate) flight: Flight<T>,
    /// What the flight tells while it is under way.
    pub(crate) news: Arc<P>,
    /// Whether this caller started it.
    pub(crate) started: bool,
}

impl<T: Clone + Send + Sync + 'static, P> Flights<T, P> {
    /// Joins the flight for `key`, or starts one. A flight that has failed is never joined.
    pub(crate) fn join<F>(&self, key: &str, news: P, start: impl FnOnce(Arc<P>) -> F) -> Joined<T, P>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((flight, news)) = known.get(key).and_then(|(f, n)| Some((f.upgrade()?, n)))
            && !matches!(flight.peek(), Some(Err(_)))
        {
            return Joined { flight, news: Arc::clone(news), started: false };
        }
        known.retain(|_, (flight, _)| flight.upgrade().is_some());
        let news = Arc::new(news);
        let task = AbortOnDropHandle::new(tokio::spawn(start(Arc::clone(&news)).in_current_span()));
        let flight = task.map(|joined| joined.unwrap_or_else(|e| Err(broken(&e)))).boxed().shared();
        if let Some(weak) = flight.downgrade() {
            known.insert(key.to_owned(), (weak, Arc::clone(&news)));
        }
        Joined { flight, news, started: true }
    }
}

/// A task that panicked or whose runtime is shutting down.
pub(crate) fn broken(error: &tokio::task::JoinError) -> Error {
    Error::io("run", "image task", std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn concurrent_callers_share_one_flight() {
        let flights = Flights::<u32, ()>::default();
        let (starts, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let join = || {
            let (starts, gate) = (Arc::clone(&starts), Arc::clone(&gate));
            flights.join("k", (), |_| async move {
                starts.fetch_add(1, Ordering::SeqCst);
                gate.notified().await;
                Ok(7)
            })
        };
        let (a, b) = (join(), join());
        assert!(a.started && !b.started);
        drop(a);
        gate.notify_one();
        assert_eq!(b.flight.await.unwrap(), 7);
        assert_eq!(starts.load(Ordering::SeqCst), 1);
        assert!(join().started, "nobody holds the first one any more");
    }

    #[tokio::test]
    async fn a_flight_ends_with_its_last_waiter() {
        struct Guard(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                let _ = self.0.take().map(|s| s.send(()));
            }
        }
        let flights = Flights::<(), ()>::default();
        let (sender, dropped) = tokio::sync::oneshot::channel();
        let guard = Guard(Some(sender));
        let flight = flights.join("k", (), |_| async move {
            let _guard = guard;
            futures::future::pending().await
        });
        drop(flight);
        dropped.await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_flight_is_not_joined() {
        let flights = Flights::<(), ()>::default();
        let failed = flights.join("k", (), |_| async { Err(Error::corrupt("x", "y")) });
        failed.flight.clone().await.unwrap_err();
        let again = flights.join("k", (), |_| async { Ok(()) });
        assert!(again.started);
        again.flight.await.unwrap();
        let panicked = flights.join("p", (), |_| async { panic!("on purpose") });
        assert!(panicked.flight.await.unwrap_err().to_string().contains("image task"));
    }
}
