//! `gantry ps`.

use crate::cli::Format;
use crate::client::Client;
use crate::output::{age, list, short};
use anyhow::Result;
use gantry_cri_api::v1;
use std::collections::BTreeMap;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format, all: bool) -> Result<ExitCode> {
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let filter = (!all).then(|| v1::ContainerFilter { state: Some(running), ..Default::default() });
    let request = v1::ListContainersRequest { filter };
    let containers = client.runtime.list_containers(request).await?.into_inner().containers;
    let pods =
        client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
    let pods: BTreeMap<String, String> =
        pods.into_iter().map(|p| (p.id, p.metadata.unwrap_or_default().name)).collect();
    let row = |c: &v1::Container| {
        vec![
            short(&c.id),
            c.metadata.clone().unwrap_or_default().name,
            pods.get(&c.pod_sandbox_id).cloned().unwrap_or_else(|| short(&c.pod_sandbox_id)),
            c.image.clone().unwrap_or_default().image,
            state(c.state).to_owned(),
            age(c.created_at),
        ]
    };
    let rows = containers.iter().map(row).collect();
    list(
        format,
        &["CONTAINER", "NAME", "POD", "IMAGE", "STATE", "CREATED"],
        rows,
        || serde_json::json!({"containers": containers}),
    );
    Ok(ExitCode::SUCCESS)
}

fn state(state: i32) -> &'static str {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => "Created",
        Ok(v1::ContainerState::ContainerRunning) => "Running",
        Ok(v1::ContainerState::ContainerExited) => "Exited",
        _ => "Unknown",
    }
}
