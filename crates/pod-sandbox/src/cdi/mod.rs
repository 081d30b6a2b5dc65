//! Devices by name: the Container Device Interface (CDI, github.com/cncf-tags/container-device-interface).
//!
//! Vendors put specifications into directories of the node; a request names devices as
//! `vendor.com/class=name`, in its field for them or in annotations. The directories are read when a
//! container asks, so that devices which come and go need no restart of the daemon.

mod edits;
mod files;

use crate::error::Kind;
use crate::{Error, Result};
use edits::{Edits, Injection};
use gantry_cri_api::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Start of annotations that name devices, separated by commas.
const ANNOTATION: &str = "cdi.k8s.io/";

/// A device's name taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// `vendor.com/class`.
    kind: String,
    device: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// The changes that the devices of `config` make to a container's configuration; `None` when it names none.
/// Blocking: reads files.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] for a name that is none; [`Kind::NotFound`] for a device that no directory of
/// `dirs` describes, with what kept files from being read; [`Kind::FailedPrecondition`] for one that two
/// files of one directory describe.
pub(crate) fn injection(dirs: &[PathBuf], config: &v1::ContainerConfig) -> Result<Option<Injection>> {
    let wanted = names(config)?;
    if wanted.is_empty() {
        return Ok(None);
    }
    let registry = Registry::read(dirs);
    let mut all = Edits::default();
    let mut specs = BTreeSet::new();
    for name in &wanted {
        let (spec, device) = registry.find(name)?;
        // What holds for a whole file is done once, whatever devices of it are asked for.
        if specs.insert(spec.path.clone()) {
            all.extend(spec.edits.clone());
        }
        all.extend(device.clone());
    }
    Ok(Some(all.resolve()?))
}

/// Names of devices in the order of the request, each once: first its field, then its annotations.
fn names(config: &v1::ContainerConfig) -> Result<Vec<Name>> {
    let asked = config.cdi_devices.iter().map(|d| d.name.as_str());
    let annotated = config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let annotated = annotated.flat_map(|(_, value)| value.split(',').map(str::trim));
    let mut all = Vec::new();
    for text in asked.chain(annotated) {
        let name = parse_name(text)
            .map_err(|why| Error::new(Kind::InvalidArgument, format!("device {text:.256?}: {why}")))?;
        if !all.contains(&name) {
            all.push(name);
        }
    }
    Ok(all)
}

fn parse_name(text: &str) -> Result<Name, String> {
    let wanted = "write it as vendor.com/class=name";
    let (kind, device) = text.split_once('=').ok_or(wanted)?;
    check_kind(kind)?;
    check_part("name", device, "_-.:", true)?;
    Ok(Name { kind: kind.to_owned(), device: device.to_owned() })
}

/// Checks `vendor.com/class`.
fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind.split_once('/').ok_or("the kind of a device is vendor.com/class")?;
    check_part("vendor", vendor, "_-.", false)?;
    check_part("class", class, "_-.", false)
}

fn check_part(what: &str, text: &str, inside: &str, digit_first: bool) -> Result<(), String> {
    let first = |c: char| c.is_ascii_alphabetic() || digit_first && c.is_ascii_digit();
    let good = text.starts_with(first)
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || inside.contains(c));
    match good {
        true => Ok(()),
        false => Err(format!("{text:.64?} is not the {what} of a device")),
    }
}

/// One file that could be read.
#[derive(Debug)]
struct Spec {
    path: PathBuf,
    /// Index of its directory: later ones count more.
    rank: usize,
    kind: String,
    edits: Edits,
    devices: BTreeMap<String, Edits>,
}

/// What the directories describe.
#[derive(Debug, Default)]
struct Registry {
    specs: Vec<Spec>,
    /// Files that could not be read, and why.
    damaged: Vec<(PathBuf, String)>,
}

impl Registry {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for (rank, dir) in dirs.iter().enumerate() {
            for path in files::list(dir, &mut all.damaged) {
                match files::read(&path).and_then(|file| file.checked(&path, rank)) {
                    Ok(spec) => all.specs.push(spec),
                    Err(why) => all.damaged.push((path, why)),
                }
            }
        }
        all
    }

    fn find(&self, name: &Name) -> Result<(&Spec, &Edits)> {
        let has = |s: &&Spec| s.kind == name.kind && s.devices.contains_key(&name.device);
        let rank = self.specs.iter().filter(has).map(|s| s.rank).max();
        let found: Vec<&Spec> = self.specs.iter().filter(has).filter(|s| Some(s.rank) == rank).collect();
        match found.as_slice() {
            [spec] => Ok((*spec, &spec.devices[&name.device])),
            [] => {
                let message = format!("device {name}: no specification on this node has it{}", self.damage());
                Err(Error::new(Kind::NotFound, message))
            }
            several => {
                let files: Vec<String> = several.iter().map(|s| s.path.display().to_string()).collect();
                let message = format!("device {name} is described more than once: {}", files.join(", "));
                Err(Error::new(Kind::FailedPrecondition, message))
            }
        }
    }

    fn damage(&self) -> String {
        let show = |(path, why): &(PathBuf, String)| format!("{}: {why}", path.display());
        match self.damaged.as_slice() {
            [] => String::new(),
            [one] => format!(" ({})", show(one)),
            [first, rest @ ..] => format!(" ({}; and {} more)", show(first), rest.len()),
        }
    }
}

impl files::File {
    fn checked(self, path: &Path, rank: usize) -> Result<Spec, String> {
        files::check_version(&self.version)?;
        check_kind(&self.kind)?;
        let mut devices = BTreeMap::new();
        for device in self.devices {
            check_part("name", &device.name, "_-.:", true)?;
            if devices.insert(device.name.clone(), device.edits).is_some() {
                return Err(format!("device {:.64?} is there twice", device.name));
            }
        }
        Ok(Spec { path: path.to_owned(), rank, kind: self.kind, edits: self.edits, devices })
    }
}

#[cfg(test)]
mod tests;
