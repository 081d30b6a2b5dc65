//! What a pod asks of its network, and what it got.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// SCTP; CNI plugins only.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
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

/// Name servers of a pod, as its maker gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// Who a pod is; CNI plugins are told, the built-in network does not look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodDetails {
    /// Namespace of the cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id in the cluster.
    pub uid: String,
    /// Annotations; the bandwidth limits are among them.
    pub annotations: BTreeMap<String, String>,
    /// Cgroup that the pod's containers are made under.
    pub cgroup_parent: String,
    /// Name servers.
    pub dns: Option<Dns>,
}

/// A pod that wants a network.
#[derive(Debug)]
pub struct AttachRequest {
    /// Id of the pod: letters, digits, `-`, `_` and `.`.
    pub pod_id: String,
    /// The pod's network namespace.
    pub netns: OwnedFd,
    /// Where that namespace is pinned (see [`Networks::pin`](crate::Networks::pin)).
    pub netns_path: PathBuf,
    /// Name of the link in the pod.
    pub interface: String,
    /// Host ports.
    pub ports: Vec<PortMapping>,
    /// Who it is.
    pub pod: PodDetails,
}

/// Which kind of network a pod is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// The built-in bridge.
    Builtin,
    /// The CNI configuration that is in effect.
    Cni,
}

/// What made an attachment, and has to unmake it, whatever the configuration says by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Backend {
    /// The built-in bridge.
    Builtin,
    /// A chain of CNI plugins.
    Cni {
        /// Name of the CNI network.
        network: String,
    },
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
    /// Where the pod's network namespace is pinned.
    pub netns: Option<PathBuf>,
    /// The pod's addresses, the main one first; none while the attachment is not complete.
    pub ips: Vec<IpAddr>,
    /// Hardware address of the pod's link, if it is known.
    pub mac: Option<String>,
    /// Host ports.
    pub ports: Vec<PortMapping>,
    /// Everything of it is made; otherwise it is being made, or is owed its end.
    pub complete: bool,
}

/// A pod's place on the built-in network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltinAttachment {
    /// Id of the pod.
    pub pod_id: String,
    /// Where the pod's network namespace is pinned.
    pub netns: Option<PathBuf>,
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

impl BuiltinAttachment {
    pub(crate) fn general(self, complete: bool) -> Attachment {
        Attachment {
            backend: Backend::Builtin,
            pod_id: self.pod_id,
            interface: self.interface,
            netns: self.netns,
            ips: vec![IpAddr::V4(self.ip)],
            mac: Some(self.mac),
            ports: self.ports,
            complete,
        }
    }
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
    /// Pods whose attachment is being taken back in the background.
    pub owed: Vec<String>,
    /// What could not be done and stays owed.
    pub failures: Vec<String>,
}
