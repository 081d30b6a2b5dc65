//! The bridge of one daemon: made when the first pod needs it, gone when an idle daemon ends.

use crate::link::Netlink;
use crate::nft::Nft;
use crate::record::{AttachmentRecord, BridgeRecord, Records};
use crate::{Error, ErrorKind, Result, Subnet, sysctl};
use std::path::Path;

/// Most daemons on one host.
const MAX_BRIDGES: u32 = 64;

/// A bridge that is there, with its rules.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) subnet: Subnet,
    /// Why the rules are not in the kernel, if they are not; host ports and the way out are then missing.
    pub(crate) without_rules: Option<String>,
}

/// Finds or makes the bridge of `records`, and its rules for the attachments that are there.
pub(crate) async fn ensure(
    netlink: &Netlink,
    records: &Records,
    nft: &Nft,
    wanted: Option<Subnet>,
    attachments: &[AttachmentRecord],
) -> Result<Bridge> {
    let alias = alias(records.dir());
    let (name, subnet, mut sysctls) = match known(netlink, records, &alias).await? {
        Some(record) => (record.name, record.subnet, record.sysctls),
        None => claim(netlink, records, &alias, wanted).await?,
    };
    let index = netlink.up(&name).await?;
    netlink.add_address(index, subnet.gateway(), subnet.prefix_len()).await?;
    // Packets to 127.0.0.1 of the host may leave by the bridge once they are redirected to a pod.
    sysctl::set(&format!("conf/{name}/route_localnet"), "1")?;
    sysctl::set(&format!("conf/{name}/forwarding"), "1")?;
    if let Some(before) = sysctl::set("ip_forward", "1")? {
        sysctls.push(("ip_forward".into(), before));
    }
    records.store_bridge(&BridgeRecord { name: name.clone(), subnet, sysctls })?;
    let ports: Vec<_> = attachments
        .iter()
        .flat_map(|r| r.attachment.ports.iter().map(|p| (r.attachment.ip, p.clone())))
        .collect();
    let without_rules = match nft.set_up(&name, subnet, &ports).await {
        Ok(()) => None,
        Err(error) if ports.is_empty() => {
            tracing::warn!(%error, bridge = name, "pods reach each other, but neither the outside nor host ports");
            Some(error.to_string())
        }
        Err(error) => return Err(error),
    };
    tracing::info!(bridge = name, %subnet, "bridge is ready");
    Ok(Bridge { name, index, subnet, without_rules })
}

/// The bridge that the records name, if it is still ours.
async fn known(netlink: &Netlink, records: &Records, alias: &str) -> Result<Option<BridgeRecord>> {
    let Some(record) = records.bridge() else { return Ok(None) };
    let link = netlink.find(&record.name).await?;
    // Without an alias it was made by a daemon that died right after: the record was there before.
    let ours = |l: &crate::link::Link| l.alias.as_deref().is_none_or(|a| a == alias);
    Ok(link.filter(ours).map(|_| record))
}

/// Takes the first free name and a subnet that nobody uses.
async fn claim(
    netlink: &Netlink,
    records: &Records,
    alias: &str,
    wanted: Option<Subnet>,
) -> Result<(String, Subnet, Vec<(String, String)>)> {
    let sysctls = records.bridge().map(|r| r.sysctls).unwrap_or_default();
    for number in 0..MAX_BRIDGES {
        let name = format!("gantry{number}");
        // A bridge of ours whose record was lost is taken over; its addresses go with the old subnet.
        let left = netlink.find(&name).await?.filter(|l| l.alias.as_deref() == Some(alias));
        if left.is_some() {
            netlink.remove(&name).await?;
        }
        let subnet = match wanted {
            Some(subnet) => Some(subnet),
            None => Subnet::pick(number, &netlink.subnets().await?),
        };
        let Some(subnet) = subnet else {
            let message = "every subnet of 10.88.0.0/13 overlaps an address or route of this host";
            return Err(Error::new(ErrorKind::Exhausted, message));
        };
        if netlink.find(&name).await?.is_some() {
            continue;
        }
        records.store_bridge(&BridgeRecord { name: name.clone(), subnet, sysctls: sysctls.clone() })?;
        if netlink.add_bridge(&name, alias).await? {
            return Ok((name, subnet, sysctls));
        }
    }
    let message = format!("links gantry0 to gantry{} are all taken", MAX_BRIDGES - 1);
    Err(Error::new(ErrorKind::Exhausted, message))
}

/// Removes the bridge, its rules, and what was changed for it; succeeds when there is none.
pub(crate) async fn remove(netlink: &Netlink, records: &Records, nft: &Nft) -> Result<()> {
    let Some(record) = records.bridge() else { return Ok(()) };
    match nft.tear_down(&record.name).await {
        // Without the program there are no rules.
        Err(error) if error.kind() != ErrorKind::Missing => return Err(error),
        _ => {}
    }
    if known(netlink, records, &alias(records.dir())).await?.is_some() {
        netlink.remove(&record.name).await?;
    }
    // Another daemon's bridge needs what this one has switched on.
    let others = netlink.links().await?.iter().any(|l| l.name.starts_with("gantry") && l.alias.is_some());
    if !others {
        for (name, before) in &record.sysctls {
            sysctl::set(name, before)?;
        }
    }
    records.remove_bridge()
}

/// Whose bridge it is, as `ip link` shows it.
fn alias(dir: &Path) -> String {
    let text = format!("gantry {}", dir.display());
    // IFALIASZ is 256.
    text.chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect()
}
