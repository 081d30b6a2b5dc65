//! `gantry compose convert`.

use super::{Disk, ProjectArgs, load, tell};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use gantry_compose::kubernetes::{self, Options, Publish};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Fail when something is lost.
    #[arg(long)]
    strict: bool,
    /// How ports that are published on the host are reached in the cluster.
    #[arg(long, value_enum, default_value_t = Way::ClusterIp)]
    publish: Way,
    /// Size of volumes that have no x-size, e.g. 10Gi [default: 1Gi, and said so].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    volume_size: Option<String>,
    /// Write what is lost to a file too, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn size(text: &str) -> Result<String, String> {
    kubernetes::quantity(text).ok_or_else(|| format!("{text:?} is no size; write it like 10Gi"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// From inside of the cluster only.
    ClusterIp,
    /// On a port of every node.
    NodePort,
    /// By a load balancer.
    LoadBalancer,
    /// On the published port of the node that a pod runs on.
    HostPort,
}

pub(super) fn run(project: &ProjectArgs, args: &ConvertArgs) -> Result<ExitCode> {
    let Some(project) = load(project, true)? else { return Ok(ExitCode::FAILURE) };
    tell(&project, false);
    let publish = match args.publish {
        Way::ClusterIp => Publish::ClusterIp,
        Way::NodePort => Publish::NodePort,
        Way::LoadBalancer => Publish::LoadBalancer,
        Way::HostPort => Publish::HostPort,
    };
    let options = Options { publish, volume_size: args.volume_size.clone() };
    let conversion = kubernetes::convert(&project, &Disk, &options);
    for loss in &conversion.losses {
        eprintln!("gantry: {loss}");
    }
    if let Some(path) = &args.report {
        let text = format!("{:#}\n", conversion.report());
        std::fs::write(path, text).with_context(|| format!("write the report {}", path.display()))?;
    }
    if args.strict && !conversion.losses.is_empty() {
        let count = conversion.losses.len();
        eprintln!("gantry: nothing is written: {count} of these lines, and --strict allows none");
        return Ok(ExitCode::FAILURE);
    }
    print!("{}", conversion.yaml());
    Ok(ExitCode::SUCCESS)
}
