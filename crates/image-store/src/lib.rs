#![forbid(unsafe_code)]
//! The image store: what an image is called, where it comes from, and how it becomes a root filesystem.
//!
//! One [`ImageStore`] owns `<root>/images` (content shared by both realms) and `<root>/containers`
//! (one writable snapshot per container). It is cheap to clone and safe to share between threads; what
//! it lists comes from memory, so that no list waits for a pull.
//!
//! - Names: [`Realm`], references and `registries.conf`.
//! - Content: pulled or imported, verified, placed file by file, published by rename.
//! - Snapshots: an overlay mount of an image's layers under a container's own writable layer.
//!
//! On disk (`docs/` of the workspace draws the whole tree):
//!
//! ```text
//! images/manifests/<hex>  images/configs/<hex>   documents, named by their sha256
//! images/refs/<realm>/<hash>.json                one name in one realm
//! images/layers/<number>/{layer.json,fs/}        one unpacked layer
//! images/staging/                                unfinished work and trash; emptied when the store opens
//! images/quarantine/                             records that could not be read, moved aside
//! containers/<container id>/{lease.json,upper/,work/}
//! ```

mod assemble;
mod content;
mod credentials;
mod digest;
mod disk;
mod error;
mod flight;
mod image;
mod import;
mod layer;
mod names;
mod open;
mod progress;
mod publish;
mod pull;
mod registry;
mod snapshot;
mod state;
mod store;

pub use credentials::Credentials;
pub use error::{Error, ErrorKind, Result};
pub use image::{Image, ImageConfig, ImageId, Imported, Realm};
pub use progress::{LayerProgress, LayerState, Progress, ProgressSender};
pub use snapshot::Owners;
pub use store::{ImageStore, ImportSource, Limits, Quarantined, Snapshot, StoreConfig, Usage};
