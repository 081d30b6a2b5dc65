//! `gantry completions`.

use crate::cli::{Cli, Shell};
use crate::output;
use anyhow::Result;
use clap::CommandFactory as _;
use std::process::ExitCode;

pub(super) fn run(shell: Shell) -> Result<ExitCode> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: the generator panics when its writer fails, as a closed pipe does.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gantry", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}
