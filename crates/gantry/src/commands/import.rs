//! `gantry import`: an archive goes to the daemon piece by piece.

use crate::client::Client;
use crate::output::{self, size};
use anyhow::{Context as _, Result};
use gantry_cri_api::local::v1::ImportImageRequest;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of one message.
const CHUNK: usize = 256 << 10;

pub(super) async fn run(client: &mut Client, file: &Path, name: Option<String>) -> Result<ExitCode> {
    let what = || format!("import {}", file.display());
    // Few messages wait: the reader is held back by the daemon's disk.
    let (sender, receiver) = mpsc::channel(4);
    let first = ImportImageRequest { name: name.unwrap_or_default(), chunk: Vec::new() };
    sender.send(first).await.with_context(what)?;
    let path = file.to_owned();
    let shown = Shown::new(file);
    let progress = shown.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let result = read(&path, Sending { sender: &sender, buffer: Vec::new(), shown: &progress });
        progress.all_sent();
        result
    });
    let answer = client.local.import_image(ReceiverStream::new(receiver)).await;
    shown.done();
    // What went wrong with the file explains an answer about a broken archive.
    reading.await.with_context(what)?.with_context(what)?;
    for image in answer.with_context(what)?.into_inner().images {
        let names = if image.names.is_empty() { "(no name)".to_owned() } else { image.names.join(" ") };
        output::line(&format!("{} {names}", image.id))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, mut sink: Sending<'_>) -> Result<()> {
    if path == Path::new("-") {
        std::io::copy(&mut std::io::stdin().lock(), &mut sink)?;
    } else if path.is_dir() {
        let mut archive = tar::Builder::new(sink);
        archive.append_dir_all(".", path)?;
        sink = archive.into_inner()?;
    } else {
        std::io::copy(&mut std::fs::File::open(path)?, &mut sink)?;
    }
    sink.flush()?;
    Ok(())
}

/// How far it is: a bar on a terminal, a line elsewhere.
#[derive(Clone)]
struct Shown {
    bar: ProgressBar,
    what: String,
}

impl Shown {
    fn new(file: &Path) -> Self {
        let total = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        let style = match total {
            Some(_) => "{prefix} {bar:30} {bytes}/{total_bytes} {msg}",
            None => "{prefix} {spinner} {bytes} {msg}",
        };
        // Hidden by itself where standard error is no terminal; it counts all the same.
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        let what = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        bar.set_prefix(what.clone());
        Self { bar, what }
    }

    fn all_sent(&self) {
        self.bar.set_message("unpacking");
        if !std::io::stderr().is_terminal() {
            eprintln!("{} {} sent", self.what, size(self.bar.position()));
        }
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// Writes become messages.
struct Sending<'a> {
    sender: &'a mpsc::Sender<ImportImageRequest>,
    buffer: Vec<u8>,
    shown: &'a Shown,
}

impl Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let mut rest = std::mem::take(&mut self.buffer);
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(CHUNK));
            self.shown.bar.inc(rest.len() as u64);
            let message = ImportImageRequest { name: String::new(), chunk: rest };
            // A daemon that ended the call says why in its answer.
            if self.sender.blocking_send(message).is_err() {
                return Ok(());
            }
            rest = after;
        }
        Ok(())
    }
}
