//! Log lines on standard error: text for people, JSON for machines.

use crate::Config;
use crate::config::{ConfigError, LogFormat, Origin, Problem};
use crate::metrics::{Listener, Metrics};
use std::io::IsTerminal as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Starts logging as the configuration says, and feeds `metrics` from what is told by events, whatever
/// the level of the log. Call once, before anything else.
///
/// # Errors
///
/// The filter cannot be used, or logging was started already.
pub fn start(config: &Config, metrics: &Metrics) -> Result<(), ConfigError> {
    let fail =
        |flag, message| ConfigError { problems: vec![Problem { origin: Origin::Flag(flag), message }] };
    let filter = EnvFilter::try_new(config.log_level.directives())
        .map_err(|e| fail("log-level", format!("{:?}: {e}", config.log_level)))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match config.log_format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let counts = metrics.listener().with_filter(Listener::filter());
    let started = tracing_subscriber::registry().with(lines).with(counts).try_init();
    started.map_err(|e| fail("log-format", e.to_string()))
}
