//! The JSON records, each readable alone.

use crate::digest::Digest;
use crate::{Error, Realm, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Version that this program writes into records; it reads no other.
const VERSION: u32 = 1;
/// Records larger than this are damaged.
const MAX_RECORD: u64 = 1 << 20;

/// One name in one realm: `refs/<realm>/<hash of the name>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ref {
    version: u32,
    /// `domain/path:tag`, `domain/path@digest`, or the image id.
    pub(crate) name: String,
    /// Image id, the digest of its configuration.
    pub(crate) image: Digest,
    /// Manifest of the image.
    pub(crate) manifest: Digest,
    /// Index that led to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<Digest>,
}

impl Ref {
    pub(crate) fn new(name: String, image: Digest, manifest: Digest, index: Option<Digest>) -> Self {
        Self { version: VERSION, name, image, manifest, index }
    }
}

/// One unpacked layer: `layers/<number>/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    version: u32,
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Identity of the layer with everything below it.
    pub(crate) chain_id: Digest,
    /// Blob that it was unpacked from.
    pub(crate) blob: Digest,
    /// Whether the directory is the same whatever lies below.
    pub(crate) self_contained: bool,
    /// Whether the layer describes the root directory.
    pub(crate) root_placed: bool,
    /// Whether the layer hides everything below it.
    pub(crate) root_opaque: bool,
    /// Disk space.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

impl Layer {
    pub(crate) fn new(
        diff_id: Digest,
        chain_id: Digest,
        blob: Digest,
        unpacked: &crate::content::unpack::Unpacked,
    ) -> Self {
        Self {
            version: VERSION,
            diff_id,
            chain_id,
            blob,
            self_contained: !unpacked.used_lower,
            root_placed: unpacked.root_placed,
            root_opaque: unpacked.root_opaque,
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
        }
    }
}

/// What a container's snapshot needs: `containers/<id>/lease.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    version: u32,
    /// Realm of the container.
    pub(crate) realm: Realm,
    /// Image of the container.
    pub(crate) image: Digest,
    /// Its layers by number, lowest first.
    pub(crate) layers: Vec<u64>,
}

impl Lease {
    pub(crate) fn new(realm: Realm, image: Digest, layers: Vec<u64>) -> Self {
        Self { version: VERSION, realm, image, layers }
    }
}

/// The text of a record.
pub(crate) fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::corrupt("record", e.to_string()))
}

/// Reads a record; one that is not there is `None`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Some(bytes) = read_small(path, MAX_RECORD)? else { return Ok(None) };
    let bad = |reason: String| Error::corrupt(path.display().to_string(), reason);
    let Version { version } = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if version != VERSION {
        return Err(bad(format!("record version {version}; this program knows {VERSION}")));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| bad(e.to_string()))
}

/// Reads a document and checks it against its name.
pub(crate) fn read_document(path: &Path, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(bytes) = read_small(path, limit)? else { return Ok(None) };
    if Digest::of(&bytes) != *digest {
        return Err(Error::corrupt(path.display().to_string(), "its content does not match its name"));
    }
    Ok(Some(bytes))
}

fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let object = || path.display().to_string();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", object(), e)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", object(), e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::corrupt(object(), format!("it is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}
