//! Places by class: how many calls of a class run, how many wait, and what is refused.
//!
//! What changes the node runs as a task of its own that keeps its place until it has really ended: a
//! client that leaves or whose time is over neither breaks the work off nor lets more of it pile up than
//! there are places. Reads, and calls that last as long as their client, end with their client.

use super::method::{Class, Method};
use crate::metrics::Metrics;
use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use prometheus::{IntCounter, IntGauge};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tower::Service;
use tracing::Instrument as _;

/// How many calls of a class run and wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Calls that run at the same time.
    pub(crate) running: usize,
    /// Calls that wait for a place; one more is refused.
    pub(crate) waiting: usize,
}

/// The usual limits. Creations are few, since each costs processes and mounts, and more at once only slow
/// each other down; stops last as long as a grace period, which costs nothing.
pub(crate) const fn limits(class: Class) -> Limit {
    match class {
        Class::Read => Limit { running: 64, waiting: 512 },
        Class::Create => Limit { running: 32, waiting: 512 },
        Class::Stop => Limit { running: 512, waiting: 256 },
        Class::Image => Limit { running: 32, waiting: 256 },
        Class::Exec => Limit { running: 128, waiting: 256 },
        Class::Watch => Limit { running: 512, waiting: 0 },
    }
}

/// The places of one socket, by class.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    classes: Arc<HashMap<Class, Place>>,
}

#[derive(Debug)]
struct Place {
    limit: Limit,
    running: Arc<Semaphore>,
    waiting: Semaphore,
    queued: IntGauge,
    shed: IntCounter,
}

/// Counts one call as waiting while it lives.
struct Queued<'a>(&'a IntGauge);

impl<'a> Queued<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Places {
    /// The places of `socket`, by which metrics tell the two sockets apart.
    pub(crate) fn new(metrics: &Metrics, socket: &str, limits: impl Fn(Class) -> Limit) -> Self {
        let place = |class: Class| {
            let limit = limits(class);
            let labels = [socket, class.name()];
            Place {
                limit,
                running: Arc::new(Semaphore::new(limit.running)),
                waiting: Semaphore::new(limit.waiting),
                queued: metrics.rpc().queued.with_label_values(&labels),
                shed: metrics.rpc().shed.with_label_values(&labels),
            }
        };
        Self { classes: Arc::new(Class::ALL.into_iter().map(|c| (c, place(c))).collect()) }
    }

    /// A place for a call of `class`: at once, after a wait in the order of arrival, or never.
    async fn take(&self, class: Class) -> Result<OwnedSemaphorePermit, Status> {
        let closed = || Status::internal("the classes of calls are incomplete");
        let place = self.classes.get(&class).ok_or_else(closed)?;
        if let Ok(permit) = place.running.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let Ok(_seat) = place.waiting.try_acquire() else {
            place.shed.inc();
            let Limit { running, waiting } = place.limit;
            return Err(Status::resource_exhausted(format!(
                "too many calls of class {} at once: {running} run and {waiting} wait; retry later",
                class.name()
            )));
        };
        let _queued = Queued::new(&place.queued);
        place.running.clone().acquire_owned().await.map_err(|_| closed())
    }
}

/// Runs calls when they have a place.
#[derive(Debug, Clone)]
pub(crate) struct Admit<S> {
    inner: S,
    places: Places,
}

impl<S> Admit<S> {
    pub(crate) fn new(inner: S, places: Places) -> Self {
        Self { inner, places }
    }
}

impl<S, B> Service<Request<B>> for Admit<S>
where
    S: Service<Request<B>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone that is ready is the one to call (tower::Service).
        let fresh = self.inner.clone();
        let mut handler = std::mem::replace(&mut self.inner, fresh);
        let places = self.places.clone();
        Box::pin(async move {
            let method = Method::of(request.uri().path());
            let permit = match places.take(method.class).await {
                Ok(permit) => permit,
                Err(status) => return Ok(status.into_http()),
            };
            let work = async move {
                let called = AssertUnwindSafe(async { handler.call(request).await }).catch_unwind().await;
                match called {
                    Ok(Ok(answer)) => Ok(answer.map(|body| Body::new(Held { body, _permit: permit }))),
                    Ok(Err(error)) => Err(error),
                    Err(panic) => Ok(panicked(method, panic.as_ref())),
                }
            };
            match method.class {
                Class::Read | Class::Watch => work.await,
                Class::Create | Class::Stop | Class::Image | Class::Exec => {
                    let task = tokio::spawn(work.in_current_span());
                    // It does not panic; the runtime may be shutting down.
                    task.await.unwrap_or_else(|_| Ok(Status::unavailable("the daemon ends").into_http()))
                }
            }
        })
    }
}

fn panicked(method: &Method, panic: &(dyn std::any::Any + Send)) -> Response<Body> {
    let words = panic.downcast_ref::<&str>().copied();
    let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(
        target: crate::metrics::ERROR_TARGET, rpc = method.name, code = "INTERNAL", panic = words,
        "the handler of a call panicked; this is a fault of gantry"
    );
    Status::internal(format!("{}: the handler panicked; see the daemon's log", method.name)).into_http()
}

/// A body that keeps its call's place until it was sent, or its client has gone.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
