//! One span per request, and what is counted and logged of it.

use super::method::{Class, Method};
use super::trace::trace_id;
use crate::code::name;
use crate::metrics::Metrics;
use bytes::Bytes;
use gantry_stage::Stage;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span};

/// Target of the span of a request; its fields are `method` and, where the client sent one, `trace_id`.
pub(crate) const REQUEST_TARGET: &str = "gantry::request";

/// Counts, times and logs calls.
#[derive(Debug, Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    metrics: Metrics,
    slow: Duration,
}

impl<S> Observe<S> {
    /// Calls that take longer than `slow` are warned of, with the stage that they are in.
    pub(crate) fn new(inner: S, metrics: Metrics, slow: Duration) -> Self {
        Self { inner, metrics, slow }
    }
}

impl<S, B> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let span = tracing::info_span!(
            target: REQUEST_TARGET, parent: None, "request",
            method = method.name, trace_id = tracing::field::Empty
        );
        if let Some(id) = trace_id(request.headers()) {
            span.record("trace_id", id);
        }
        let slow = self.slow;
        let mut record = Record::new(self.metrics.clone(), method, span.clone(), slow);
        let answer = span.in_scope(|| self.inner.call(request));
        let watched = async move {
            let mut answer = pin!(answer);
            let answer = match tokio::time::timeout(slow, answer.as_mut()).await {
                Ok(answer) => answer,
                Err(_) => {
                    record.slow();
                    answer.await
                }
            };
            answer.map(|response| record.attach(response))
        };
        Box::pin(watched.instrument(span))
    }
}

/// What becomes of one call; dropped without an end, its client has gone.
#[derive(Debug)]
struct Record {
    metrics: Metrics,
    method: &'static Method,
    span: Span,
    started: Instant,
    slow: Duration,
    /// It lasts as long as somebody else's program wants.
    patient: bool,
    ended: bool,
}

impl Record {
    fn new(metrics: Metrics, method: &'static Method, span: Span, slow: Duration) -> Self {
        metrics.rpc().in_flight.with_label_values(&[method.service, method.name]).inc();
        Self { metrics, method, span, started: Instant::now(), slow, patient: false, ended: false }
    }

    /// Says that the call goes on for long, and where it is: while it hangs is when one wants to know.
    fn slow(&mut self) {
        // How long these take is their client's business.
        if self.method.class == Class::Watch {
            self.patient = true;
            return;
        }
        let stage = self.metrics.stage_of(&self.span);
        self.patient = stage.is_some_and(Stage::is_the_users_time);
        let (operation, stage) = stage.map_or(("", ""), |s| (s.operation(), s.name()));
        let seconds = self.started.elapsed().as_secs();
        match self.patient {
            true => tracing::debug!(operation, stage, seconds, "long call: it is not answered yet"),
            false => tracing::warn!(operation, stage, seconds, "slow call: it is not answered yet"),
        }
    }

    /// Puts itself into the answer: the call's end is the end of its body, and its code is in the headers
    /// or in the trailers (gRPC over HTTP/2).
    fn attach(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(code) = code_in(response.headers()) {
            self.end(code);
            return response;
        }
        response.map(|body| Body::new(Observed { body, record: self }))
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Method { service, name: method, .. } = *self.method;
        let (took, rpc, code) = (self.started.elapsed(), self.metrics.rpc(), name(code));
        rpc.in_flight.with_label_values(&[service, method]).dec();
        rpc.total.with_label_values(&[service, method, code]).inc();
        rpc.seconds.with_label_values(&[service, method]).observe(took.as_secs_f64());
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.span.in_scope(|| {
            if took >= self.slow && !self.patient {
                tracing::warn!(service, code, duration_ms, "slow call: it is answered now");
            } else {
                tracing::debug!(service, code, duration_ms, "call answered");
            }
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// An answer's body that looks for the code in its trailers.
struct Observed {
    body: Body,
    record: Record,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    self.record.end(code);
                }
            }
            Poll::Ready(Some(Err(status))) => self.record.end(status.code()),
            // An end without a code is none of gRPC's; the client says UNKNOWN, too.
            Poll::Ready(None) => self.record.end(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
