//! `gantry inspect`: status and details of one object as JSON.

use crate::client::Client;
use crate::find::{self, Object};
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, wanted: &str) -> Result<ExitCode> {
    let shown = match find::object(client, wanted).await? {
        Some(Object::Container(container_id)) => {
            let request = v1::ContainerStatusRequest { container_id, verbose: true };
            let answer = client.runtime.container_status(request).await?.into_inner();
            json!({"container": answer.status, "info": details(answer.info)})
        }
        Some(Object::Pod(pod_sandbox_id)) => {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id, verbose: true };
            let answer = client.runtime.pod_sandbox_status(request).await?.into_inner();
            json!({
                "pod": answer.status,
                "containers": answer.containers_statuses,
                "info": details(answer.info),
            })
        }
        None => {
            let spec = v1::ImageSpec { image: wanted.to_owned(), ..Default::default() };
            let request = v1::ImageStatusRequest { image: Some(spec), verbose: true };
            let answer = client.images.image_status(request).await?.into_inner();
            match answer.image {
                Some(image) => json!({"image": image, "info": details(answer.info)}),
                None => return Err(find::nothing(wanted)),
            }
        }
    };
    println!("{shown:#}");
    Ok(ExitCode::SUCCESS)
}

/// The daemon's details are JSON documents in strings.
fn details(info: BTreeMap<String, String>) -> Value {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    match info.get("info") {
        Some(text) if info.len() == 1 => parse(text),
        _ => Value::Object(info.iter().map(|(k, v)| (k.clone(), parse(v))).collect::<Map<_, _>>()),
    }
}
