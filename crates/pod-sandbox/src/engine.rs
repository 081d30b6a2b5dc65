//! The engine: all sandboxes and containers of this node, and what they are made with.

use crate::apparmor::AppArmor;
use crate::container::Container;
use crate::error::Kind;
use crate::events::Events;
use crate::flight::{Flights, blocking, lock};
use crate::handler::{HandlerConfig, Handlers};
use crate::metrics::MetricGroup;
use crate::pod::Pod;
use crate::policy::ContainerPolicy;
use crate::record::{ContainerState, PodState};
use crate::scope::Scopes;
use crate::spawner::Spawner;
use crate::spec::HostFacts;
use crate::streaming::OnDisconnect;
use crate::{CgroupDriver, Error, Realm, Result, SandboxerKind, id, sandboxer};
use gantry_cgroup::{Cgroup, Hierarchies};
use gantry_image_store::ImageStore;
use gantry_netns::{NetworkKind, Networks, PodCidr};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What an engine is made of.
#[derive(Debug)]
pub struct EngineConfig {
    /// State that outlives a boot (`/var/lib/gantry`).
    pub root: PathBuf,
    /// State that dies with a boot (`/run/gantry`), a tmpfs.
    pub run_dir: PathBuf,
    /// The `gantry-monitor` program.
    pub monitor_program: PathBuf,
    /// The OCI runtimes.
    pub handlers: HandlerConfig,
    /// The host's control groups.
    pub hierarchies: Hierarchies,
    /// Who manages them.
    pub cgroup_driver: CgroupDriver,
    /// The images.
    pub images: ImageStore,
    /// The networks of pods.
    pub networks: Networks,
    /// Network of the kubelet's pods; local pods use the built-in one.
    pub cri_network: NetworkKind,
    /// Time between two samples of what containers use.
    pub stats_interval: Duration,
    /// Which metrics of pods and containers are told.
    pub pod_metrics: Vec<MetricGroup>,
    /// What holds for every container.
    pub policy: ContainerPolicy,
    /// What becomes of commands whose client, or whose daemon, goes away.
    pub exec_on_disconnect: OnDisconnect,
}

/// All sandboxes and containers of this node. Cheap to clone; all methods may run concurrently.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// Who there is: one entry each, also for what is being made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Realm and state of each sandbox.
    pub pods: Vec<(Realm, PodState)>,
    /// Realm and state of each container.
    pub containers: Vec<(Realm, ContainerState)>,
    /// Monitors that this daemon is connected to.
    pub monitors: usize,
}

/// What names a sandbox for its maker: the same key again means the same sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodKey {
    pub(crate) realm: Realm,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) attempt: u32,
}

/// What names a container within its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ContainerKey {
    pub(crate) pod_id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) boot_id: String,
    pub(crate) handlers: Handlers,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) images: ImageStore,
    pub(crate) networks: Networks,
    pub(crate) cri_network: NetworkKind,
    pub(crate) exec_on_disconnect: OnDisconnect,
    pub(crate) spawner: Spawner,
    pub(crate) scopes: Scopes,
    pub(crate) host: HostFacts,
    pub(crate) policy: ContainerPolicy,
    pub(crate) apparmor: AppArmor,
    pub(crate) quarantined: Mutex<Vec<(PathBuf, String)>>,
    /// The ranges of addresses that the cluster gave this node last.
    pod_cidr: Mutex<Option<String>>,
    pub(crate) pod_flights: Flights<PodKey, String>,
    pub(crate) container_flights: Flights<ContainerKey, String>,
    /// What names the filesystem of the writable layers.
    pub(crate) layers_mountpoint: String,
    pub(crate) pod_metrics: Vec<MetricGroup>,
    pub(crate) events: Arc<Events>,
    pub(crate) state: Mutex<State>,
}

/// Everything by name. Held for lookups only, never across a system call.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) pods: BTreeMap<String, Arc<Pod>>,
    pub(crate) containers: BTreeMap<String, Arc<Container>>,
    pub(crate) pod_keys: HashMap<PodKey, String>,
    pub(crate) container_keys: HashMap<ContainerKey, String>,
}

impl Engine {
    pub(crate) fn build(config: EngineConfig) -> Result<Self> {
        let run_dir = config.run_dir;
        let scopes = Scopes::new(config.cgroup_driver, &config.hierarchies)?;
        // Root of a pod with a user namespace walks through "pods" to what is its own.
        for (name, mode) in [("pods", 0o711), ("quarantine", 0o700), ("handlers", 0o700)] {
            let (dir, mut builder) = (run_dir.join(name), std::fs::DirBuilder::new());
            let made = builder.recursive(true).mode(mode).create(&dir);
            made.map_err(crate::error::io_error("create", &dir))?;
        }
        let handlers = Handlers::open(
            &config.handlers,
            &config.hierarchies,
            &config.monitor_program,
            &run_dir.join("handlers"),
        )?;
        let own_cgroup = config.cgroup_driver == CgroupDriver::Cgroupfs;
        let placed = own_cgroup.then(|| config.hierarchies.clone());
        let spawner = Spawner::start(&config.monitor_program, placed)?;
        if handlers.iter().any(|h| h.broken().is_none() && h.sandboxer() == SandboxerKind::OciSandbox) {
            let root = run_dir.join("handlers").join(sandboxer::PAUSE_ROOT);
            sandboxer::prepare_pause_root(&root, &config.monitor_program)?;
        }
        let host = crate::host::facts(&config.hierarchies);
        // Its program is in a directory that the PATH of a service may lack.
        let mut search = config.handlers.search.clone();
        search.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let apparmor = AppArmor::new(host.apparmor, search);
        let inner = Inner {
            root: config.root,
            run_dir,
            boot_id: crate::record::boot_id()?,
            handlers,
            hierarchies: config.hierarchies,
            networks: config.networks,
            cri_network: config.cri_network,
            exec_on_disconnect: config.exec_on_disconnect,
            spawner,
            scopes,
            host,
            policy: config.policy,
            apparmor,
            quarantined: Mutex::default(),
            pod_cidr: Mutex::default(),
            pod_flights: Flights::new(),
            container_flights: Flights::new(),
            layers_mountpoint: config.images.layers_mountpoint().display().to_string(),
            pod_metrics: config.pod_metrics,
            images: config.images,
            events: Arc::new(Events::new()),
            state: Mutex::default(),
        };
        let inner = Arc::new(inner);
        inner.events.attach(&inner);
        Ok(Self { inner })
    }

    /// The runtime handlers of this node.
    pub fn handlers(&self) -> &Handlers {
        &self.inner.handlers
    }

    /// The images of this node.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// What `gantry doctor` shows of the networks.
    pub async fn check_networks(&self) -> Vec<gantry_netns::Check> {
        self.inner.networks.check(self.inner.cri_network).await
    }

    /// Why pods of `realm` cannot have a network; `None` when they can.
    pub fn network_problem(&self, realm: Realm) -> Option<String> {
        self.inner.networks.problem(self.inner.network_kind(realm))
    }

    /// Takes the ranges of addresses that the cluster gave this node; see [`Networks::set_pod_cidr`].
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidArgument`] for what is no range, and for a template that cannot be filled in.
    pub async fn set_pod_cidr(&self, template: Option<PathBuf>, text: &str) -> Result<()> {
        let (networks, given) = (self.inner.networks.clone(), text.to_owned());
        let set = move || Ok(networks.set_pod_cidr(template.as_deref(), &given)?);
        match blocking(set).await? {
            PodCidr::NoTemplate => tracing::info!(pod_cidr = text, "this node's addresses are noted"),
            PodCidr::Written(path) => {
                tracing::info!(pod_cidr = text, path = %path.display(), "CNI configuration filled in");
            }
            PodCidr::Foreign(path) => {
                tracing::info!(pod_cidr = text, path = %path.display(), "another CNI configuration is in effect");
            }
        }
        *lock(&self.inner.pod_cidr) = Some(text.to_owned());
        Ok(())
    }

    /// The ranges of addresses that this daemon was told of last.
    pub fn pod_cidr(&self) -> Option<String> {
        lock(&self.inner.pod_cidr).clone()
    }

    /// Sandbox records that could not be understood: where they are, and why.
    pub fn quarantined(&self) -> Vec<(PathBuf, String)> {
        lock(&self.inner.quarantined).clone()
    }

    /// How many sandboxes, containers and monitors there are, from memory.
    pub fn census(&self) -> Census {
        let (pods, containers) = {
            let state = lock(&self.inner.state);
            let pods: Vec<_> = state.pods.values().cloned().collect();
            (pods, state.containers.values().cloned().collect::<Vec<_>>())
        };
        Census {
            monitors: pods.iter().filter(|p| p.monitor().is_some()).count(),
            pods: pods.iter().map(|p| (p.realm, p.record().state)).collect(),
            containers: containers.iter().map(|c| (c.pod.realm, c.record().state)).collect(),
        }
    }

    /// A directory on the filesystem of the writable layers.
    pub fn layers_mountpoint(&self) -> &str {
        &self.inner.layers_mountpoint
    }

    /// Space of all writable layers, as far as they were looked at: bytes and inodes.
    pub fn layers_usage(&self) -> (u64, u64) {
        let containers: Vec<_> = lock(&self.inner.state).containers.values().cloned().collect();
        let known = containers.iter().filter_map(|c| c.layer.get());
        known.fold((0, 0), |(bytes, inodes), usage| (bytes + usage.bytes, inodes + usage.inodes))
    }

    /// Number of sandboxes of both realms, ready or not.
    pub fn pod_count(&self) -> usize {
        lock(&self.inner.state).pods.len()
    }

    /// Gives up what is only worth keeping while there are pods: the bridge, the monitors' cgroup.
    pub async fn close_if_idle(&self) -> Result<()> {
        if self.pod_count() > 0 {
            return Ok(());
        }
        self.inner.networks.shutdown_if_idle().await.map_err(|e| Error::internal(&e))?;
        self.inner.spawner.stop();
        if let Err(error) = self.inner.stop_idle_slices().await {
            tracing::warn!(%error, "empty slices are left to systemd");
        }
        self.inner.hierarchies.remove_if_empty(crate::spawner::MONITORS_CGROUP)?;
        for realm in [Realm::Cri, Realm::Local] {
            self.inner.hierarchies.remove_if_empty(&realm_cgroup(realm))?;
        }
        Ok(self.inner.hierarchies.remove_if_empty(TOP_CGROUP)?)
    }
}

/// Cgroup of all pods whose maker names no parent.
pub(crate) const TOP_CGROUP: &str = "/gantry";

/// Cgroup of a realm's pods whose maker names no parent.
pub(crate) fn realm_cgroup(realm: Realm) -> String {
    format!("{TOP_CGROUP}/{}", realm.as_str())
}

impl Inner {
    /// The sandbox that `wanted` (an id or a unique prefix) names in `realm`.
    pub(crate) fn pod(&self, realm: Realm, wanted: &str) -> Result<Arc<Pod>> {
        self.find_pod(realm, wanted)?
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no pod sandbox {wanted}")))
    }

    /// As [`Inner::pod`], but `None` when there is none.
    pub(crate) fn find_pod(&self, realm: Realm, wanted: &str) -> Result<Option<Arc<Pod>>> {
        let state = lock(&self.state);
        let visible = |p: &&Arc<Pod>| p.realm == realm && p.record().state != PodState::Creating;
        let ids = state.pods.values().filter(visible).map(|p| &p.id);
        let found = id::find("pod sandbox", wanted, ids)?;
        Ok(found.and_then(|id| state.pods.get(id)).cloned())
    }

    /// The container that `wanted` names in `realm`.
    pub(crate) fn container(&self, realm: Realm, wanted: &str) -> Result<Arc<Container>> {
        self.find_container(realm, wanted)?
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no container {wanted}")))
    }

    /// As [`Inner::container`], but `None` when there is none.
    pub(crate) fn find_container(&self, realm: Realm, wanted: &str) -> Result<Option<Arc<Container>>> {
        let state = lock(&self.state);
        let visible = |c: &&Arc<Container>| c.pod.realm == realm && c.is_visible();
        let ids = state.containers.values().filter(visible).map(|c| &c.id);
        let found = id::find("container", wanted, ids)?;
        Ok(found.and_then(|id| state.containers.get(id)).cloned())
    }

    /// Every visible sandbox of `realm`, by id.
    pub(crate) fn pods(&self, realm: Realm) -> Vec<Arc<Pod>> {
        let state = lock(&self.state);
        let visible = |p: &&Arc<Pod>| p.realm == realm && p.record().state != PodState::Creating;
        state.pods.values().filter(visible).cloned().collect()
    }

    /// Every visible container of `realm`, by id.
    pub(crate) fn containers(&self, realm: Realm) -> Vec<Arc<Container>> {
        let state = lock(&self.state);
        let visible = |c: &&Arc<Container>| c.pod.realm == realm && c.is_visible();
        state.containers.values().filter(visible).cloned().collect()
    }

    /// Every container of a sandbox, also those being made.
    pub(crate) fn containers_of(&self, pod_id: &str) -> Vec<Arc<Container>> {
        lock(&self.state).containers.values().filter(|c| c.pod.id == pod_id).cloned().collect()
    }

    /// Which network pods of `realm` get.
    pub(crate) fn network_kind(&self, realm: Realm) -> NetworkKind {
        match realm {
            Realm::Cri => self.cri_network,
            Realm::Local => NetworkKind::Builtin,
        }
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.run_dir.join("pods")
    }

    pub(crate) fn cgroup(&self, path: &str) -> Result<Cgroup> {
        Ok(Cgroup::new(&self.hierarchies, path)?)
    }
}

/// Removes a directory tree that is Gantry's own; succeeds when it is not there.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(crate::error::io_error("remove", dir)(e)),
        _ => Ok(()),
    }
}
