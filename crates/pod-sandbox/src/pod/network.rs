//! The network of a sandbox: its namespace pinned, then attached.

use super::{Pod, namespace_path};
use crate::engine::Inner;
use crate::error::{Kind, io_error};
use crate::flight::blocking;
use crate::journal::Undo;
use crate::record::PodRecord;
use crate::{Error, Result};
use gantry_cri_api::v1;
use gantry_netns::{AttachRequest, Dns, PodDetails, PortMapping, Protocol};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Pins the network namespace that `pause` holds and attaches it; the pod's addresses, the main one first.
pub(super) async fn attach(
    inner: &Arc<Inner>,
    pod: &Pod,
    record: &PodRecord,
    pause: i32,
) -> Result<Vec<String>> {
    let kind = inner.network_kind(pod.realm);
    if let Some(why) = inner.networks.problem(kind) {
        let message = format!("the pod network is not ready: {why}");
        return Err(Error::new(Kind::Unavailable, message));
    }
    let ports = port_mappings(&record.config)?;
    let path = namespace_path(pause, "net");
    let netns: OwnedFd = std::fs::File::open(&path).map_err(io_error("open", &path))?.into();
    let netns_path = inner.networks.pin_path(&pod.id);
    pod.promise(Undo::UnpinNetwork(netns_path.clone()))?;
    let (networks, id) = (inner.networks.clone(), pod.id.clone());
    let netns = blocking(move || {
        networks.pin(&id, &netns)?;
        Ok(netns)
    })
    .await?;
    pod.promise(Undo::DetachNetwork)?;
    let request = AttachRequest {
        pod_id: pod.id.clone(),
        netns,
        netns_path,
        interface: super::INTERFACE.into(),
        ports,
        pod: details(record),
    };
    let attachment = inner.networks.attach(kind, request).await;
    let attachment = attachment.map_err(|e| Error::from(e).context("attach to the network"))?;
    Ok(attachment.ips.iter().map(ToString::to_string).collect())
}

fn details(record: &PodRecord) -> PodDetails {
    let config = &record.config;
    let meta = config.metadata.clone().unwrap_or_default();
    let dns = config.dns_config.as_ref().map(|dns| Dns {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    });
    PodDetails {
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        annotations: config.annotations.clone(),
        cgroup_parent: record.cgroup_parent.clone(),
        dns,
    }
}

fn port_mappings(config: &v1::PodSandboxConfig) -> Result<Vec<PortMapping>> {
    let mut ports = Vec::new();
    for port in config.port_mappings.iter().filter(|p| p.host_port != 0) {
        let bad = |what: &str| {
            let message = format!("port mapping {}:{}: {what}", port.host_port, port.container_port);
            Error::new(Kind::InvalidArgument, message)
        };
        let number = |value: i32| u16::try_from(value).ok().filter(|n| *n > 0);
        let protocol = match v1::Protocol::try_from(port.protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            Ok(v1::Protocol::Sctp) => Protocol::Sctp,
            Err(_) => return Err(bad("the protocol is not one of TCP, UDP and SCTP")),
        };
        let host_ip = match port.host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse::<IpAddr>().map_err(|_| bad("the host address is not an IP address"))?),
        };
        ports.push(PortMapping {
            protocol,
            container_port: number(port.container_port).ok_or_else(|| bad("ports are 1 to 65535"))?,
            host_port: number(port.host_port).ok_or_else(|| bad("ports are 1 to 65535"))?,
            host_ip,
        });
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_are_checked() {
        let port = |protocol, host_port, container_port, ip: &str| v1::PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip: ip.into(),
        };
        let map = |p| port_mappings(&v1::PodSandboxConfig { port_mappings: vec![p], ..Default::default() });
        assert!(map(port(0, 0, 80, "")).unwrap().is_empty(), "no host port, nothing to map");
        assert_eq!(map(port(1, 53, 5353, "127.0.0.1")).unwrap()[0].host_port, 53);
        for bad in [port(3, 80, 80, ""), port(0, 70000, 80, ""), port(0, 80, -1, ""), port(0, 80, 80, "x")] {
            assert_eq!(map(bad).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }
}
