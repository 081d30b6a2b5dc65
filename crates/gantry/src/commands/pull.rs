//! `gantry pull`: with a bar per layer on a terminal, with plain lines elsewhere.

use crate::client::Client;
use crate::output::{self, short, size};
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::local::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, image: &str) -> Result<ExitCode> {
    let id = pull(client, image).await?;
    output::line(&id)?;
    Ok(ExitCode::SUCCESS)
}

/// Pulls, says how far it is on standard error, and returns the image id.
pub(super) async fn pull(client: &mut Client, image: &str) -> Result<String> {
    let what = || format!("pull {image}");
    let request = v1::PullImageRequest { image: image.to_owned() };
    let mut messages = client.local.pull_image(request).await.with_context(what)?.into_inner();
    let mut shown = Shown::new();
    while let Some(progress) = messages.message().await.with_context(what)? {
        shown.update(&progress);
        if !progress.image_id.is_empty() {
            return Ok(progress.image_id);
        }
    }
    bail!("pull {image}: the daemon ended the call without an image")
}

struct Shown {
    bars: Option<MultiProgress>,
    layers: BTreeMap<String, ProgressBar>,
    stages: BTreeMap<String, String>,
}

impl Shown {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, layers: BTreeMap::new(), stages: BTreeMap::new() }
    }

    fn update(&mut self, progress: &v1::PullProgress) {
        for layer in &progress.layers {
            match &self.bars {
                Some(bars) => {
                    let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
                        let bar = bars.add(ProgressBar::new(layer.total));
                        let style = "{prefix} {bar:30} {bytes}/{total_bytes} {msg}";
                        bar.set_style(
                            ProgressStyle::with_template(style)
                                .unwrap_or_else(|_| ProgressStyle::default_bar()),
                        );
                        bar.set_prefix(short(&layer.digest));
                        bar
                    });
                    bar.set_position(if layer.stage == "present" { layer.total } else { layer.fetched });
                    bar.set_message(layer.stage.clone());
                    if matches!(layer.stage.as_str(), "done" | "present") {
                        bar.finish();
                    }
                }
                None => {
                    let stage = self.stages.entry(layer.digest.clone()).or_default();
                    if *stage != layer.stage {
                        eprintln!("{} {} {}", short(&layer.digest), size(layer.total), layer.stage);
                        stage.clone_from(&layer.stage);
                    }
                }
            }
        }
    }
}
