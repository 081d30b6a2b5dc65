//! `gantry config`: the daemon's configuration, without a daemon.

use super::serve;
use crate::cli::{ConfigCommand, Format, ServeArgs};
use crate::output;
use anyhow::Result;
use gantry_cri_server::ConfigError;
use gantry_cri_server::config::{DEFAULT_FILE, Layers, default_file};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(super) fn run(command: ConfigCommand, format: Format) -> Result<ExitCode> {
    match command {
        ConfigCommand::Default => output::write(default_file().as_bytes()).map(|()| ExitCode::SUCCESS),
        ConfigCommand::Show(args) => show(&args, format),
        ConfigCommand::Check { file, flags } => check(&serve::layers(&ServeArgs { config: file, flags })),
    }
}

fn show(args: &ServeArgs, format: Format) -> Result<ExitCode> {
    let layers = serve::layers(args);
    if let Err(error) = layers.finish() {
        return Ok(tell(&error));
    }
    let settings = layers.settings();
    let rows = settings.iter().map(|s| vec![s.key.clone(), s.value.to_string(), s.origin.to_string()]);
    output::list(format, &["OPTION", "VALUE", "FROM"], rows.collect(), || {
        let option = |s: &&_| -> Result<Value> {
            let s: &gantry_cri_server::config::Setting = s;
            Ok(json!({"key": s.key, "value": serde_json::to_value(&s.value)?, "from": s.origin.to_string()}))
        };
        Ok(json!({"options": settings.iter().map(option).collect::<Result<Vec<_>>>()?}))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn check(layers: &Layers) -> Result<ExitCode> {
    if let Err(error) = layers.finish() {
        return Ok(tell(&error));
    }
    match layers.files() {
        [] => output::line(&format!("{DEFAULT_FILE} is not there: every option has its default"))?,
        files => files.iter().try_for_each(|f| output::line(&format!("{}: ok", f.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each problem.
fn tell(error: &ConfigError) -> ExitCode {
    for problem in &error.problems {
        eprintln!("{problem}");
    }
    ExitCode::FAILURE
}
