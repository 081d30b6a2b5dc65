//! Images as callers see them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Whose image names a call sees; content is shared between realms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Realm {
    /// Images of the kubelet and crictl.
    Cri,
    /// Images of the `gantry` command line and Compose projects.
    Local,
}

impl Realm {
    /// Both realms, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Cri, Self::Local];

    /// `cri` or `local`; also the name of the realm's directory.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cri => "cri",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Identity of an image: `sha256:` and the digest of its configuration (the CRI's image id).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub(crate) String);

impl ImageId {
    /// The id as text, with `sha256:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ImageId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image that a realm names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Identity, the same in every realm.
    pub id: ImageId,
    /// Tags of this realm, normalised (`docker.io/library/busybox:latest`), sorted.
    pub repo_tags: Vec<String>,
    /// Digest references of this realm (`docker.io/library/busybox@sha256:…`), sorted.
    pub repo_digests: Vec<String>,
    /// Bytes that the unpacked layers take on disk, shared ones included.
    pub size: u64,
    /// What a container of this image starts with.
    pub config: ImageConfig,
    /// Digests of the uncompressed layers (`sha256:…`), lowest first.
    pub layers: Vec<String>,
    /// When it was built, as written in its configuration (RFC 3339).
    pub created: Option<String>,
    /// Whether garbage collection must keep it.
    pub pinned: bool,
}

/// The part of an image's configuration that a runtime needs (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty when the image names none.
    pub user: String,
    /// `NAME=value`, in the image's order.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Second part of the command line, or all of it when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Working directory; empty when the image names none.
    pub working_dir: String,
    /// Signal that asks the container to stop (`SIGTERM`, `15`, …).
    pub stop_signal: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Paths that the image wants as volumes, sorted.
    pub volumes: Vec<String>,
    /// `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
}

/// One image that an import brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its identity.
    pub id: ImageId,
    /// The names that it got; empty when the archive has none and none was given.
    pub names: Vec<String>,
}
