#![forbid(unsafe_code)]
//! `gantry`: the daemon (`gantry serve`) and the command line that talks to it.
//!
//! One file per subcommand in `commands/`; all but `serve`, `config` and `completions` speak to a daemon's
//! sockets only, and `version` and `doctor` have something to tell without a daemon too.

mod cli;
mod client;
mod commands;
mod document;
mod find;
mod flags;
mod output;
mod parse;
mod stream;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            if output::is_worth_telling(&error) {
                eprintln!("gantry: {}", output::one_line(&error));
            }
            ExitCode::from(output::exit_code(&error))
        }
    }
}
