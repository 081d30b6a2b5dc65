//! `gantry attach`: this program's standard streams joined to those of a container's main process.

use super::exec::exit_code;
use crate::client::{Client, Realm};
use crate::find;
use crate::stream::{self, Joined, Trust};
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use serde_json::Value;
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    wanted: &str,
    realm: Option<Realm>,
    no_stdin: bool,
    trust: &Trust,
) -> Result<ExitCode> {
    let found = find::container(client, wanted, realm).await?;
    let has = streams_of(client, found.realm, &found.id).await?;
    let joined = Joined { stdin: has.stdin && !no_stdin, tty: has.tty };
    let request = v1::AttachRequest {
        container_id: found.id,
        stdin: joined.stdin,
        tty: joined.tty,
        stdout: true,
        stderr: !joined.tty,
    };
    let answer = client.of(found.realm).runtime.attach(request).await.context("attach")?;
    let socket = stream::connect(&answer.into_inner().url, trust).await?;
    exit_code(stream::join(socket, joined).await?)
}

/// What the container was made with; the daemon refuses a terminal where there is none and the reverse.
async fn streams_of(client: &mut Client, realm: Realm, id: &str) -> Result<Joined> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = client.of(realm).runtime.container_status(request).await?.into_inner();
    let info = answer.info.get("info").map(String::as_str).unwrap_or_default();
    let info: Value =
        serde_json::from_str(info).context("the daemon tells nothing of the container's streams")?;
    let is = |name: &str| info["config"][name].as_bool().unwrap_or_default();
    Ok(Joined { stdin: is("stdin"), tty: is("tty") })
}
