//! Files of device specifications: finding and reading them.

use super::edits::Edits;
use serde::Deserialize;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Most files of one directory that are read.
const MAX_FILES: usize = 1024;

/// A specification as it is written (CDI SPEC.md).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File {
    #[serde(rename = "cdiVersion")]
    pub(super) version: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    #[serde(default, rename = "containerEdits")]
    pub(super) edits: Edits,
}

/// One device of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "containerEdits")]
    pub(super) edits: Edits,
}

/// Specifications in `dir`, by name; a directory that is not there has none.
pub(super) fn list(dir: &Path, damaged: &mut Vec<(PathBuf, String)>) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            damaged.push((dir.to_owned(), e.to_string()));
            return Vec::new();
        }
    };
    let named = |p: &PathBuf| p.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(named).collect();
    found.sort();
    if found.len() > MAX_FILES {
        damaged.push((dir.to_owned(), format!("it has more than {MAX_FILES} files")));
        found.truncate(MAX_FILES);
    }
    found
}

pub(super) fn read(path: &Path) -> Result<File, String> {
    // A pipe in the directory must not hold the container that asks.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| e.to_string())?;
    let file = std::fs::File::from(fd);
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it is longer than {MAX_FILE} bytes"));
    }
    if path.extension().is_some_and(|e| e == "json") {
        return serde_json::from_str(&text).map_err(|e| e.to_string());
    }
    serde_saphyr::from_str(&text).map_err(|e| e.to_string())
}

/// Versions whose meaning is known: 0.3 to 0.8, and 1.x, which only adds to 1.0.
pub(super) fn check_version(version: &str) -> Result<(), String> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(3..=8)), Some(Ok(_)), None) => Ok(()),
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => Ok(()),
        _ => Err(format!("cdiVersion {version:.32?} is not known (0.3.0 to 1.x)")),
    }
}
