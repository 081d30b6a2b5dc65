//! `gantry images`.

use crate::cli::Format;
use crate::client::Client;
use crate::output::{list, short, size};
use anyhow::Result;
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format) -> Result<ExitCode> {
    let images = client.images.list_images(v1::ListImagesRequest::default()).await?.into_inner().images;
    let rows = images.iter().flat_map(rows).collect();
    list(format, &["NAME", "TAG", "IMAGE", "SIZE"], rows, || serde_json::json!({"images": images}));
    Ok(ExitCode::SUCCESS)
}

/// One row a tag; an image without a tag has one row all the same.
fn rows(image: &v1::Image) -> Vec<Vec<String>> {
    let row =
        |name: &str, tag: &str| vec![name.to_owned(), tag.to_owned(), short(&image.id), size(image.size)];
    if image.repo_tags.is_empty() {
        let digest = image.repo_digests.first().and_then(|d| d.split_once('@'));
        return vec![row(digest.map_or("-", |(name, _)| name), "-")];
    }
    let tags = image.repo_tags.iter();
    tags.map(|t| t.rsplit_once(':').map_or_else(|| row(t, "-"), |(name, tag)| row(name, tag))).collect()
}
