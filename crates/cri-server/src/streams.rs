//! Answers that come in parts: lists of any length, each part made when its client takes it.

use crate::code::status;
use gantry_pod_sandbox::{Cursor, Result};
use std::pin::Pin;
use tonic::Status;

/// An answer in parts.
pub(crate) type Items<T> = Pin<Box<dyn futures::Stream<Item = std::result::Result<T, Status>> + Send>>;

/// The pages that `next` makes, from the first to the one before an empty one, each put into a message by
/// `wrap`. Between two pages there is only the cursor: a client that takes nothing costs no memory, one that
/// goes away leaves nothing.
pub(crate) fn pages<T, R, F>(
    rpc: &'static str,
    next: impl Fn(Cursor) -> F + Send + 'static,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Items<R>
where
    F: Future<Output = Result<(Vec<T>, Cursor)>> + Send + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    let pages = futures::stream::unfold((Some(Cursor::default()), next, wrap), move |state| async move {
        let (cursor, next, wrap) = state;
        match next(cursor?).await {
            Ok((items, _)) if items.is_empty() => None,
            Ok((items, cursor)) => Some((Ok(wrap(items)), (Some(cursor), next, wrap))),
            // After an error there is nothing more to say.
            Err(error) => Some((Err(status(rpc, &error)), (None, next, wrap))),
        }
    });
    Box::pin(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use gantry_pod_sandbox::{Error, Kind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A source of `full` pages, then an empty one or an error; counts what was asked for.
    fn source(full: usize, fails: bool) -> (Items<usize>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let next = move |cursor| {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            async move {
                match n {
                    n if n < full => Ok((vec![n; n + 1], cursor)),
                    _ if fails => Err(Error::new(Kind::NotFound, "gone")),
                    _ => Ok((Vec::new(), cursor)),
                }
            }
        };
        (pages("X", next, |page: Vec<usize>| page.len()), asked)
    }

    #[tokio::test]
    async fn a_page_is_made_when_it_is_taken() {
        let (mut stream, asked) = source(100, false);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        assert_eq!(stream.next().await.unwrap().unwrap(), 2);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_end_and_errors_end_it() {
        let (stream, _) = source(2, false);
        assert_eq!(stream.map(|page| page.unwrap()).collect::<Vec<_>>().await, [1, 2]);
        let (stream, asked) = source(1, true);
        let all: Vec<_> = stream.collect().await;
        assert_eq!((all.len(), all[1].as_ref().unwrap_err().code()), (2, tonic::Code::NotFound));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
