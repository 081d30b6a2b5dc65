//! `gantry stop`: containers and pods.

use crate::client::{Client, Realm};
use crate::find::{self, Kind};
use crate::output;
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    objects: &[String],
    realm: Option<Realm>,
    timeout: i64,
) -> Result<ExitCode> {
    for name in objects {
        let what = || format!("stop {name}");
        let found = find::to_end(client, name, realm).await?;
        match found.kind {
            Kind::Container => container(client, found.realm, found.id, timeout).await.with_context(what)?,
            Kind::Pod => pod(client, found.realm, found.id, timeout).await.with_context(what)?,
        }
        output::line(name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a container to end, and kills it after the time-out in seconds.
pub(super) async fn container(
    client: &mut Client,
    realm: Realm,
    container_id: String,
    timeout: i64,
) -> Result<()> {
    let request = v1::StopContainerRequest { container_id, timeout };
    client.of(realm).runtime.stop_container(request).await?;
    Ok(())
}

/// Its containers first, so that each has its time to end.
pub(super) async fn pod(client: &mut Client, realm: Realm, id: String, timeout: i64) -> Result<()> {
    let filter = v1::ContainerFilter { pod_sandbox_id: id.clone(), ..Default::default() };
    let request = v1::ListContainersRequest { filter: Some(filter) };
    let members = client.of(realm).runtime.list_containers(request).await?.into_inner().containers;
    for member in members {
        container(client, realm, member.id, timeout).await?;
    }
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id };
    client.of(realm).runtime.stop_pod_sandbox(request).await?;
    Ok(())
}
