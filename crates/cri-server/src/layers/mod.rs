//! What every call goes through, on both sockets, before and after its handler.
//!
//! From the outside in: [`observe`] (span, trace context, counts, slow calls), [`deadline`] (the client's
//! time is up: it is told, the operation goes on), [`admit`] (a place in the call's class, or refusal when
//! its queue is full; a panic becomes an answer). [`method`] says which calls there are and what class
//! each is in.

mod admit;
mod deadline;
mod method;
mod observe;
mod trace;

pub(crate) use observe::REQUEST_TARGET;

use crate::metrics::Metrics;
use admit::{Admit, Places};
use deadline::Deadline;
use observe::Observe;
use std::time::Duration;
use tower::Layer;

/// Most calls of one connection at the same time: more than all classes run and queue together, so that a
/// full class refuses calls by itself and does not hold up those of other classes.
pub(crate) const MAX_STREAMS: u32 = 4096;

/// A call that takes longer is warned of.
const SLOW: Duration = Duration::from_secs(10);

/// The layers of one socket. Clones share its places.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    metrics: Metrics,
    places: Places,
    slow: Duration,
}

impl Layers {
    /// Layers with the usual limits for the socket called `socket` in metrics.
    pub(crate) fn new(metrics: Metrics, socket: &'static str) -> Self {
        let places = Places::new(&metrics, socket, admit::limits);
        Self { metrics, places, slow: SLOW }
    }
}

impl<S> Layer<S> for Layers {
    type Service = Observe<Deadline<Admit<S>>>;

    fn layer(&self, handler: S) -> Self::Service {
        let admit = Admit::new(handler, self.places.clone());
        Observe::new(Deadline::new(admit), self.metrics.clone(), self.slow)
    }
}

#[cfg(test)]
mod tests;
