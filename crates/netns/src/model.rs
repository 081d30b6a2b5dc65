//! What a pod asks of its network, and what it got.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Transport protocol of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the pod, 1 to 65535.
    pub container_port: u16,
    /// Port on the host, 1 to 65535.
    pub host_port: u16,
    /// Address of the host; `None` (or 0.0.0.0) for all.
    pub host_ip: Option<IpAddr>,
}

/// A pod that wants a network.
#[derive(Debug)]
pub struct AttachRequest {
    /// Id of the pod: letters, digits, `-`, `_` and `.`.
    pub pod_id: String,
    /// The pod's network namespace.
    pub netns: OwnedFd,
    /// Name of the link in the pod.
    pub interface: String,
    /// Host ports.
    pub ports: Vec<PortMapping>,
}

/// What made an attachment, and has to unmake it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The built-in bridge.
    Builtin,
}

/// A pod's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// What made it.
    pub backend: Backend,
    /// Id of the pod.
    pub pod_id: String,
    /// Name of the link in the pod.
    pub interface: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// The bridge's address, the pod's default route.
    pub gateway: Ipv4Addr,
    /// Hardware address of the pod's link.
    pub mac: String,
    /// Name of the host's end.
    pub host_interface: String,
    /// Name of the bridge.
    pub bridge: String,
    /// Host ports.
    pub ports: Vec<PortMapping>,
}

/// One finding for `gantry doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub message: String,
    /// What to do if it is not ok.
    pub remedy: String,
}

/// A damaged record that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is now.
    pub moved_to: PathBuf,
    /// Why it could not be used.
    pub reason: String,
}

/// What a new daemon found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverReport {
    /// Pods whose attachment was taken back.
    pub detached: Vec<String>,
    /// What could not be done and stays owed.
    pub failures: Vec<String>,
}
