//! `gantry exec`: run a command, print what it wrote, pass its status on.

use crate::client::{Client, Realm};
use crate::{find, output};
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::io::Write as _;
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    container: &str,
    realm: Option<Realm>,
    command: Vec<String>,
    timeout: i64,
) -> Result<ExitCode> {
    let found = find::container(client, container, realm).await?;
    let request = v1::ExecSyncRequest { container_id: found.id, cmd: command, timeout };
    let answer = client.of(found.realm).runtime.exec_sync(request).await.context("exec")?.into_inner();
    std::io::stderr().write_all(&answer.stderr)?;
    if answer.exit_code < 0 {
        eprintln!();
    }
    output::write(&answer.stdout)?;
    Ok(ExitCode::from(status(answer.exit_code)))
}

/// A status that a process can have; a command that timed out ends as timeout(1) says.
pub(super) fn status(code: i32) -> u8 {
    match code {
        ..0 => 124,
        code => u8::try_from(code).unwrap_or(255),
    }
}
