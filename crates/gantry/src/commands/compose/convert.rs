//! `gantry compose convert`.

use super::{ProjectArgs, load, tell};
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Fail when something is lost.
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(project: &ProjectArgs, args: &ConvertArgs) -> Result<ExitCode> {
    let Some(project) = load(project, true)? else { return Ok(ExitCode::FAILURE) };
    tell(&project);
    Ok(if args.strict { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
