//! `gantry serve`: the daemon.

use crate::cli::ServeArgs;
use anyhow::{Context as _, Result, bail};
use gantry_cri_server::{App, CgroupDriver, CriNetwork, LogFormat, Metrics, Options, logging};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub(super) fn run(args: ServeArgs) -> Result<ExitCode> {
    let file = match &args.config {
        Some(path) => Options::read(path)?,
        None => Options::default(),
    };
    let config = options(args)?.over(file).resolve()?;
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

fn options(args: ServeArgs) -> Result<Options> {
    Ok(Options {
        root: args.root,
        run_dir: args.run_dir,
        listen: args.listen,
        local_listen: args.local_listen,
        stream_address: args.stream_address,
        cri_network: args.cri_network.map(|n| match n.as_str() {
            "builtin" => CriNetwork::Builtin,
            _ => CriNetwork::Cni,
        }),
        cni_conf_dir: args.cni_conf_dir,
        cni_bin_dir: args.cni_bin_dir,
        cgroup_driver: args.cgroup_driver.map(|d| match d.as_str() {
            "systemd" => CgroupDriver::Systemd,
            _ => CgroupDriver::Cgroupfs,
        }),
        runtimes: runtimes(&args.runtime)?,
        default_runtime: args.default_runtime,
        pid_file: args.pid_file,
        log_level: args.log_level,
        log_format: args.log_format.map(|f| match f.as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        }),
        helper_dir: None,
        registries_conf: None,
        metrics_address: args.metrics_address,
    })
}

fn runtimes(given: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut all = BTreeMap::new();
    for pair in given {
        match pair.split_once('=') {
            Some((name, path)) if !name.is_empty() && path.starts_with('/') => {
                all.insert(name.to_owned(), path.into());
            }
            _ => bail!("--runtime {pair:?}: write NAME=/path/to/program"),
        }
    }
    Ok(all)
}
