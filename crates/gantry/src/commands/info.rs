//! `gantry info`: what the daemon is, what it can do, and what it has.

use crate::cli::Format;
use crate::client::{Client, Realm};
use crate::document::{Documents, details};
use crate::output;
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format) -> Result<ExitCode> {
    let documents = Documents::new()?;
    let mut counts = Map::new();
    for realm in Realm::ALL {
        let cri = client.of(realm);
        let pods = cri.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
        let containers = cri.runtime.list_containers(v1::ListContainersRequest::default()).await?;
        let images = cri.images.list_images(v1::ListImagesRequest::default()).await?;
        let count = json!({
            "pods": pods.into_inner().items.len(),
            "containers": containers.into_inner().containers.len(),
            "images": images.into_inner().images.len(),
        });
        counts.insert(realm.name().into(), count);
    }
    // The kubelet's view: whether pods of its own can have a network is what makes the node ready.
    let runtime = &mut client.of(Realm::Cri).runtime;
    let version = runtime.version(v1::VersionRequest::default()).await?.into_inner();
    let config = runtime.runtime_config(v1::RuntimeConfigRequest::default()).await?.into_inner();
    let mut status = runtime.status(v1::StatusRequest { verbose: true }).await?.into_inner();
    let info = details(&std::mem::take(&mut status.info));
    if format == Format::Table {
        output::list(format, &["WHAT", "VALUE"], rows(&version, &status, &info, &counts), || {
            Ok(Value::Null)
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = documents.message("StatusResponse", &status)?;
    if let Value::Object(fields) = &mut shown {
        fields.insert("info".into(), info);
        fields.insert("version".into(), documents.message("VersionResponse", &version)?);
        fields.insert("runtimeConfig".into(), documents.message("RuntimeConfigResponse", &config)?);
        fields.insert("realms".into(), Value::Object(counts));
    }
    output::print(format, &shown)?;
    Ok(ExitCode::SUCCESS)
}

fn rows(
    version: &v1::VersionResponse,
    status: &v1::StatusResponse,
    info: &Value,
    counts: &Map<String, Value>,
) -> Vec<Vec<String>> {
    let mut rows = vec![
        vec!["version".to_owned(), format!("{} {}", version.runtime_name, version.runtime_version)],
        vec!["CRI".to_owned(), version.runtime_api_version.clone()],
    ];
    for condition in status.status.iter().flat_map(|s| &s.conditions) {
        let verdict = match (condition.status, condition.message.as_str()) {
            (true, _) => "yes".to_owned(),
            (false, why) => format!("no: {why}"),
        };
        rows.push(vec![condition.r#type.clone(), verdict]);
    }
    let handlers: Vec<&str> =
        status.runtime_handlers.iter().map(|h| h.name.as_str()).filter(|n| !n.is_empty()).collect();
    rows.push(vec!["runtime handlers".to_owned(), handlers.join(", ")]);
    if let Some(default) = info["config"]["defaultHandler"].as_str() {
        rows.push(vec!["default handler".to_owned(), default.to_owned()]);
    }
    for (realm, count) in counts {
        let text = ["pods", "containers", "images"].map(|what| format!("{} {what}", count[what]));
        rows.push(vec![format!("realm {realm}"), text.join(", ")]);
    }
    rows
}
