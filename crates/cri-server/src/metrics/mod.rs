//! What the daemon counts and measures, for Prometheus.
//!
//! [`Metrics`] holds every metric and knows every name; `docs/metrics.md` describes them and a test holds
//! the two together. No label ever has a value that a client can choose: methods, codes, operations and
//! states come from fixed lists.

mod listener;
mod process;
mod server;

#[cfg(test)]
pub(crate) use listener::want_all_events;
pub(crate) use listener::{ERROR_TARGET, Listener};
pub use server::MetricsAddress;
pub(crate) use server::MetricsServer;

use gantry_pod_sandbox::{ContainerState, Engine, PodState, Realm};
use gantry_stage::Stage;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::sync::Arc;

/// Upper bounds of the latency buckets in seconds: from a list in memory to a slow pull.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// All metrics of the daemon. Cheap to clone; clones share the values.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    /// Names in the order in which they were registered.
    names: Vec<String>,
    pub(super) rpc: Rpc,
    pub(super) stage_seconds: HistogramVec,
    pub(super) errors: IntCounterVec,
    pub(super) running: listener::Running,
    nodes: Node,
    process: process::Process,
}

/// What is counted of calls.
#[derive(Debug)]
pub(crate) struct Rpc {
    /// By service, method and code.
    pub(crate) total: IntCounterVec,
    /// Seconds by service and method.
    pub(crate) seconds: HistogramVec,
    /// By service and method.
    pub(crate) in_flight: IntGaugeVec,
    /// By socket and class.
    pub(crate) queued: IntGaugeVec,
    /// By socket and class.
    pub(crate) shed: IntCounterVec,
}

/// What the node has; read from memory when somebody asks.
#[derive(Debug)]
struct Node {
    pods: IntGaugeVec,
    containers: IntGaugeVec,
    images: IntGaugeVec,
    image_bytes: IntGauge,
    image_inodes: IntGauge,
    handlers: IntGaugeVec,
    monitors: IntGauge,
    quarantined: IntGauge,
}

/// Makes metrics and remembers their names.
struct Maker {
    registry: Registry,
    names: Vec<String>,
}

impl Maker {
    fn add<C: Collector + Clone + 'static>(&mut self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let metric = made?;
        self.names.extend(metric.desc().iter().map(|d| d.fq_name.clone()));
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&mut self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn seconds(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

impl Metrics {
    /// Makes all metrics, at zero.
    ///
    /// # Errors
    ///
    /// Two metrics have one name or a name cannot be used: a fault of this module that its test finds.
    pub fn new() -> prometheus::Result<Self> {
        let mut maker = Maker { registry: Registry::new(), names: Vec::new() };
        let build: GaugeVec = maker.add(GaugeVec::new(
            Opts::new("gantry_build_info", "always 1; the version of the daemon"),
            &["version"],
        ))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let method = &["service", "method"];
        let rpc = Rpc {
            total: maker.counter("gantry_rpc_total", "answered calls", &["service", "method", "code"])?,
            seconds: maker.seconds("gantry_rpc_duration_seconds", "time to the end of the answer", method)?,
            in_flight: maker.gauges("gantry_rpc_in_flight", "calls that are not answered yet", method)?,
            queued: maker.gauges(
                "gantry_rpc_queued",
                "calls that wait for a place in their class",
                &["socket", "class"],
            )?,
            shed: maker.counter(
                "gantry_rpc_shed_total",
                "calls refused because the queue of their class was full",
                &["socket", "class"],
            )?,
        };
        let stage_seconds = maker.seconds(
            "gantry_stage_duration_seconds",
            "time that a stage of an operation took",
            &["operation", "stage"],
        )?;
        let errors = maker.counter("gantry_errors_total", "failed operations", &["operation", "code"])?;
        let nodes = Node {
            pods: maker.gauges("gantry_pods", "pod sandboxes", &["realm", "state"])?,
            containers: maker.gauges("gantry_containers", "containers", &["realm", "state"])?,
            images: maker.gauges("gantry_images", "images that a realm names", &["realm"])?,
            image_bytes: maker.gauge("gantry_image_bytes", "disk space of all unpacked layers")?,
            image_inodes: maker.gauge("gantry_image_inodes", "inodes of all unpacked layers")?,
            handlers: maker.gauges("gantry_handlers", "runtime handlers", &["usable"])?,
            monitors: maker.gauge("gantry_monitors", "monitors that the daemon is connected to")?,
            quarantined: maker.gauge("gantry_quarantined_records", "records that were set aside")?,
        };
        let process = process::Process::new(&mut maker)?;
        let inner = Inner {
            registry: maker.registry,
            names: maker.names,
            rpc,
            stage_seconds,
            errors,
            running: listener::Running::default(),
            nodes,
            process,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Names of all metrics.
    pub fn names(&self) -> &[String] {
        &self.inner.names
    }

    pub(crate) fn rpc(&self) -> &Rpc {
        &self.inner.rpc
    }

    /// The last begun stage of the request with this span, if one is running.
    pub(crate) fn stage_of(&self, request: &tracing::Span) -> Option<Stage> {
        self.inner.running.of(request.id()?)
    }

    /// A layer of the `tracing` subscriber that feeds stages and errors into these metrics.
    pub(crate) fn listener(&self) -> Listener {
        Listener::new(self.clone())
    }

    /// Everything in the text format of Prometheus. Asks the kernel and the engine's memory, waits for
    /// nothing else.
    ///
    /// # Errors
    ///
    /// The encoder's; the registry refused metrics that would lead to them.
    pub(crate) fn render(&self, engine: Option<&Engine>) -> prometheus::Result<Vec<u8>> {
        self.inner.process.refresh();
        if let Some(engine) = engine {
            self.inner.nodes.refresh(engine);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.inner.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Node {
    fn refresh(&self, engine: &Engine) {
        let census = engine.census();
        for realm in Realm::ALL {
            let name = realm.as_str();
            for (state, word) in
                [(PodState::Creating, "creating"), (PodState::Ready, "ready"), (PodState::Stopped, "stopped")]
            {
                let count = census.pods.iter().filter(|p| **p == (realm, state)).count();
                set(&self.pods.with_label_values(&[name, word]), count as u64);
            }
            for (state, word) in [
                (ContainerState::Creating, "creating"),
                (ContainerState::Created, "created"),
                (ContainerState::Starting, "starting"),
                (ContainerState::Running, "running"),
                (ContainerState::Exited, "exited"),
            ] {
                let count = census.containers.iter().filter(|c| **c == (realm, state)).count();
                set(&self.containers.with_label_values(&[name, word]), count as u64);
            }
            set(&self.images.with_label_values(&[name]), engine.images().list(realm).len() as u64);
        }
        set(&self.monitors, census.monitors as u64);
        set(&self.quarantined, engine.quarantined().len() as u64);
        let usage = engine.images().usage();
        set(&self.image_bytes, usage.bytes);
        set(&self.image_inodes, usage.inodes);
        for usable in [true, false] {
            let count = engine.handlers().iter().filter(|h| h.broken().is_none() == usable).count();
            let word = if usable { "true" } else { "false" };
            set(&self.handlers.with_label_values(&[word]), count as u64);
        }
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        let document = include_str!("../../../../docs/metrics.md");
        let mut documented: Vec<&str> = document
            .lines()
            .filter_map(|l| l.strip_prefix("| `"))
            .filter_map(|l| l.split(['`', '{']).next())
            .filter(|name| name.starts_with("gantry_") || name.starts_with("process_"))
            .collect();
        let metrics = Metrics::new().unwrap();
        let mut registered: Vec<&str> = metrics.names().iter().map(String::as_str).collect();
        documented.sort_unstable();
        registered.sort_unstable();
        assert_eq!(documented, registered);
    }

    #[test]
    fn the_document_lists_every_stage() {
        let document = include_str!("../../../../docs/metrics.md");
        for stage in Stage::ALL {
            let row = document.lines().find(|l| l.starts_with(&format!("| `{}` |", stage.operation())));
            let row = row.unwrap_or_else(|| panic!("no row for {}", stage.operation()));
            assert!(row.contains(&format!("`{}`", stage.name())), "{stage:?} is missing in {row}");
        }
        let listed: usize = document
            .lines()
            .filter_map(|l| l.strip_prefix("| `"))
            .filter(|l| Stage::ALL.iter().any(|s| l.starts_with(&format!("{}` |", s.operation()))))
            .map(|l| l.matches('`').count() / 2)
            .sum();
        assert_eq!(listed, Stage::ALL.len(), "a stage is listed that does not exist");
    }

    #[test]
    fn what_is_rendered_is_prometheus_text() {
        let metrics = Metrics::new().unwrap();
        metrics.rpc().total.with_label_values(&["s", "m", "OK"]).inc();
        let text = String::from_utf8(metrics.render(None).unwrap()).unwrap();
        assert!(text.contains("gantry_rpc_total{code=\"OK\",method=\"m\",service=\"s\"} 1\n"), "{text}");
        assert!(text.contains("# TYPE process_resident_memory_bytes gauge\n"), "{text}");
        assert!(text.contains("gantry_build_info{version="), "{text}");
    }
}
