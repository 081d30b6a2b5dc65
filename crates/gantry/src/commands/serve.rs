//! `gantry serve`: the daemon.

use crate::cli::ServeArgs;
use anyhow::{Context as _, Result};
use gantry_cri_server::config::Layers;
use gantry_cri_server::{App, Metrics, logging};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub(super) fn run(args: &ServeArgs) -> Result<ExitCode> {
    let config = layers(args).finish()?;
    let metrics = Metrics::new().context("set up metrics")?;
    logging::start(&config, &metrics)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the daemon's threads")?;
    runtime.block_on(async {
        // Caught before anything is made, so that an early signal ends the daemon in order.
        let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
        let app = App::build(config, metrics).await?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        app.serve(stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Defaults, files and flags.
pub(super) fn layers(args: &ServeArgs) -> Layers {
    let mut layers = Layers::defaults();
    layers.add_files(args.config.as_deref());
    layers.add_flags(&args.flags.0);
    layers
}
