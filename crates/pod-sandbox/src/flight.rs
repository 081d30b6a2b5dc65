//! Calls that are retried or doubled join the first one and get its result.

use crate::error::Kind;
use crate::{Error, Result};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Instrument as _;

/// Running calls by key. A call runs on a task of its own: a caller that goes away does not end it.
pub(crate) struct Flights<K, T: Clone> {
    running: Arc<Mutex<HashMap<K, Call<T>>>>,
}

/// A running call that any number of callers wait for.
type Call<T> = Shared<BoxFuture<'static, Result<T>>>;

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self { running: Arc::default() }
    }

    /// Result of the running call for `key`, or of `start()` when there is none.
    pub(crate) async fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let call = {
            let mut running = lock(&self.running);
            match running.get(&key) {
                Some(call) => call.clone(),
                None => {
                    let work = start();
                    let (map, mine) = (self.running.clone(), key.clone());
                    // What it logs belongs to the request that began it.
                    let work = async move {
                        let result = work.await;
                        lock(&map).remove(&mine);
                        result
                    };
                    let task = tokio::spawn(work.in_current_span());
                    let (map, mine) = (self.running.clone(), key.clone());
                    let call = async move {
                        task.await.unwrap_or_else(|e| {
                            lock(&map).remove(&mine);
                            Err(Error::new(Kind::Internal, format!("the operation ended abnormally: {e}")))
                        })
                    };
                    let call = call.boxed().shared();
                    running.insert(key, call.clone());
                    call
                }
            }
        };
        call.await
    }
}

impl<K, T: Clone> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// Runs `work` on a task of its own, so that a client that disconnects leaves nothing half done.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let ended = |e| Err(Error::new(Kind::Internal, format!("the operation ended abnormally: {e}")));
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(ended)
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = |e| Err(Error::new(Kind::Internal, format!("the operation ended abnormally: {e}")));
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.unwrap_or_else(ended)
}

/// Locks a mutex whose data stays consistent even if a holder panicked between two assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn calls_with_one_key_run_once_and_survive_the_first_caller() {
        let flights = Arc::new(Flights::<&str, usize>::new());
        let count = Arc::new(AtomicUsize::new(0));
        let (open, gate) = tokio::sync::watch::channel(false);
        let call = |flights: Arc<Flights<&'static str, usize>>| {
            let (count, mut gate) = (count.clone(), gate.clone());
            async move {
                let work = move || async move {
                    gate.wait_for(|open| *open).await.unwrap();
                    Ok(count.fetch_add(1, Ordering::SeqCst) + 1)
                };
                flights.join("k", work).await
            }
        };
        let first = tokio::spawn(call(flights.clone()));
        let second = tokio::spawn(call(flights.clone()));
        while lock(&flights.running).is_empty() {
            tokio::task::yield_now().await;
        }
        first.abort();
        tokio::task::yield_now().await;
        open.send(true).unwrap();
        assert_eq!(second.await.unwrap().unwrap(), 1);
        assert_eq!(call(flights.clone()).await.unwrap(), 2, "a finished call is not joined");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_key() {
        let flights = Flights::<&str, ()>::new();
        let error = flights.join("k", || async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        flights.join("k", || async { Ok(()) }).await.unwrap();
    }
}
