#![forbid(unsafe_code)]
//! Networks of pods: the built-in IPv4 bridge, its addresses, and host ports.
//!
//! [`BuiltinNetwork`] makes one bridge per daemon, gives each pod a veth port on it and an address, and
//! maps host ports by nftables. What is about to be made is on disk first, so that a crash at any point
//! leaves nothing that the next daemon does not know of. docs/network.md shows what is made on the host.

mod bridge;
mod error;
mod ipam;
mod link;
mod model;
mod network;
mod nft;
mod record;
mod sysctl;

pub use error::{Error, ErrorKind, Result};
pub use ipam::Subnet;
pub use model::{
    AttachRequest, Attachment, Backend, Check, PortMapping, Protocol, Quarantined, RecoverReport,
};
pub use network::{BuiltinConfig, BuiltinNetwork};
