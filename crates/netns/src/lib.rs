#![forbid(unsafe_code)]
//! Networks of pods: the built-in IPv4 bridge, CNI plugins, and pinned network namespaces.
//!
//! [`Networks`] is the entrance. [`BuiltinNetwork`] makes one bridge per daemon, gives each pod a veth
//! port on it and an address, and maps host ports by nftables. CNI plugins are called as their
//! configuration says. Either way, what is about to be made is on disk first, so that a crash at any point
//! leaves nothing that the next daemon does not know of. docs/network.md shows what is made on the host.

mod bridge;
mod cni;
mod error;
mod ipam;
mod link;
mod model;
mod network;
mod networks;
mod nft;
mod pin;
mod record;
mod sysctl;
mod turns;

pub use cni::{CniConfig, PodCidr};
pub use error::{Error, ErrorKind, Result};
pub use ipam::Subnet;
pub use model::{
    AttachRequest, Attachment, Backend, BuiltinAttachment, Check, Dns, NetworkKind, PodDetails, PortMapping,
    Protocol, Quarantined, RecoverReport,
};
pub use network::{BuiltinConfig, BuiltinNetwork};
pub use networks::{Networks, NetworksConfig};
