//! `gantry rm`: containers and pods.

use crate::client::{Client, Realm};
use crate::find::{self, Kind};
use crate::output;
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    objects: &[String],
    realm: Option<Realm>,
    force: bool,
) -> Result<ExitCode> {
    for name in objects {
        let found = find::to_end(client, name, realm).await?;
        match found.kind {
            Kind::Container => container(client, name, found.realm, found.id, force).await?,
            Kind::Pod => pod(client, name, found.realm, found.id, force).await?,
        }
        output::line(name)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn container(
    client: &mut Client,
    name: &str,
    realm: Realm,
    container_id: String,
    force: bool,
) -> Result<()> {
    let runtime = &mut client.of(realm).runtime;
    let request = v1::ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    let state = runtime.container_status(request).await?.into_inner().status.unwrap_or_default().state;
    if !force && state == i32::from(v1::ContainerState::ContainerRunning) {
        bail!("container {name} runs; stop it first, or use --force");
    }
    let request = v1::RemoveContainerRequest { container_id };
    runtime.remove_container(request).await.with_context(|| format!("remove container {name}"))?;
    Ok(())
}

async fn pod(client: &mut Client, name: &str, realm: Realm, id: String, force: bool) -> Result<()> {
    let runtime = &mut client.of(realm).runtime;
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = runtime.pod_sandbox_status(request).await?.into_inner();
    let running = i32::from(v1::ContainerState::ContainerRunning);
    if !force && status.containers_statuses.iter().any(|c| c.state == running) {
        bail!("pod {name} has running containers; stop it first, or use --force");
    }
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
    runtime.remove_pod_sandbox(request).await.with_context(|| format!("remove pod {name}"))?;
    Ok(())
}
