//! `gantry rm`: containers and pods.

use crate::client::Client;
use crate::find::{self, Object};
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, objects: &[String], force: bool) -> Result<ExitCode> {
    for name in objects {
        match find::to_end(client, name).await? {
            Object::Container(id) => container(client, name, id, force).await?,
            Object::Pod(id) => pod(client, name, id, force).await?,
        }
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn container(client: &mut Client, name: &str, container_id: String, force: bool) -> Result<()> {
    let request = v1::ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    let state = client.runtime.container_status(request).await?.into_inner().status.unwrap_or_default().state;
    if !force && state == i32::from(v1::ContainerState::ContainerRunning) {
        bail!("container {name} runs; stop it first, or use --force");
    }
    let request = v1::RemoveContainerRequest { container_id };
    client.runtime.remove_container(request).await.with_context(|| format!("remove container {name}"))?;
    Ok(())
}

async fn pod(client: &mut Client, name: &str, id: String, force: bool) -> Result<()> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await?.into_inner();
    let running = i32::from(v1::ContainerState::ContainerRunning);
    if !force && status.containers_statuses.iter().any(|c| c.state == running) {
        bail!("pod {name} has running containers; stop it first, or use --force");
    }
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
    client.runtime.remove_pod_sandbox(request).await.with_context(|| format!("remove pod {name}"))?;
    Ok(())
}
