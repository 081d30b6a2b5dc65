//! `gantry images`.

use crate::cli::Format;
use crate::client::{Client, Realm};
use crate::document::Documents;
use crate::output::{list, short, size};
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::json;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format, realm: Option<Realm>) -> Result<ExitCode> {
    let mut images = Vec::new();
    for realm in Realm::asked(realm) {
        let answer = client.of(realm).images.list_images(v1::ListImagesRequest::default()).await?;
        images.extend(answer.into_inner().images.into_iter().map(|image| (realm, image)));
    }
    let rows = images.iter().flat_map(|(realm, image)| rows(*realm, image)).collect();
    list(format, &["NAME", "TAG", "IMAGE", "SIZE", "REALM"], rows, || {
        let documents = Documents::new()?;
        let items = images.iter().map(|(realm, image)| documents.item("Image", image, *realm));
        Ok(json!({"images": items.collect::<Result<Vec<_>>>()?}))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// One row a tag; an image without a tag has one row all the same.
fn rows(realm: Realm, image: &v1::Image) -> Vec<Vec<String>> {
    let row = |name: &str, tag: &str| {
        let cells = [name, tag, &short(&image.id), &size(image.size), realm.name()];
        cells.map(str::to_owned).to_vec()
    };
    if image.repo_tags.is_empty() {
        let digest = image.repo_digests.first().and_then(|d| d.split_once('@'));
        return vec![row(digest.map_or("-", |(name, _)| name), "-")];
    }
    let tags = image.repo_tags.iter();
    tags.map(|t| t.rsplit_once(':').map_or_else(|| row(t, "-"), |(name, tag)| row(name, tag))).collect()
}
