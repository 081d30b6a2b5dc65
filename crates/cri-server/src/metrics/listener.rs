//! Stages and errors, which are told as `tracing` events, become metrics here.

use super::Metrics;
use crate::layers::REQUEST_TARGET;
use gantry_stage::Stage;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Id, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Target of the event by which a failed operation is logged; its fields are `rpc` and `code`.
pub(crate) const ERROR_TARGET: &str = "gantry::error";

/// Most stages of one request that are kept at the same time (layers of an image are fetched in parallel).
const MAX_STAGES: usize = 32;

/// The stages that requests are in, by the request's span.
#[derive(Debug, Default)]
pub(super) struct Running {
    requests: Mutex<HashMap<u64, Vec<Stage>>>,
}

impl Running {
    /// The last begun stage of a request.
    pub(super) fn of(&self, span: Id) -> Option<Stage> {
        self.requests().get(&span.into_u64())?.last().copied()
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Vec<Stage>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds [`Metrics`] from events; made by [`Metrics::listener`].
#[derive(Debug)]
pub(crate) struct Listener {
    metrics: Metrics,
}

impl Listener {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }

    /// What the layer wants to hear, whatever the log level is.
    pub(crate) fn filter() -> Targets {
        use tracing::level_filters::LevelFilter;
        Targets::new()
            .with_target(gantry_stage::TARGET, LevelFilter::TRACE)
            .with_target(REQUEST_TARGET, LevelFilter::INFO)
            .with_target(ERROR_TARGET, LevelFilter::DEBUG)
    }
}

/// The fields of an event that matter here.
#[derive(Debug, Default)]
struct Fields {
    operation: String,
    stage: String,
    code: String,
    message: String,
    duration_us: Option<u64>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "duration_us" {
            self.duration_us = Some(value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "operation" | "rpc" => value.clone_into(&mut self.operation),
            "stage" => value.clone_into(&mut self.stage),
            "code" => value.clone_into(&mut self.code),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().target() == REQUEST_TARGET {
            self.metrics.inner.running.requests().insert(id.into_u64(), Vec::new());
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.metrics.inner.running.requests().remove(&id.into_u64());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let inner = &self.metrics.inner;
        if event.metadata().target() == ERROR_TARGET {
            inner.errors.with_label_values(&[&fields.operation, &fields.code]).inc();
            return;
        }
        // Only names from the list become labels.
        let Some(stage) = Stage::find(&fields.operation, &fields.stage) else { return };
        if let Some(us) = fields.duration_us {
            let seconds = Duration::from_micros(us).as_secs_f64();
            inner.stage_seconds.with_label_values(&[stage.operation(), stage.name()]).observe(seconds);
        }
        let request = context
            .event_scope(event)
            .and_then(|mut scope| scope.find(|span| span.metadata().target() == REQUEST_TARGET));
        let Some(request) = request else { return };
        let mut requests = inner.running.requests();
        let Some(stages) = requests.get_mut(&request.id().into_u64()) else { return };
        if fields.message == gantry_stage::ENDED {
            if let Some(at) = stages.iter().rposition(|s| *s == stage) {
                stages.remove(at);
            }
        } else if stages.len() < MAX_STAGES {
            stages.push(stage);
        }
    }
}

/// Has every event of this process wanted by somebody. A callsite that is met first while nobody listens
/// may stay off for a listener that comes at that instant: tests run at the same time, the daemon has
/// its one listener before anything is told.
#[cfg(test)]
pub(crate) fn want_all_events() {
    use tracing_subscriber::layer::SubscriberExt as _;
    let wanted = Targets::new().with_default(tracing::level_filters::LevelFilter::TRACE);
    let quiet = tracing_subscriber::layer::Identity::new().with_filter(wanted);
    // Set already is as good.
    let _set = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(quiet));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn stages_and_errors_become_metrics_and_a_request_knows_its_stage() {
        want_all_events();
        let metrics = Metrics::new().unwrap();
        let layer = metrics.listener().with_filter(Listener::filter());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let request = tracing::info_span!(target: REQUEST_TARGET, "request");
            assert_eq!(metrics.stage_of(&request), None);
            request.in_scope(|| {
                let inner = tracing::info_span!(target: REQUEST_TARGET, "other").entered();
                drop(inner);
                let fetch = Stage::PullFetch.begin();
                let unpack = Stage::PullUnpack.begin();
                assert_eq!(metrics.stage_of(&request), Some(Stage::PullUnpack));
                drop(unpack);
                assert_eq!(metrics.stage_of(&request), Some(Stage::PullFetch));
                drop(fetch);
                tracing::error!(target: ERROR_TARGET, rpc = "PullImage", code = "UNAVAILABLE", "request failed");
            });
            assert_eq!(metrics.stage_of(&request), None);
            drop(request);
            // Without a request, as at the start of the daemon.
            drop(Stage::StartPods.begin());
        });
        assert!(metrics.inner.running.requests().is_empty(), "a closed span is forgotten");
        let text = String::from_utf8(metrics.render(None).unwrap()).unwrap();
        let count =
            |labels: &str| text.contains(&format!("gantry_stage_duration_seconds_count{{{labels}}} 1\n"));
        assert!(count("operation=\"PullImage\",stage=\"fetch\""), "{text}");
        assert!(count("operation=\"Start\",stage=\"pods\""), "{text}");
        assert!(
            text.contains("gantry_errors_total{code=\"UNAVAILABLE\",operation=\"PullImage\"} 1\n"),
            "{text}"
        );
    }
}
