//! `gantry stop`: containers and pods.

use crate::client::Client;
use crate::find::{self, Object};
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, objects: &[String], timeout: i64) -> Result<ExitCode> {
    for name in objects {
        let what = || format!("stop {name}");
        match find::to_end(client, name).await? {
            Object::Container(id) => container(client, id, timeout).await.with_context(what)?,
            Object::Pod(id) => pod(client, id, timeout).await.with_context(what)?,
        }
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn container(client: &mut Client, container_id: String, timeout: i64) -> Result<()> {
    client.runtime.stop_container(v1::StopContainerRequest { container_id, timeout }).await?;
    Ok(())
}

/// Its containers first, so that each has its time to end.
pub(super) async fn pod(client: &mut Client, id: String, timeout: i64) -> Result<()> {
    let filter = v1::ContainerFilter { pod_sandbox_id: id.clone(), ..Default::default() };
    let request = v1::ListContainersRequest { filter: Some(filter) };
    for member in client.runtime.list_containers(request).await?.into_inner().containers {
        container(client, member.id, timeout).await?;
    }
    client.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id }).await?;
    Ok(())
}
