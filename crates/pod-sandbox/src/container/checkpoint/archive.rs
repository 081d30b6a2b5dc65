//! The archive of a checkpoint.

use crate::Result;
use crate::error::io_error;
use crate::record::ContainerRecord;
use rustix::fs::FileType;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Directory of what CRIU wrote, in the working directory and in the archive.
pub(super) const IMAGES: &str = "checkpoint";

/// CRIU's log.
pub(super) const LOG: &str = "dump.log";

/// Name of a file that stands for one which is gone from the layer below, as images have it.
const WHITEOUT: &str = ".wh.";

/// Name of a file that hides everything of a directory's layers below.
const OPAQUE: &str = ".wh..wh..opq";

/// What an archive is made of.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) record: ContainerRecord,
    pub(super) handler: String,
    /// The OCI configuration.
    pub(super) spec: PathBuf,
    /// Working directory of the checkpoint.
    pub(super) dir: PathBuf,
    /// The container's writable layer.
    pub(super) upper: Option<PathBuf>,
}

/// Writes the archive to a file beside `location` and renames it: it is there whole or not at all. Blocking.
pub(super) fn write(source: &Source, location: &Path) -> Result<()> {
    let mut temporary = location.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = fill(source, &temporary)
        .and_then(|()| std::fs::rename(&temporary, location))
        .map_err(io_error("write", location));
    if written.is_err() {
        // Part of an archive is of no use to anybody.
        let _gone = std::fs::remove_file(&temporary);
    }
    written
}

fn fill(source: &Source, path: &Path) -> std::io::Result<()> {
    // It holds the memory of processes.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut tar = tar::Builder::new(BufWriter::new(file));
    tar.follow_symlinks(false);
    tar.append_dir_all(IMAGES, source.dir.join(IMAGES))?;
    let log = source.dir.join("work").join(LOG);
    if log.exists() {
        tar.append_path_with_name(log, LOG)?;
    }
    tar.append_path_with_name(&source.spec, "spec.dump")?;
    let record = &source.record;
    let meta = record.config.metadata.clone().unwrap_or_default();
    let asked = record.config.image.as_ref().map_or("", |i| i.image.as_str());
    let config = json!({
        "id": record.id,
        "name": meta.name,
        "attempt": meta.attempt,
        "rootfsImage": asked,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": asked,
        "imageID": record.image_id,
        "runtime": source.handler,
        "createdTime": record.created_at,
        "checkpointedAt": crate::record::now(),
        "config": record.config,
    });
    append_bytes(&mut tar, "config.dump", &serde_json::to_vec_pretty(&config)?)?;
    if let Some(upper) = &source.upper {
        let diff = source.dir.join("rootfs-diff.tar");
        write_diff(upper, &diff)?;
        tar.append_path_with_name(&diff, "rootfs-diff.tar")?;
    }
    let mut inner = tar.into_inner()?;
    inner.flush()?;
    inner.get_ref().sync_all()
}

fn append_bytes<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    bytes: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, bytes)
}

/// What a writable layer changes, as a layer of an image.
fn write_diff(upper: &Path, target: &Path) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create_new(target)?));
    tar.follow_symlinks(false);
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let dir = upper.join(&relative);
        if !relative.as_os_str().is_empty() {
            tar.append_dir(&relative, &dir)?;
        }
        if is_opaque(&dir) {
            append_bytes(&mut tar, &relative.join(OPAQUE).to_string_lossy(), &[])?;
        }
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let (path, name) = (entry.path(), relative.join(entry.file_name()));
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(name);
            } else if meta.file_type().is_char_device() && meta.rdev() == 0 {
                let gone = format!("{WHITEOUT}{}", entry.file_name().to_string_lossy());
                append_bytes(&mut tar, &relative.join(gone).to_string_lossy(), &[])?;
            } else if FileType::from_raw_mode(meta.mode()) != FileType::Socket {
                // A socket is made anew by who listens on it.
                tar.append_path_with_name(&path, &name)?;
            }
        }
    }
    tar.into_inner()?.flush()
}

/// Whether a directory of the writable layer hides what the layers below have in it.
fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
}
