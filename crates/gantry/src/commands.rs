//! One file per subcommand.

pub(crate) mod compose;
mod doctor;
mod exec;
mod images;
mod import;
mod info;
mod inspect;
mod logs;
mod pods;
mod ps;
mod pull;
mod rm;
mod rmi;
mod run;
mod serve;
mod stop;
mod version;

use crate::cli::{Cli, Command, Format};
use crate::client::Client;
use anyhow::{Context as _, Result};
use std::process::ExitCode;

/// Carries out the command line; the exit code is the command's own.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { socket, output, command } = cli;
    let format = output.unwrap_or(Format::Table);
    match command {
        Command::Serve(args) => return serve::run(&args),
        Command::Config(command) => return config::run(*command, format),
        Command::Completions { shell } => return completions::run(shell),
        _ => {}
    }
    if let Command::Compose(args) = command {
        return compose::run(*args);
    }
    // One thread: a client waits for one answer at a time.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the client")?;
    runtime.block_on(async move {
        match command {
            Command::Serve(_) | Command::Compose(_) | Command::Version | Command::Doctor => {
                Ok(ExitCode::SUCCESS)
            }
            Command::Pods => pods::run(&mut client, output).await,
            Command::Ps { all } => ps::run(&mut client, output, all).await,
            Command::Images => images::run(&mut client, output).await,
            Command::Pull { image } => pull::run(&mut client, &image).await,
            Command::Rmi { images } => rmi::run(&mut client, &images).await,
            Command::Import { file, name } => import::run(&mut client, &file, name).await,
            Command::Run(args) => run::run(&mut client, *args).await,
            Command::Logs { container, follow, tail, timestamps } => {
                logs::run(&mut client, &container, logs::How { follow, tail, timestamps }).await
            }
            Command::Exec { realm, timeout, container, command } => {
                exec::run(client, &container, realm.realm, command, timeout).await
            }
            Command::Stop { realm, timeout, objects } => {
                stop::run(client, &objects, realm.realm, timeout).await
            }
            Command::Rm { realm, force, objects } => rm::run(client, &objects, realm.realm, force).await,
            Command::Inspect { realm, object } => {
                inspect::run(client, output.unwrap_or(Format::Json), &object, realm.realm).await
            }
        }
    })
}
