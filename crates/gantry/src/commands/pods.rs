//! `gantry pods`.

use crate::cli::Format;
use crate::client::Client;
use crate::output::{age, list, short};
use anyhow::Result;
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format) -> Result<ExitCode> {
    let request = v1::ListPodSandboxRequest::default();
    let pods = client.runtime.list_pod_sandbox(request).await?.into_inner().items;
    let ready = i32::from(v1::PodSandboxState::SandboxReady);
    let mut rows = Vec::new();
    for pod in &pods {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        // A pod that was removed since the list was made has no address to show.
        let status = client.runtime.pod_sandbox_status(request).await.ok();
        let ip = status.and_then(|s| s.into_inner().status?.network).map(|n| n.ip).unwrap_or_default();
        let meta = pod.metadata.clone().unwrap_or_default();
        rows.push(vec![
            short(&pod.id),
            meta.name,
            meta.namespace,
            if pod.state == ready { "Ready" } else { "NotReady" }.to_owned(),
            if ip.is_empty() { "-".to_owned() } else { ip },
            age(pod.created_at),
        ]);
    }
    list(
        format,
        &["POD", "NAME", "NAMESPACE", "STATE", "ADDRESS", "CREATED"],
        rows,
        || serde_json::json!({"items": pods}),
    );
    Ok(ExitCode::SUCCESS)
}
