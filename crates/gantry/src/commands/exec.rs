//! `gantry exec`: run a command in a container, with this program's standard streams, and pass its status on.

use crate::cli::ExecArgs;
use crate::client::{Client, Realm};
use crate::stream::{self, End, Joined};
use crate::{find, output};
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::io::Write as _;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, args: ExecArgs) -> Result<ExitCode> {
    let found = find::container(client, &args.container, args.realm.realm).await?;
    if args.timeout > 0 {
        return in_one_call(client, found.realm, found.id, args.command, args.timeout).await;
    }
    let joined = Joined { stdin: args.interactive, tty: args.tty };
    let url = url(client, found.realm, &found.id, args.command, joined).await?;
    let socket = stream::connect(&url, &args.trust.into()).await?;
    exit_code(stream::join(socket, joined).await?)
}

/// Asks for a command; where to connect to.
pub(super) async fn url(
    client: &mut Client,
    realm: Realm,
    container: &str,
    cmd: Vec<String>,
    joined: Joined,
) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: container.to_owned(),
        cmd,
        tty: joined.tty,
        stdin: joined.stdin,
        stdout: true,
        stderr: !joined.tty,
    };
    Ok(client.of(realm).runtime.exec(request).await.context("exec")?.into_inner().url)
}

/// With a time limit: the daemon keeps it, and gives the output at the end.
async fn in_one_call(
    client: &mut Client,
    realm: Realm,
    container_id: String,
    cmd: Vec<String>,
    timeout: i64,
) -> Result<ExitCode> {
    let request = v1::ExecSyncRequest { container_id, cmd, timeout };
    let answer = client.of(realm).runtime.exec_sync(request).await.context("exec")?.into_inner();
    std::io::stderr().write_all(&answer.stderr)?;
    if answer.exit_code < 0 {
        eprintln!();
    }
    output::write(&answer.stdout)?;
    Ok(ExitCode::from(status(answer.exit_code)))
}

/// What the shell is told about the end of a session.
pub(super) fn exit_code(end: End) -> Result<ExitCode> {
    Ok(match end {
        End::Code(code) => ExitCode::from(status(code)),
        End::Detached => ExitCode::SUCCESS,
        End::Signal(signal) => ExitCode::from(status(128 + signal)),
    })
}

/// A status that a process can have; a command that timed out ends as timeout(1) says.
pub(super) fn status(code: i32) -> u8 {
    match code {
        ..0 => 124,
        code => u8::try_from(code).unwrap_or(255),
    }
}
