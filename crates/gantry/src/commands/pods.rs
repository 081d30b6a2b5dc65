//! `gantry pods`.

use crate::cli::Format;
use crate::client::{Client, Realm};
use crate::document::Documents;
use crate::output::{age, list, short};
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::json;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format, realm: Option<Realm>) -> Result<ExitCode> {
    let mut pods = Vec::new();
    for realm in Realm::asked(realm) {
        let request = v1::ListPodSandboxRequest::default();
        let answer = client.of(realm).runtime.list_pod_sandbox(request).await?;
        pods.extend(answer.into_inner().items.into_iter().map(|pod| (realm, pod)));
    }
    let rows = match format {
        Format::Table => rows(client, &pods).await,
        Format::Json | Format::Yaml => Vec::new(),
    };
    let header = ["POD", "NAME", "NAMESPACE", "STATE", "ADDRESS", "REALM", "CREATED"];
    list(format, &header, rows, || {
        let documents = Documents::new()?;
        let items = pods.iter().map(|(realm, pod)| documents.item("PodSandbox", pod, *realm));
        Ok(json!({"items": items.collect::<Result<Vec<_>>>()?}))
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn rows(client: &mut Client, pods: &[(Realm, v1::PodSandbox)]) -> Vec<Vec<String>> {
    let ready = i32::from(v1::PodSandboxState::SandboxReady);
    let mut rows = Vec::new();
    for (realm, pod) in pods {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        // A pod that was removed since the list was made has no address to show.
        let status = client.of(*realm).runtime.pod_sandbox_status(request).await.ok();
        let ip = status.and_then(|s| s.into_inner().status?.network).map(|n| n.ip).unwrap_or_default();
        let meta = pod.metadata.clone().unwrap_or_default();
        rows.push(vec![
            short(&pod.id),
            meta.name,
            meta.namespace,
            if pod.state == ready { "Ready" } else { "NotReady" }.to_owned(),
            if ip.is_empty() { "-".to_owned() } else { ip },
            realm.name().to_owned(),
            age(pod.created_at),
        ]);
    }
    rows
}
