//! `gantry ps`.

use crate::cli::Format;
use crate::client::{Client, Realm};
use crate::document::Documents;
use crate::output::{age, list, short};
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    format: Format,
    all: bool,
    realm: Option<Realm>,
) -> Result<ExitCode> {
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let filter = (!all).then(|| v1::ContainerFilter { state: Some(running), ..Default::default() });
    let (mut containers, mut pods) = (Vec::new(), BTreeMap::new());
    for realm in Realm::asked(realm) {
        let cri = client.of(realm);
        let request = v1::ListContainersRequest { filter: filter.clone() };
        let answer = cri.runtime.list_containers(request).await?.into_inner();
        containers.extend(answer.containers.into_iter().map(|c| (realm, c)));
        if format == Format::Table {
            let request = v1::ListPodSandboxRequest::default();
            let answer = cri.runtime.list_pod_sandbox(request).await?.into_inner();
            pods.extend(answer.items.into_iter().map(|p| (p.id, p.metadata.unwrap_or_default().name)));
        }
    }
    let row = |(realm, c): &(Realm, v1::Container)| {
        vec![
            short(&c.id),
            c.metadata.clone().unwrap_or_default().name,
            pods.get(&c.pod_sandbox_id).cloned().unwrap_or_else(|| short(&c.pod_sandbox_id)),
            c.image.clone().unwrap_or_default().image,
            state(c.state).to_owned(),
            realm.name().to_owned(),
            age(c.created_at),
        ]
    };
    let rows = containers.iter().map(row).collect();
    let header = ["CONTAINER", "NAME", "POD", "IMAGE", "STATE", "REALM", "CREATED"];
    list(format, &header, rows, || {
        let documents = Documents::new()?;
        let items = containers.iter().map(|(realm, c)| documents.item("Container", c, *realm));
        Ok(json!({"containers": items.collect::<Result<Vec<_>>>()?}))
    })?;
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
