//! `gantry compose convert`.

use super::{Disk, ProjectArgs, load, tell};
use anyhow::Result;
use clap::{Args, ValueEnum};
use gantry_compose::kubernetes::{self, Publish};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Fail when something is lost.
    #[arg(long)]
    strict: bool,
    /// How ports that are published on the host are reached in the cluster.
    #[arg(long, value_enum, default_value_t = Way::ClusterIp)]
    publish: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// From inside of the cluster only.
    ClusterIp,
    /// On a port of every node.
    NodePort,
    /// By a load balancer.
    LoadBalancer,
}

pub(super) fn run(project: &ProjectArgs, args: &ConvertArgs) -> Result<ExitCode> {
    let Some(project) = load(project, true)? else { return Ok(ExitCode::FAILURE) };
    tell(&project);
    let publish = match args.publish {
        Way::ClusterIp => Publish::ClusterIp,
        Way::NodePort => Publish::NodePort,
        Way::LoadBalancer => Publish::LoadBalancer,
    };
    let conversion = kubernetes::convert(&project, &Disk, publish);
    for loss in &conversion.losses {
        eprintln!("gantry: lost: {loss}");
    }
    if args.strict && !conversion.losses.is_empty() {
        eprintln!("gantry: {} things are lost, and --strict allows none", conversion.losses.len());
        return Ok(ExitCode::FAILURE);
    }
    print!("{}", conversion.yaml());
    Ok(ExitCode::SUCCESS)
}
