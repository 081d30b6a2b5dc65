//! `gantry rmi`.

use crate::client::Client;
use crate::find;
use anyhow::{Context as _, Result};
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, images: &[String]) -> Result<ExitCode> {
    for name in images {
        let spec = Some(v1::ImageSpec { image: name.clone(), ..Default::default() });
        let what = || format!("remove image {name}");
        let request = v1::ImageStatusRequest { image: spec.clone(), verbose: false };
        let found = client.images.image_status(request).await.with_context(what)?.into_inner().image;
        if found.is_none() {
            return Err(find::nothing(name)).with_context(what);
        }
        client.images.remove_image(v1::RemoveImageRequest { image: spec }).await.with_context(what)?;
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}
