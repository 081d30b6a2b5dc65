//! Importing OCI image layouts (directory or tar) and docker-archives.

use crate::assemble::{Order, Source, assemble};
use crate::content::document::{self, Blob, Choice, Document, Manifest};
use crate::content::pipe::{Chunk, Sender, unwrap};
use crate::content::tarstream::{Archive, EntryKind};
use crate::content::unpack::{decompress, is_compressed, tar_error};
use crate::digest::{Digest, HashingReader};
use crate::names::reference::{Reference, Which};
use crate::publish::Names;
use crate::pull::run_blocking;
use crate::store::Inner;
use crate::{Error, ImportSource, Imported, Limits, Progress, Realm, Result};
use gantry_stage::Stage;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Files that an archive may hold.
const MAX_MEMBERS: usize = 100_000;
/// Links that lead from one file of an archive to another.
const MAX_LINKS: usize = 8;
/// Bytes that are read from an archive at once.
const CHUNK: usize = 64 << 10;

/// The blobs of an archive or layout, by digest.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    files: Arc<Files>,
    /// Blobs that are not where a layout has them.
    places: Arc<HashMap<Digest, String>>,
}

#[derive(Debug)]
enum Files {
    Directory(PathBuf),
    Archive { file: File, members: HashMap<String, Member> },
}

#[derive(Debug, Clone)]
enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

/// A part of a file, read without moving its position: several layers are read at once.
#[derive(Debug)]
struct Section {
    files: Arc<Files>,
    /// The file itself, unless it is the archive of `files`.
    own: Option<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let file = match (&self.own, &*self.files) {
            (Some(file), _) | (None, Files::Archive { file, .. }) => file,
            (None, Files::Directory(_)) => return Ok(0),
        };
        let n = file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

#[derive(Debug, Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

/// One image of an archive, ready to be assembled.
struct Found {
    document: (Digest, Vec<u8>),
    manifest: Manifest,
    names: Vec<String>,
    /// Whether the manifest is the author's own and its digest worth a name.
    original: bool,
}

/// Imports every image of `source`.
pub(crate) async fn import(
    inner: Arc<Inner>,
    realm: Realm,
    name: Option<String>,
    source: ImportSource,
) -> Result<Vec<Imported>> {
    let reading = Arc::clone(&inner);
    let look = run_blocking(move || {
        let files = Arc::new(open(&reading, source)?);
        find(&files, &reading.config.limits)
    });
    let (blobs, found) = Stage::ImportIndex.run(look).await?;
    if name.is_some() && found.len() != 1 {
        let reason = format!("the archive holds {} images; import it without a name", found.len());
        return Err(Error::invalid(name.unwrap_or_default(), reason));
    }
    let source = Arc::new(Source::Archive(blobs));
    let mut imported = Vec::new();
    for image in found {
        let tags = match &name {
            Some(name) => vec![tag(name)?],
            None => image.names.iter().filter_map(|n| tag(n).ok()).collect(),
        };
        let order =
            Order { source: Arc::clone(&source), document: image.document.clone(), manifest: image.manifest };
        let complete = assemble(Arc::clone(&inner), order, watch::Sender::new(Progress::default())).await?;
        let digests =
            if image.original { tags.iter().map(|t| t.at(&image.document.0)).collect() } else { Vec::new() };
        let texts = tags.iter().map(ToString::to_string).collect();
        let names = Names { tags, digests, index: None };
        let publishing = Arc::clone(&inner);
        let publishing = run_blocking(move || publishing.publisher.publish(realm, &complete, &names));
        let id = Stage::ImportPublish.run(publishing).await?;
        imported.push(Imported { id, names: texts });
    }
    Ok(imported)
}

/// A name for an imported image: it must be a tag.
fn tag(name: &str) -> Result<Reference> {
    let reference = Reference::parse(name)?;
    match reference.which() {
        Which::Tag(_) => Ok(reference),
        Which::Digest(_) => Err(Error::invalid(name, "an import is named by a tag, not by a digest")),
    }
}

fn open(inner: &Inner, source: ImportSource) -> Result<Files> {
    let mut file = match source {
        ImportSource::Directory(path) => return Ok(Files::Directory(path)),
        ImportSource::Archive(file) => file,
    };
    let failed = |call| move |e| Error::io(call, "archive", e);
    let mut start = [0; 4];
    let n = file.read_at(&mut start, 0).map_err(failed("read"))?;
    if is_compressed(&start[..n]) {
        file.rewind().map_err(failed("seek"))?;
        let mut plain = inner.disk.unnamed_file()?;
        let limit = inner.config.limits.layer_bytes;
        let mut decoder =
            decompress(&file).map_err(|e| Error::corrupt("archive", e.to_string()))?.take(limit + 1);
        // A full disk and a broken archive both end the copy; the kernel's errors have a number.
        let copied = io::copy(&mut decoder, &mut plain).map_err(|e| match e.raw_os_error() {
            Some(_) => Error::io("write", "archive", e),
            None => Error::corrupt("archive", e.to_string()),
        })?;
        if copied > limit {
            return Err(Error::corrupt("archive", format!("it is larger than {limit} bytes")));
        }
        drop(decoder);
        file = plain;
    }
    let members = members(&file)?;
    Ok(Files::Archive { file, members })
}

/// Where the files of a tar archive are.
fn members(file: &File) -> Result<HashMap<String, Member>> {
    let mut archive = Archive::new(Position { file, offset: 0 });
    let mut members = HashMap::new();
    while let Some(entry) = archive.next_entry().map_err(|e| tar_error("archive", e))? {
        if members.len() >= MAX_MEMBERS {
            return Err(Error::corrupt("archive", format!("more than {MAX_MEMBERS} files")));
        }
        let (Ok(path), Ok(link)) = (String::from_utf8(entry.path), String::from_utf8(entry.link)) else {
            continue;
        };
        let offset = archive.get_mut().offset;
        let member = match entry.kind {
            EntryKind::File => Member::File { offset, size: entry.size },
            EntryKind::Symlink => Member::Link(beside(&path, &link)),
            EntryKind::HardLink => Member::Link(plain(&link)),
            _ => continue,
        };
        // The archive reads content in order; this one jumps over it.
        if entry.kind == EntryKind::File {
            archive.get_mut().offset = offset + entry.size;
            archive.jumped();
        }
        members.insert(plain(&path), member);
    }
    Ok(members)
}

/// Reads a file from a position of its own.
struct Position<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Position<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// A path without `.` and leading slashes; `..` takes the component before it away.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Where a link at `path` leads.
fn beside(path: &str, link: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, _)) if !link.starts_with('/') => plain(&format!("{dir}/{link}")),
        _ => plain(link),
    }
}

impl Files {
    fn open(self: &Arc<Self>, name: &str) -> Result<Option<Section>> {
        match &**self {
            Self::Directory(root) => {
                let path = root.join(name);
                let object = || path.display().to_string();
                // Neither a link out of the layout nor a pipe that nobody writes to.
                let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
                let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
                let file = match opened {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(Error::io("open", object(), e)),
                };
                let m = file.metadata().map_err(|e| Error::io("stat", object(), e))?;
                if !m.is_file() {
                    return Err(Error::corrupt(object(), "it is not a regular file"));
                }
                Ok(Some(Section { files: Arc::clone(self), own: Some(file), offset: 0, left: m.len() }))
            }
            Self::Archive { members, .. } => {
                let mut name = plain(name);
                for _ in 0..MAX_LINKS {
                    match members.get(&name) {
                        Some(Member::File { offset, size }) => {
                            let files = Arc::clone(self);
                            return Ok(Some(Section { files, own: None, offset: *offset, left: *size }));
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Err(Error::corrupt(format!("archive member {name}"), "too many links"))
            }
        }
    }

    fn read(self: &Arc<Self>, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.open(name)? else { return Ok(None) };
        if section.left > limit {
            return Err(Error::corrupt(
                format!("archive member {name}"),
                format!("it has more than {limit} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        let mut section = section;
        section.read_to_end(&mut bytes).map_err(|e| Error::io("read", name, e))?;
        Ok(Some(bytes))
    }
}

fn find(files: &Arc<Files>, limits: &Limits) -> Result<(Blobs, Vec<Found>)> {
    if files.read("oci-layout", limits.manifest_bytes)?.is_some()
        && let Some(index) = files.read("index.json", limits.manifest_bytes)?
    {
        let blobs = Blobs { files: Arc::clone(files), places: Arc::default() };
        let found = layout(&blobs, &index, limits)?;
        return Ok((blobs, found));
    }
    if let Some(manifest) = files.read("manifest.json", limits.manifest_bytes)? {
        return docker(files, &manifest, limits);
    }
    Err(Error::unsupported("archive", "it is neither an OCI image layout nor a docker-archive"))
}

fn layout(blobs: &Blobs, index: &[u8], limits: &Limits) -> Result<Vec<Found>> {
    let Document::Index(choices) = document::parse("index.json", index, Some(document::ACCEPT[1]))? else {
        return Err(Error::corrupt("index.json", "it is no index"));
    };
    let mut found: Vec<Found> = Vec::new();
    for Choice { digest, names, .. } in choices {
        let mut digest = digest;
        let mut bytes = blobs.document(&digest, limits)?;
        let mut parsed = document::parse(digest.as_str(), &bytes, None)?;
        if let Document::Index(inner) = &parsed {
            digest = document::choose(digest.as_str(), inner)?.digest.clone();
            bytes = blobs.document(&digest, limits)?;
            parsed = document::parse(digest.as_str(), &bytes, None)?;
        }
        let Document::Manifest(manifest) = parsed else {
            return Err(Error::corrupt(format!("manifest {digest}"), "too many nested indexes"));
        };
        // A tag alone, as the standard annotation may hold, names no repository.
        let names = names.into_iter().filter(|n| n.contains([':', '/'])).take(1);
        match found.iter_mut().find(|f| f.document.0 == digest) {
            Some(same) => same.names.extend(names),
            None => {
                let (document, names) = ((digest, bytes), names.collect());
                found.push(Found { document, manifest, names, original: true });
            }
        }
    }
    Ok(found)
}

fn docker(files: &Arc<Files>, manifest: &[u8], limits: &Limits) -> Result<(Blobs, Vec<Found>)> {
    let bad = |reason: String| Error::corrupt("manifest.json", reason);
    let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|e| bad(e.to_string()))?;
    let mut places = HashMap::new();
    let mut found = Vec::new();
    for image in images {
        let config_bytes = files
            .read(&image.config, limits.config_bytes)?
            .ok_or_else(|| bad(format!("{} is missing", image.config)))?;
        let config = Blob { digest: Digest::of(&config_bytes), size: config_bytes.len() as u64 };
        places.insert(config.digest.clone(), image.config);
        let names = image.layers.unwrap_or_default();
        let diff_ids = document::parse_config(&config.digest, &config_bytes)?.diff_ids;
        if names.len() != diff_ids.len() {
            return Err(bad(format!("{} layers, but the configuration has {}", names.len(), diff_ids.len())));
        }
        if names.len() > limits.layers {
            return Err(bad(format!("more than {} layers", limits.layers)));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in names.into_iter().zip(diff_ids) {
            let section = files.open(&name)?.ok_or_else(|| bad(format!("{name} is missing")))?;
            let size = section.left;
            let digest = layer_digest(section, &name, diff_id)?;
            places.insert(digest.clone(), name);
            layers.push(Blob { digest, size });
        }
        let bytes = document::synthesize(&config, &layers);
        let document = (Digest::of(&bytes), bytes);
        let names = image.repo_tags.unwrap_or_default();
        found.push(Found { document, manifest: Manifest { config, layers }, names, original: false });
    }
    Ok((Blobs { files: Arc::clone(files), places: Arc::new(places) }, found))
}

/// Digest of a layer as it is in the archive: its diff id if it is plain (unpacking checks that).
fn layer_digest(mut section: Section, name: &str, diff_id: Digest) -> Result<Digest> {
    let failed = |e| Error::io("read", name, e);
    let (offset, left) = (section.offset, section.left);
    let mut start = Vec::new();
    (&mut section).take(4).read_to_end(&mut start).map_err(failed)?;
    if !is_compressed(&start) {
        return Ok(diff_id);
    }
    (section.offset, section.left) = (offset, left);
    let mut hashing = HashingReader::new(section);
    hashing.drain().map_err(failed)?;
    Ok(hashing.digest())
}

impl Blobs {
    fn open(&self, digest: &Digest) -> Result<Section> {
        let name = match self.places.get(digest) {
            Some(name) => name.clone(),
            None => format!("blobs/sha256/{}", digest.hex()),
        };
        let missing = || Error::corrupt("archive", format!("{name} is missing"));
        self.files.open(&name)?.ok_or_else(missing)
    }

    fn document(&self, digest: &Digest, limits: &Limits) -> Result<Vec<u8>> {
        let section = self.open(digest)?;
        read_verified(section, digest, limits.manifest_bytes, "manifest")
    }

    /// Reads a small blob as a whole and verifies it.
    pub(crate) async fn small(&self, blob: &Blob, limit: u64, what: &str) -> Result<Vec<u8>> {
        let (blobs, digest, what) = (self.clone(), blob.digest.clone(), what.to_owned());
        run_blocking(move || read_verified(blobs.open(&digest)?, &digest, limit, &what)).await
    }

    /// Sends a blob through a pipe; digests are for the reader to check. `false` when it has gone.
    pub(crate) async fn send(
        &self,
        blob: &Blob,
        pipe: &Sender,
        mut seen: impl FnMut(u64) + Send + 'static,
    ) -> Result<bool> {
        let (blobs, digest, pipe) = (self.clone(), blob.digest.clone(), pipe.clone());
        run_blocking(move || {
            let mut section = blobs.open(&digest)?;
            loop {
                let mut chunk = vec![0; CHUNK];
                let n = section.read(&mut chunk).map_err(|e| Error::io("read", digest.as_str(), e))?;
                chunk.truncate(n);
                let message = if n == 0 { Chunk::End } else { Chunk::Data(chunk.into()) };
                if pipe.blocking_send(message).is_err() {
                    return Ok(false);
                }
                if n == 0 {
                    return Ok(true);
                }
                seen(n as u64);
            }
        })
        .await
    }
}

fn read_verified(section: Section, digest: &Digest, limit: u64, what: &str) -> Result<Vec<u8>> {
    let object = format!("{what} {digest}");
    if section.left > limit {
        return Err(Error::corrupt(object, format!("it has more than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    let mut section = section;
    section.read_to_end(&mut bytes).map_err(|e| unwrap(&object, e))?;
    let is = Digest::of(&bytes);
    if is == *digest {
        return Ok(bytes);
    }
    Err(Error::corrupt(object, format!("the content has digest {is}")))
}
