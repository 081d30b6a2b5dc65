//! Log lines on standard error: text for people, JSON for machines.

use crate::metrics::{Listener, Metrics};
use crate::{Config, LogFormat};
use std::io::IsTerminal as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Starts logging as the configuration says, and feeds `metrics` from what is told by events, whatever
/// the level of the log. Call once, before anything else.
///
/// # Errors
///
/// The level is neither one of the known names nor a filter.
pub fn start(config: &Config, metrics: &Metrics) -> Result<(), crate::ConfigError> {
    // A level alone is meant for Gantry; the HTTP libraries below it say each frame.
    let filter = match config.log_level.as_str() {
        level @ ("debug" | "trace") => {
            format!("{level},h2=info,hyper=info,hyper_util=info,tower=info,rustls=info")
        }
        other => other.to_owned(),
    };
    let filter = EnvFilter::try_new(filter).map_err(|e| crate::ConfigError::Option {
        option: "--log-level",
        reason: format!("{:?}: {e}", config.log_level),
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match config.log_format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let counts = metrics.listener().with_filter(Listener::filter());
    let started = tracing_subscriber::registry().with(lines).with(counts).try_init();
    started.map_err(|e| crate::ConfigError::Option { option: "--log-format", reason: e.to_string() })
}
