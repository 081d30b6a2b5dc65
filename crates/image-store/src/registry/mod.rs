//! Talking to registries (OCI distribution-spec).
//!
//! Blobs stream through oci-client. Manifests, tokens and error texts are read here instead, because
//! oci-client reads those into memory whatever their length, and image names come from strangers.

mod auth;
mod session;
mod transport;

pub(crate) use session::{Fetched, Session};
pub(crate) use transport::Transports;
