//! `gantry import`: an archive goes to the daemon piece by piece.

use crate::client::Client;
use anyhow::{Context as _, Result};
use gantry_cri_api::local::v1::ImportImageRequest;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
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
    let reading = tokio::task::spawn_blocking(move || read(&path, &sender));
    let answer = client.local.import_image(ReceiverStream::new(receiver)).await;
    // What went wrong with the file explains an answer about a broken archive.
    reading.await.with_context(what)?.with_context(what)?;
    for image in answer.with_context(what)?.into_inner().images {
        let names = if image.names.is_empty() { "(no name)".to_owned() } else { image.names.join(" ") };
        println!("{} {names}", image.id);
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, sender: &mpsc::Sender<ImportImageRequest>) -> Result<()> {
    if path == Path::new("-") {
        return forward(std::io::stdin().lock(), sender);
    }
    if path.is_dir() {
        let mut archive = tar::Builder::new(Sending { sender, buffer: Vec::new() });
        archive.append_dir_all(".", PathBuf::from(path))?;
        archive.into_inner()?.flush()?;
        return Ok(());
    }
    forward(std::fs::File::open(path)?, sender)
}

fn forward(mut source: impl Read, sender: &mpsc::Sender<ImportImageRequest>) -> Result<()> {
    let mut sink = Sending { sender, buffer: Vec::new() };
    std::io::copy(&mut source, &mut sink)?;
    sink.flush()?;
    Ok(())
}

/// Writes become messages.
struct Sending<'a> {
    sender: &'a mpsc::Sender<ImportImageRequest>,
    buffer: Vec<u8>,
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
