//! Log lines on standard error: text for people, JSON for machines.

use crate::Config;
use crate::config::{ConfigError, LogFormat, Origin, Problem};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging as the configuration says. Call once, before anything else.
///
/// # Errors
///
/// The filter cannot be used, or logging was started already.
pub fn start(config: &Config) -> Result<(), ConfigError> {
    let fail =
        |flag, message| ConfigError { problems: vec![Problem { origin: Origin::Flag(flag), message }] };
    let filter = EnvFilter::try_new(config.log_level.directives())
        .map_err(|e| fail("log-level", format!("{:?}: {e}", config.log_level)))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| fail("log-format", e.to_string()))
}
