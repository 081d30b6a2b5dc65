//! One file per subcommand.

mod attach;
mod completions;
pub(crate) mod compose;
mod config;
mod cp;
mod doctor;
mod exec;
mod images;
mod import;
mod info;
mod inspect;
mod logs;
mod pods;
mod port_forward;
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
        Command::Compose(args) => return compose::run(*args),
        _ => {}
    }
    // One thread: a client waits for one answer at a time.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the client")?;
    runtime.block_on(async move {
        match command {
            Command::Version => return version::run(&socket, format).await,
            Command::Doctor => return doctor::run(&socket, format).await,
            _ => {}
        }
        let client = &mut Client::connect(&socket).await?;
        match command {
            // Done above, without a connection.
            Command::Serve(_)
            | Command::Config(_)
            | Command::Completions { .. }
            | Command::Compose(_)
            | Command::Version
            | Command::Doctor => Ok(ExitCode::SUCCESS),
            Command::Pods { realm } => pods::run(client, format, realm.realm).await,
            Command::Ps { all, realm } => ps::run(client, format, all, realm.realm).await,
            Command::Images { realm } => images::run(client, format, realm.realm).await,
            Command::Info => info::run(client, format).await,
            Command::Pull { image } => pull::run(client, &image).await,
            Command::Rmi { realm, images } => rmi::run(client, &images, realm.realm).await,
            Command::Import { file, name } => import::run(client, &file, name).await,
            Command::Run(args) => run::run(client, *args).await,
            Command::Logs { realm, container, follow, tail, timestamps } => {
                let how = logs::How { follow, tail, timestamps };
                logs::run(client, &container, realm.realm, how).await
            }
            Command::Exec(args) => exec::run(client, *args).await,
            Command::Attach { realm, trust, no_stdin, container } => {
                attach::run(client, &container, realm.realm, no_stdin, &trust.into()).await
            }
            Command::PortForward { realm, trust, address, pod, ports } => {
                port_forward::run(client, &pod, realm.realm, &address, &ports, trust.into()).await
            }
            Command::Cp { realm, trust, from, to } => {
                cp::run(client, &from, &to, realm.realm, trust.into()).await
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
