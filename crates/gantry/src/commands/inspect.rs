//! `gantry inspect`: status and details of one object.

use crate::cli::Format;
use crate::client::{Client, Realm};
use crate::document::{Documents, details};
use crate::find::{self, Found, Kind};
use crate::output;
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::{Value, json};
use std::process::ExitCode;

pub(super) async fn run(
    client: &mut Client,
    format: Format,
    wanted: &str,
    realm: Option<Realm>,
) -> Result<ExitCode> {
    let shown = match find::object(client, wanted, realm).await? {
        Some(Found { realm, kind: Kind::Container, id }) => container(client, realm, id).await?,
        Some(Found { realm, kind: Kind::Pod, id }) => pod(client, realm, id).await?,
        None => image(client, wanted, realm).await?,
    };
    output::print(format, &shown)?;
    Ok(ExitCode::SUCCESS)
}

async fn container(client: &mut Client, realm: Realm, container_id: String) -> Result<Value> {
    let request = v1::ContainerStatusRequest { container_id, verbose: true };
    let mut answer = client.of(realm).runtime.container_status(request).await?.into_inner();
    let info = details(&std::mem::take(&mut answer.info));
    finish("container", realm, Documents::new()?.message("ContainerStatusResponse", &answer)?, info)
}

async fn pod(client: &mut Client, realm: Realm, pod_sandbox_id: String) -> Result<Value> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id, verbose: true };
    let mut answer = client.of(realm).runtime.pod_sandbox_status(request).await?.into_inner();
    let info = details(&std::mem::take(&mut answer.info));
    finish("pod", realm, Documents::new()?.message("PodSandboxStatusResponse", &answer)?, info)
}

async fn image(client: &mut Client, wanted: &str, realm: Option<Realm>) -> Result<Value> {
    for realm in Realm::asked(realm) {
        let spec = v1::ImageSpec { image: wanted.to_owned(), ..Default::default() };
        let request = v1::ImageStatusRequest { image: Some(spec), verbose: true };
        let mut answer = client.of(realm).images.image_status(request).await?.into_inner();
        if answer.image.is_some() {
            let info = details(&std::mem::take(&mut answer.info));
            return finish("image", realm, Documents::new()?.message("ImageStatusResponse", &answer)?, info);
        }
    }
    Err(find::nothing(wanted))
}

/// The fields of the CRI's answer, what they are about, and the details as a document.
fn finish(kind: &str, realm: Realm, mut answer: Value, info: Value) -> Result<Value> {
    if let Value::Object(fields) = &mut answer {
        fields.insert("kind".into(), json!(kind));
        fields.insert("realm".into(), json!(realm.name()));
        fields.insert("info".into(), info);
    }
    Ok(answer)
}
