//! Links, addresses and routes over netlink (rtnetlink(7)).

use crate::{Error, Result, Subnet};
use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteAddress;
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A netlink socket in one network namespace: that of the thread that opened it.
#[derive(Debug, Clone)]
pub(crate) struct Netlink {
    handle: Handle,
}

/// A link as a dump shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
}

impl Netlink {
    /// Opens a socket; its messages are moved by a task of the current runtime.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| Error::failed("open a netlink socket", e))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The link of that name, if there is one.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await {
            Ok(message) => Ok(message.map(|m| parse(&m))),
            Err(e) if errno(&e) == Some(NO_DEVICE) => Ok(None),
            Err(e) => Err(Error::failed(format!("look up link {name}"), e)),
        }
    }

    /// All links of the namespace.
    pub(crate) async fn links(&self) -> Result<Vec<Link>> {
        let links: std::result::Result<Vec<LinkMessage>, _> =
            self.handle.link().get().execute().try_collect().await;
        Ok(links.map_err(|e| Error::failed("list links", e))?.iter().map(parse).collect())
    }

    /// Subnets that are in use: by addresses, and by routes other than the default one.
    pub(crate) async fn subnets(&self) -> Result<Vec<(Ipv4Addr, u8)>> {
        let mut taken = Vec::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) =
            addresses.try_next().await.map_err(|e| Error::failed("list addresses", e))?
        {
            taken.extend(message.attributes.iter().filter_map(|a| match a {
                AddressAttribute::Address(IpAddr::V4(ip)) => Some((*ip, message.header.prefix_len)),
                _ => None,
            }));
        }
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(all).execute();
        while let Some(message) = routes.try_next().await.map_err(|e| Error::failed("list routes", e))? {
            let length = message.header.destination_prefix_length;
            taken.extend(message.attributes.iter().filter_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) if length > 0 => Some((*ip, length)),
                _ => None,
            }));
        }
        Ok(taken)
    }

    /// Makes a bridge and names its owner in the alias; `false` when the name is taken.
    pub(crate) async fn add_bridge(&self, name: &str, alias: &str) -> Result<bool> {
        match self.handle.link().add(LinkBridge::new(name).build()).execute().await {
            Ok(()) => {}
            Err(e) if errno(&e) == Some(EXISTS) => return Ok(false),
            Err(e) => return Err(Error::failed(format!("add bridge {name}"), e)),
        }
        // The kernel takes an alias for a link that is there only.
        let named = LinkUnspec::new_with_name(name).alias(alias).build();
        let set = self.handle.link().set(named).execute().await;
        set.map_err(|e| Error::failed(format!("name the owner of bridge {name}"), e))?;
        Ok(true)
    }

    /// Gives a link an address; one that it has already is fine.
    pub(crate) async fn add_address(&self, index: u32, ip: Ipv4Addr, prefix_len: u8) -> Result<()> {
        match self.handle.address().add(index, IpAddr::V4(ip), prefix_len).execute().await {
            Err(e) if errno(&e) != Some(EXISTS) => {
                Err(Error::failed(format!("add address {ip}/{prefix_len}"), e))
            }
            _ => Ok(()),
        }
    }

    /// Makes a veth pair in one message: `host` on the bridge and up, `inside` in the other namespace.
    ///
    /// `inside` stays down: the kernel makes it first and answers `ENOTCONN` to an end that is to be up
    /// before the other is there.
    pub(crate) async fn add_veth(
        &self,
        host: &str,
        bridge: u32,
        inside: &str,
        mac: [u8; 6],
        netns: BorrowedFd<'_>,
    ) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(inside)
            .address(mac.to_vec())
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let pair = LinkVeth::new(host, inside)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .up()
            .build();
        let added = self.handle.link().add(pair).execute().await;
        added.map_err(|e| Error::failed(format!("add veth {host} with {inside} in the pod"), e))?;
        // Where bridged packets pass the firewall (br_netfilter), a pod that calls its own host port is
        // answered on the port that it called from.
        let missing = || Error::failed(format!("link {host}"), "it went away while it was made");
        let index = self.find(host).await?.ok_or_else(missing)?.index;
        let port = LinkBridgePort::new(index).hairpin(true).build();
        let set = self.handle.link().set_port(port).execute().await;
        set.map_err(|e| Error::failed(format!("set up bridge port {host}"), e))
    }

    /// Brings a link of that name up and returns its index.
    pub(crate) async fn up(&self, name: &str) -> Result<u32> {
        let missing = || Error::failed(format!("link {name}"), "it is not there");
        let index = self.find(name).await?.ok_or_else(missing)?.index;
        let set = self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        set.map_err(|e| Error::failed(format!("bring link {name} up"), e))?;
        Ok(index)
    }

    /// Sends everything that has no better route to `gateway`.
    pub(crate) async fn add_default_route(&self, index: u32, gateway: Ipv4Addr) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
        let added = self.handle.route().add(route).execute().await;
        added.map_err(|e| Error::failed(format!("add default route by {gateway}"), e))
    }

    /// Takes a link off its bridge and down; `false` when it is not there.
    pub(crate) async fn release(&self, name: &str) -> Result<bool> {
        let Some(link) = self.find(name).await? else { return Ok(false) };
        let message = LinkUnspec::new_with_index(link.index).nocontroller().down().build();
        match self.handle.link().set(message).execute().await {
            Err(e) if errno(&e) != Some(NO_DEVICE) => Err(Error::failed(format!("release link {name}"), e)),
            result => Ok(result.is_ok()),
        }
    }

    /// Removes a link; succeeds when it is not there.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await {
            Err(e) if errno(&e) != Some(NO_DEVICE) => Err(Error::failed(format!("remove link {name}"), e)),
            _ => Ok(()),
        }
    }
}

/// `ENODEV`.
const NO_DEVICE: i32 = 19;

/// `EEXIST`.
const EXISTS: i32 = 17;

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

fn parse(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, name: String::new(), alias: None };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            _ => {}
        }
    }
    link
}

/// Calls `gone` with the name of every link that is removed, until the socket fails.
pub(crate) async fn watch_removals(gone: impl Fn(&str) + Send + 'static) -> Result<()> {
    use futures::StreamExt as _;
    use rtnetlink::MulticastGroup;
    use rtnetlink::packet_route::RouteNetlinkMessage;
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
        .map_err(|e| Error::failed("open a netlink socket", e))?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload {
                // A link that leaves its bridge is told in the bridge's family; it is still there.
                if link.header.interface_family == AddressFamily::Unspec {
                    gone(&parse(&link).name);
                }
            }
        }
    });
    Ok(())
}

/// The part of an attachment that is made inside the pod's namespace.
pub(crate) async fn configure_pod(
    interface: &str,
    ip: Ipv4Addr,
    subnet: Subnet,
    gateway: Ipv4Addr,
) -> Result<()> {
    let netlink = Netlink::open()?;
    netlink.up("lo").await?;
    let index = netlink.up(interface).await?;
    netlink.add_address(index, ip, subnet.prefix_len()).await?;
    netlink.add_default_route(index, gateway).await
}
