//! `gantry rmi`.

use crate::client::{Client, Realm};
use crate::{find, output};
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, images: &[String], realm: Option<Realm>) -> Result<ExitCode> {
    for name in images {
        remove(client, name, realm).await.with_context(|| format!("remove image {name}"))?;
        output::line(name)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &mut Client, name: &str, asked: Option<Realm>) -> Result<()> {
    for realm in Realm::asked(asked) {
        let images = &mut client.of(realm).images;
        let spec = Some(v1::ImageSpec { image: name.to_owned(), ..Default::default() });
        let request = v1::ImageStatusRequest { image: spec.clone(), verbose: false };
        if images.image_status(request).await?.into_inner().image.is_some() {
            find::may_end("image", name, realm, asked)?;
            images.remove_image(v1::RemoveImageRequest { image: spec }).await?;
            return Ok(());
        }
    }
    Err(find::nothing(name))
}
