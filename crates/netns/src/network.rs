//! The built-in network: attach, detach, recover.

use crate::bridge::{self, Bridge};
use crate::link::{self, Netlink};
use crate::model::{AttachRequest, BuiltinAttachment, Check, Quarantined, RecoverReport};
use crate::nft::{self, Nft};
use crate::record::{AttachmentRecord, Records};
use crate::turns::Turns;
use crate::{Error, ErrorKind, Result, Subnet, sysctl};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, RwLock};

/// How a built-in network is made.
#[derive(Debug, Clone)]
pub struct BuiltinConfig {
    /// Records; on the run tmpfs, since links do not outlive a boot either.
    pub state_dir: PathBuf,
    /// Subnet of the pods; `None` picks one that nobody uses.
    pub subnet: Option<Subnet>,
    /// The `nft` program.
    pub nft: PathBuf,
}

impl BuiltinConfig {
    /// A network with its records in `state_dir` and everything else by default.
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, subnet: None, nft: "nft".into() }
    }
}

/// The built-in network of one daemon; clones share it. Calls for different pods run side by side,
/// calls for one pod one after another.
#[derive(Debug, Clone)]
pub struct BuiltinNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: Records,
    subnet: Option<Subnet>,
    nft: Nft,
    state: Mutex<State>,
    /// Made with the first attachment; held while it is being made.
    bridge: AsyncMutex<Option<(Bridge, Netlink)>>,
    /// Shared by who changes his own elements of the rules, exclusive for who writes all of them anew.
    rules: RwLock<()>,
    /// One call at a time per pod.
    turns: Turns,
}

#[derive(Debug, Default)]
struct State {
    attachments: BTreeMap<String, AttachmentRecord>,
    /// Addresses of pods that left, by the link whose end frees them.
    leaving: BTreeMap<String, Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl BuiltinNetwork {
    /// Reads the records; makes nothing yet. A damaged record is set aside and reported.
    pub fn open(config: BuiltinConfig) -> Result<(Self, Vec<Quarantined>)> {
        let records = Records::open(&config.state_dir)?;
        let (attachments, damaged) = records.load()?;
        let last = attachments.values().map(|r| r.attachment.ip).max();
        let state = State { attachments, leaving: BTreeMap::new(), last };
        let inner = Inner {
            records,
            subnet: config.subnet,
            nft: Nft::new(config.nft),
            state: Mutex::new(state),
            bridge: AsyncMutex::new(None),
            rules: RwLock::new(()),
            turns: Turns::default(),
        };
        Ok((Self { inner: Arc::new(inner) }, damaged))
    }

    /// Gives a pod a link, an address, a default route and its host ports.
    ///
    /// The same pod again gets the same attachment. On failure nothing is left, or it stays recorded
    /// and [`BuiltinNetwork::detach`] takes it back.
    pub async fn attach(&self, request: AttachRequest) -> Result<BuiltinAttachment> {
        check_id(&request.pod_id)?;
        check_interface(&request.interface)?;
        nft::check(&request.ports)?;
        let inner = &self.inner;
        let turn = inner.turns.of(&request.pod_id);
        let _turn = turn.lock().await;
        if let Some(record) = inner.state().attachments.get(&request.pod_id)
            && record.complete
            && record.attachment.ports == request.ports
        {
            return Ok(record.attachment.clone());
        }
        // An attempt that was cut off, or other ports: begin anew.
        inner.take_back(&request.pod_id).await?;
        let (bridge, netlink) = inner.bridge(&self.inner).await?;
        if let (Some(why), false) = (&bridge.without_rules, request.ports.is_empty()) {
            let message = format!("host ports need firewall rules, which could not be made: {why}");
            return Err(Error::new(ErrorKind::Missing, message));
        }
        let attachment = inner.reserve(&request, &bridge)?;
        let made = inner.make(&attachment, request.netns, &bridge, &netlink).await;
        match made {
            Ok(()) => Ok(attachment),
            Err(error) => {
                if let Err(left) = inner.take_back(&attachment.pod_id).await {
                    tracing::warn!(pod = attachment.pod_id, error = %left, "a failed attachment is not undone yet");
                }
                Err(error)
            }
        }
    }

    /// Takes a pod's attachment back; succeeds when there is none, also when the pod's namespace is gone.
    pub async fn detach(&self, pod_id: &str) -> Result<()> {
        let turn = self.inner.turns.of(pod_id);
        let _turn = turn.lock().await;
        self.inner.take_back(pod_id).await?;
        self.inner.turns.forget(pod_id);
        Ok(())
    }

    /// The attachment of a pod.
    pub fn get(&self, pod_id: &str) -> Option<BuiltinAttachment> {
        self.inner.state().attachments.get(pod_id).map(|r| r.attachment.clone())
    }

    pub(crate) fn is_complete(&self, pod_id: &str) -> bool {
        self.inner.state().attachments.get(pod_id).is_some_and(|r| r.complete)
    }

    /// All attachments, by pod.
    pub fn list(&self) -> Vec<BuiltinAttachment> {
        self.inner.state().attachments.values().map(|r| r.attachment.clone()).collect()
    }

    /// After a restart: takes back what belongs to no pod in `live` or was cut off, and makes sure that
    /// the bridge and the rules of the rest are there.
    pub async fn recover(&self, live: &HashSet<String>) -> RecoverReport {
        let mut report = RecoverReport::default();
        let stale: Vec<String> = {
            let state = self.inner.state();
            let keep = |r: &AttachmentRecord| r.complete && live.contains(&r.attachment.pod_id);
            state.attachments.values().filter(|r| !keep(r)).map(|r| r.attachment.pod_id.clone()).collect()
        };
        for pod_id in stale {
            match self.detach(&pod_id).await {
                Ok(()) => report.detached.push(pod_id),
                Err(error) => report.failures.push(format!("pod {pod_id}: {error}")),
            }
        }
        if !self.list().is_empty()
            && let Err(error) = self.inner.bridge(&self.inner).await
        {
            report.failures.push(error.to_string());
        }
        for failure in &report.failures {
            tracing::error!(failure, "network not recovered");
        }
        report
    }

    /// With no attachment left: removes the bridge and its rules, and restores what was changed.
    pub async fn shutdown_if_idle(&self) -> Result<()> {
        let inner = &self.inner;
        let mut bridge = inner.bridge.lock().await;
        let leaving: Vec<String> = {
            let state = inner.state();
            if !state.attachments.is_empty() {
                return Ok(());
            }
            state.leaving.keys().cloned().collect()
        };
        if inner.records.bridge().is_none() {
            return Ok(());
        }
        let netlink = Netlink::open()?;
        for link in leaving {
            netlink.remove(&link).await?;
        }
        bridge::remove(&netlink, &inner.records, &inner.nft).await?;
        *bridge = None;
        Ok(())
    }

    /// What `gantry doctor` shows of the network.
    pub async fn check(&self) -> Vec<Check> {
        let inner = &self.inner;
        let check = |name: &str, result: Result<String>, remedy: &str| Check {
            name: name.into(),
            ok: result.is_ok(),
            message: result.unwrap_or_else(|e| e.to_string()),
            remedy: remedy.into(),
        };
        let nft = inner.nft.version().await;
        let subnet = match Netlink::open() {
            Ok(netlink) => netlink.subnets().await.and_then(|taken| {
                let free = Subnet::pick(0, &taken).map(|s| format!("{s} is free"));
                free.ok_or_else(|| Error::new(ErrorKind::Exhausted, "no free subnet in 10.88.0.0/13"))
            }),
            Err(e) => Err(e),
        };
        let bridge = match (&*inner.bridge.lock().await, inner.records.bridge()) {
            (Some((bridge, _)), _) => {
                format!("{} with {}, {} pods", bridge.name, bridge.subnet, self.list().len())
            }
            (None, Some(record)) => format!("{} with {}", record.name, record.subnet),
            (None, None) => "made with the first pod".to_owned(),
        };
        let forwarding = if sysctl::is_forwarding() { "on" } else { "off; switched on with the bridge" };
        vec![
            check("nft", nft, "install the nftables package: host ports and the way out of pods need it"),
            check("subnet", subnet, "give the built-in network a subnet that is free"),
            check("bridge", Ok(bridge), ""),
            check("forwarding", Ok(forwarding.to_owned()), ""),
        ]
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insertion or removal: a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge, made if need be. `this` is the same network, for the task that watches its links.
    async fn bridge(&self, this: &Arc<Self>) -> Result<(Bridge, Netlink)> {
        let mut bridge = self.bridge.lock().await;
        if let Some(ready) = &*bridge {
            return Ok(ready.clone());
        }
        let netlink = Netlink::open()?;
        // Nobody gives his ports up between the look at who has some and the rules for them.
        let _rules = self.rules.write().await;
        let attachments: Vec<AttachmentRecord> = self.state().attachments.values().cloned().collect();
        let made = bridge::ensure(&netlink, &self.records, &self.nft, self.subnet, &attachments).await?;
        let weak = Arc::downgrade(this);
        link::watch_removals(move |name| {
            if let Some(inner) = weak.upgrade() {
                inner.state().leaving.remove(name);
            }
        })
        .await?;
        *bridge = Some((made.clone(), netlink.clone()));
        Ok((made, netlink))
    }

    /// Takes an address and the host ports, on disk before anything is made.
    fn reserve(&self, request: &AttachRequest, bridge: &Bridge) -> Result<BuiltinAttachment> {
        let mut state = self.state();
        for other in state.attachments.values() {
            for port in &request.ports {
                if other.attachment.ports.iter().any(|p| nft::collide(p, port)) {
                    let message = format!(
                        "host port {}/{} is used by pod {} already; stop that pod or take another port",
                        port.host_port, port.protocol, other.attachment.pod_id
                    );
                    return Err(Error::new(ErrorKind::PortInUse, message));
                }
            }
        }
        let used: BTreeSet<Ipv4Addr> = state
            .attachments
            .values()
            .map(|r| r.attachment.ip)
            .chain(state.leaving.values().copied())
            .collect();
        let ip = bridge.subnet.next(state.last, &used).ok_or_else(|| {
            let message = format!("subnet {} has no free address; remove pods", bridge.subnet);
            Error::new(ErrorKind::Exhausted, message)
        })?;
        let attachment = BuiltinAttachment {
            pod_id: request.pod_id.clone(),
            netns: Some(request.netns_path.clone()),
            interface: request.interface.clone(),
            ip,
            prefix_len: bridge.subnet.prefix_len(),
            gateway: bridge.subnet.gateway(),
            mac: mac(ip).map(|b| format!("{b:02x}")).join(":"),
            host_interface: host_interface(&request.pod_id),
            bridge: bridge.name.clone(),
            ports: request.ports.clone(),
        };
        let record = AttachmentRecord { attachment: attachment.clone(), complete: false };
        self.records.store(&record)?;
        state.last = Some(ip);
        state.attachments.insert(request.pod_id.clone(), record);
        Ok(attachment)
    }

    async fn make(
        &self,
        attachment: &BuiltinAttachment,
        netns: OwnedFd,
        bridge: &Bridge,
        netlink: &Netlink,
    ) -> Result<()> {
        let (host, inside) = (&attachment.host_interface, &attachment.interface);
        // A link of an earlier attempt would hold the name.
        netlink.remove(host).await?;
        netlink.add_veth(host, bridge.index, inside, mac(attachment.ip), netns.as_fd()).await?;
        let (inside, ip, subnet) = (inside.clone(), attachment.ip, bridge.subnet);
        let gateway = attachment.gateway;
        let configure = move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Error::failed("configure the pod's link", e))?;
            runtime.block_on(link::configure_pod(&inside, ip, subnet, gateway))
        };
        let configured = tokio::task::spawn_blocking(move || gantry_sys::netns::run_inside(netns, configure));
        configured
            .await
            .map_err(|e| Error::failed("configure the pod's link", e))?
            .map_err(|e| Error::failed("enter the pod's network namespace", e))??;
        if !attachment.ports.is_empty() {
            self.nft.add(&bridge.name, attachment.ip, &attachment.ports).await?;
        }
        let record = AttachmentRecord { attachment: attachment.clone(), complete: true };
        self.records.store(&record)?;
        self.state().attachments.insert(attachment.pod_id.clone(), record);
        Ok(())
    }

    /// Undoes whatever there is of a pod's attachment.
    async fn take_back(&self, pod_id: &str) -> Result<()> {
        let Some(record) = self.state().attachments.get(pod_id).cloned() else { return Ok(()) };
        let attachment = record.attachment;
        let _rules = self.rules.read().await;
        if !attachment.ports.is_empty() {
            self.nft.remove(&attachment.bridge, attachment.ip, &attachment.ports).await.or_else(|error| {
                // Without the table there are no elements in it.
                if error.to_string().contains("No such file or directory") { Ok(()) } else { Err(error) }
            })?;
        }
        let netlink = Netlink::open()?;
        // Deleting a veth waits for the kernel; off the bridge it is as good as gone, and it ends with
        // the pod's namespace. Its address stays reserved until then.
        let link = &attachment.host_interface;
        self.state().leaving.insert(link.clone(), attachment.ip);
        let still_there = match record.complete {
            true => netlink.release(link).await?,
            false => {
                netlink.remove(link).await?;
                false
            }
        };
        if !still_there {
            self.state().leaving.remove(link);
        }
        self.records.remove(pod_id)?;
        self.state().attachments.remove(pod_id);
        Ok(())
    }
}

/// Ids become file names and parts of link names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(good) {
        let message = format!("pod id {id:.140?} must be 1 to 128 letters, digits, '-', '_' and '.'");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// IFNAMSIZ is 16, with the NUL.
pub(crate) fn check_interface(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 15 || name == "lo" || name.starts_with('.') || !name.bytes().all(good)
    {
        let message = format!("link name {name:.32?} must be 1 to 15 letters and digits, and not lo");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// Name of the host's end of a pod's link: short, and the same for the same pod.
fn host_interface(pod_id: &str) -> String {
    // FNV-1a: spreads, needs not be secret; two pods of one name would be told by the kernel.
    let hash = pod_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("gv{:012x}", hash & 0xffff_ffff_ffff)
}

/// A locally administered hardware address, unique on the bridge as the pod's address is.
fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["", "../x", ".x", "a b", "a;b", "a\"b", &"x".repeat(129)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        check_id(&"a1".repeat(32)).unwrap();
        for bad in ["", "lo", "a/b", "sixteencharacter"] {
            assert!(check_interface(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_have_names_that_fit() {
        let name = host_interface(&"f".repeat(64));
        assert!(name.len() == 14 && name != host_interface("other"));
        assert_eq!(mac(Ipv4Addr::new(10, 88, 0, 2)), [0x0a, 0x58, 10, 88, 0, 2]);
    }
}
