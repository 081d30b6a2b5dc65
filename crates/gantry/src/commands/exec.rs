//! `gantry exec`: run a command, print what it wrote, pass its status on.

use crate::client::Client;
use crate::find;
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::io::Write as _;
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    container: &str,
    command: Vec<String>,
    timeout: i64,
) -> Result<ExitCode> {
    let container_id = find::container(client, container).await?;
    let request = v1::ExecSyncRequest { container_id, cmd: command, timeout };
    let output = client.runtime.exec_sync(request).await.context("exec")?.into_inner();
    std::io::stdout().write_all(&output.stdout)?;
    std::io::stderr().write_all(&output.stderr)?;
    if output.exit_code < 0 {
        eprintln!();
    }
    Ok(ExitCode::from(status(output.exit_code)))
}

/// A status that a process can have; a command that timed out ends as timeout(1) says.
pub(super) fn status(code: i32) -> u8 {
    match code {
        ..0 => 124,
        code => u8::try_from(code).unwrap_or(255),
    }
}
