#![forbid(unsafe_code)]
//! `gantry-runtime`, the embedded OCI runtime: the command line of an OCI runtime over libcontainer,
//! so that a fresh machine needs neither runc nor crun.
//!
//! To the rest of Gantry it is one more OCI runtime, run by a pod's monitor. It is executed from a
//! sealed memory file by path `/proc/.../fd/N`: it never executes itself again, and reads nothing
//! beside its own file. One run is one command, in one thread.
//!
//! libcontainer makes the namespaces, mounts and cgroups. Around it: [`adapt`] refuses what it
//! cannot do and takes out what it does wrongly, [`confine`] does that inside the container,
//! [`record`] keeps what deleting needs, and [`report`] says what went wrong.

mod adapt;
mod cli;
mod confine;
mod create;
mod devices;
mod error;
mod exec;
mod foreground;
mod lifecycle;
mod record;
mod report;
mod seccomp;
mod show;

use clap::Parser as _;
use cli::{Cli, Command};
use error::{Error, Result};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit status of a failed command, as runc has it.
const FAILED: u8 = 1;
/// Exit status of an `exec` that could not be started: told apart from one of the program's.
const EXEC_FAILED: u8 = 255;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors; they go to standard output.
        Err(e) if !e.use_stderr() => {
            let _closed = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let text = e.to_string();
            report::error(text.lines().next().unwrap_or("bad command line").trim_start_matches("error: "));
            return ExitCode::from(FAILED);
        }
    };
    let global = &cli.global;
    let failed = if matches!(cli.command, Command::Exec(_)) { EXEC_FAILED } else { FAILED };
    let outcome = report::start(global.log.as_deref(), global.log_format.as_deref(), global.debug)
        .and_then(|()| prepare())
        .and_then(|()| run(&cli));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            report::error(&e.to_string());
            ExitCode::from(failed)
        }
    }
}

/// What a container's processes inherit from this one and must not take from our caller.
fn prepare() -> Result<()> {
    // libcontainer leaves the groups alone when a container asks for none.
    nix::unistd::setgroups(&[])
        .map_err(|e| Error::Usage(format!("setgroups: {e}; this runtime has to be run as root")))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

fn run(cli: &Cli) -> Result<u8> {
    let root = absolute(cli.global.root.clone().unwrap_or_else(cli::default_root))?;
    let root = root.as_path();
    match &cli.command {
        Command::Create(args) => {
            let what = create::Create {
                id: args.container_id.clone(),
                bundle: args.bundle.clone(),
                console_socket: args.console_socket.clone(),
                pid_file: args.pid_file.clone(),
                no_pivot: args.no_pivot,
                no_new_keyring: args.no_new_keyring,
                preserve_fds: args.preserve_fds,
                detach: true,
            };
            create::create(root, cli.global.systemd_cgroup, &what)?;
        }
        Command::Run(args) => return run_container(root, cli.global.systemd_cgroup, args),
        Command::Exec(args) => {
            let pid = exec::exec(root, args)?;
            if !args.detach {
                return foreground::wait(pid).map(exit_code);
            }
        }
        Command::Start(args) => create::start(root, &args.container_id)?,
        Command::Kill(args) => lifecycle::kill(root, args)?,
        Command::Delete(args) => lifecycle::delete(root, &args.container_id, args.force)?,
        Command::Update(args) => lifecycle::update(root, args)?,
        Command::Pause(args) => lifecycle::freeze(root, &args.container_id, true)?,
        Command::Resume(args) => lifecycle::freeze(root, &args.container_id, false)?,
        Command::State(args) => print(&show::state(root, &args.container_id)?)?,
        Command::List(args) => print(&show::list(root, args)?)?,
        Command::Ps(args) => print(&show::ps(root, args)?)?,
        Command::Features(_) => print(&show::features()?)?,
    }
    Ok(0)
}

fn run_container(root: &Path, systemd: bool, args: &liboci_cli::Run) -> Result<u8> {
    let what = create::Create {
        id: args.container_id.clone(),
        bundle: args.bundle.clone(),
        console_socket: args.console_socket.clone(),
        pid_file: args.pid_file.clone(),
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: args.preserve_fds,
        detach: args.detach,
    };
    let record = create::create(root, systemd, &what)?;
    if let Err(e) = create::start(root, &record.id) {
        if let Err(left) = lifecycle::delete(root, &record.id, true) {
            report::warning(&format!("left over from the failed container {:?}: {left}", record.id));
        }
        return Err(e);
    }
    let Some(init) = record.init.filter(|_| !args.detach) else { return Ok(0) };
    let code = foreground::wait(init.pid)?;
    if !args.keep {
        lifecycle::delete(root, &record.id, true)?;
    }
    Ok(exit_code(code))
}

fn exit_code(status: i32) -> u8 {
    u8::try_from(status).unwrap_or(EXEC_FAILED)
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(error::file("resolve --root", &path))
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(error::file("write", Path::new("standard output")))
}
