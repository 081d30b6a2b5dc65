//! Networks by CNI plugins (CNI specification 0.3.0 to 1.1.0).
//!
//! The first valid configuration of a directory is the network of pods. What a plugin may have made is in
//! a cache on disk before it is called ([`cache`]); from then on a DEL is owed, which is tried until it
//! succeeds: when the pod is stopped, in the background, after a restart, after a boot ([`keeper`]). DEL
//! goes by the cached configuration, whatever is configured by then.

mod args;
mod cache;
mod chain;
mod conf;
mod dir;
mod exec;
mod keeper;
mod orphans;
mod pod_cidr;
mod result;
mod template;
mod watch;

use crate::model::{AttachRequest, Attachment, Check, Quarantined, RecoverReport};
use crate::network::{check_id, check_interface};
use crate::turns::Turns;
use crate::{Error, ErrorKind, Result, pin};
use cache::{Cache, Cached};
use chain::{Chain, Target};
use conf::{Network, Version};
use dir::Loaded;
use keeper::Owed;
use orphans::Orphans;
pub use pod_cidr::PodCidr;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Most attachments without a pod; with more, plugins are so broken that no new pod is tried.
const MAX_OWED: usize = 1000;

/// Attachments that `gantry doctor` has checked by their plugins.
const MAX_CHECKED: usize = 20;

/// How long all that checking may take.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

/// Where CNI configurations and plugins are, and how plugins are called.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// Configurations; the first valid one in lexical order is in effect.
    pub conf_dir: PathBuf,
    /// Plugins; searched in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// The cache, below it `results/`; on a disk that outlives a boot.
    pub cache_dir: PathBuf,
    /// How long one call of one plugin may take.
    pub limit: Duration,
    /// Call GC after a restart. Only where nobody else uses the network: plugins then forget what they
    /// hold for others.
    pub gc: bool,
}

/// Networks by CNI plugins. Its background work ends with it.
#[derive(Debug)]
pub(crate) struct Cni {
    inner: Arc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Inner {
    config: CniConfig,
    cache: Cache,
    /// Attachments by pod, as on disk. Held for memory only.
    state: Mutex<BTreeMap<String, Arc<Cached>>>,
    loaded: Mutex<Arc<Loaded>>,
    /// What STATUS said last, for the configuration of these bytes.
    answer: Mutex<Option<(Vec<u8>, Result<()>)>>,
    turns: Turns,
    orphans: Orphans,
    owed: Mutex<Owed>,
    wake: Arc<Notify>,
}

impl Drop for Cni {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Cni {
    /// Reads configuration and cache, and begins to follow changes. Within a tokio runtime.
    pub(crate) fn open(config: CniConfig) -> Result<(Self, Vec<Quarantined>)> {
        let cache = Cache::new(&config.cache_dir);
        let (attachments, damaged) = cache.load()?;
        let orphans = match attachments.is_empty() {
            true => Orphans::default(),
            false => Orphans::find(&cache.mark("")),
        };
        let (changes, loaded) = keeper::read(&config.conf_dir, &config.bin_dirs);
        let state = attachments.into_iter().map(|(id, c)| (id, Arc::new(c))).collect();
        let inner = Arc::new(Inner {
            config,
            cache,
            state: Mutex::new(state),
            loaded: Mutex::default(),
            answer: Mutex::default(),
            turns: Turns::default(),
            orphans,
            owed: Mutex::default(),
            wake: Arc::default(),
        });
        inner.publish(loaded);
        let follow = tokio::spawn(keeper::follow(Arc::downgrade(&inner), changes));
        let keep = tokio::spawn(keeper::keep(Arc::downgrade(&inner)));
        Ok((Self { inner, tasks: [follow, keep] }, damaged))
    }

    /// Why pods cannot have a network now; from memory.
    pub(crate) fn problem(&self) -> Option<String> {
        self.inner.problem()
    }

    /// Takes note of the node's ranges of addresses; see [`crate::Networks::set_pod_cidr`].
    pub(crate) fn set_pod_cidr(&self, template: Option<&Path>, text: &str) -> Result<PodCidr> {
        let ranges = pod_cidr::parse(text)?;
        let Some(template) = template else { return Ok(PodCidr::NoTemplate) };
        let conf_dir = &self.inner.config.conf_dir;
        let own = conf_dir.join(pod_cidr::FILE);
        let loaded = self.inner.current();
        if let Some((_, file)) = &loaded.network
            && *file != own
            && !own.exists()
        {
            return Ok(PodCidr::Foreign(file.clone()));
        }
        pod_cidr::write(template, conf_dir, &ranges).map(PodCidr::Written)
    }

    pub(crate) async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        self.inner.attach(request).await
    }

    pub(crate) async fn detach(&self, pod_id: &str) -> Result<()> {
        self.inner.detach(pod_id).await
    }

    pub(crate) fn get(&self, pod_id: &str) -> Option<Attachment> {
        self.inner.state().get(pod_id).map(|c| c.attachment())
    }

    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.inner.state().values().map(|c| c.attachment()).collect()
    }

    /// Whether the attachment of a pod is whole (CNI CHECK).
    pub(crate) async fn verify(&self, pod_id: &str) -> Result<()> {
        self.inner.verify(pod_id).await
    }

    /// Owes DEL for what belongs to no pod in `live` or was cut off; it is paid in the background.
    pub(crate) fn recover(&self, live: &HashSet<String>) -> RecoverReport {
        let stale: Vec<String> = {
            let state = self.inner.state();
            let keep = |c: &Cached| c.result.is_some() && live.contains(&c.container_id);
            state.values().filter(|c| !keep(c)).map(|c| c.container_id.clone()).collect()
        };
        for pod_id in &stale {
            self.inner.owed().add(pod_id);
        }
        self.inner.wake.notify_one();
        if self.inner.config.gc {
            let inner = self.inner.clone();
            // Plugins take their time, and may hang: the daemon starts without them.
            tokio::spawn(async move {
                if let Err(error) = inner.gc().await {
                    tracing::warn!(%error, "the plugins did not collect what is left over");
                }
            });
        }
        RecoverReport { owed: stale, ..RecoverReport::default() }
    }

    /// What `gantry doctor` shows; with `needed`, a configuration that cannot be used is a problem.
    pub(crate) async fn check(&self, needed: bool) -> Vec<Check> {
        self.inner.doctor(needed).await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Cached>>> {
        // Every change is one insertion or removal: a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what the directories say.
    fn publish(&self, loaded: Loaded) {
        let before = self.current();
        for (file, why) in loaded.bad.iter().filter(|bad| !before.bad.contains(bad)) {
            tracing::warn!(file = %file.display(), why, "CNI configuration cannot be used");
        }
        let name = |l: &Loaded| l.network.as_ref().map(|(n, _)| n.name.clone());
        if name(&before) != name(&loaded) || before.problem != loaded.problem {
            let problem = loaded.problem.as_deref().unwrap_or("none");
            tracing::info!(network = name(&loaded), problem, "CNI configuration read");
        }
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    fn problem(&self) -> Option<String> {
        let loaded = self.current();
        if loaded.problem.is_some() {
            return loaded.problem.clone();
        }
        let (network, _) = loaded.network.as_ref()?;
        if network.version < Version::V1_1_0 {
            return None;
        }
        match &*self.answer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((bytes, answer)) if *bytes == network.bytes => {
                answer.as_ref().err().map(ToString::to_string)
            }
            _ => Some(format!("network {}: its plugins have not answered STATUS yet", network.name)),
        }
    }

    /// Asks the plugins of the current network whether they are ready.
    async fn ask_status(&self) {
        let loaded = self.current();
        let Some((network, _)) = loaded.network.as_ref() else { return };
        if loaded.problem.is_some() || network.version < Version::V1_1_0 {
            return;
        }
        let answer = match self.locate(network) {
            Ok(programs) => self.chain(network, &programs).status().await,
            Err(error) => Err(error),
        };
        let before = self.problem();
        let answer = Some((network.bytes.clone(), answer));
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        let now = self.problem();
        if before != now {
            let problem = now.as_deref().unwrap_or("none");
            tracing::info!(network = network.name, problem, "the plugins answered STATUS");
        }
    }

    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        check_id(&request.pod_id)?;
        check_interface(&request.interface)?;
        let turn = self.turns.of(&request.pod_id);
        let _turn = turn.lock().await;
        let capabilities = args::capabilities(&request)?;
        let known = self.state().get(&request.pod_id).cloned();
        if let Some(cached) = known {
            let wanted = self.network_of(&cached)?.declared(&capabilities);
            let same = cached.capability_args == wanted
                && cached.netns.as_deref() == Some(&*request.netns_path)
                && cached.if_name == request.interface;
            if same && cached.result.is_some() {
                return Ok(cached.attachment());
            }
            // An attempt that was cut off, or other ports: begin anew.
            self.take_back(&request.pod_id).await?;
        }
        if self.problem().is_some() {
            // What STATUS said may be out of date; a pod is reason enough to ask again.
            self.ask_status().await;
        }
        let loaded = self.current();
        let Some((network, _)) = loaded.network.as_ref().filter(|_| self.problem().is_none()) else {
            let why = self.problem().unwrap_or_default();
            return Err(Error::new(ErrorKind::NotReady, why));
        };
        if self.owed().len() >= MAX_OWED {
            let message =
                format!("{MAX_OWED} network attachments are owed their DEL; `gantry doctor` tells why");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        let programs = self.locate(network)?;
        let mut cached =
            Cached::new(&request.pod_id, &network.name, &request.interface, network.bytes.clone());
        cached.netns = Some(request.netns_path.clone());
        cached.cni_args = args::cni_args(&request)?;
        cached.capability_args = network.declared(&capabilities);
        if !request.ports.is_empty() && !cached.capability_args.contains_key("portMappings") {
            tracing::warn!(
                pod = request.pod_id,
                network = network.name,
                "the pod wants host ports, and no plugin of its network has the capability portMappings"
            );
        }
        self.store(&cached).await?;

        match self.add(network, &programs, &mut cached).await {
            Ok(()) => Ok(cached.attachment()),
            Err((error, false)) => {
                self.forget(&cached).await?;
                Err(error)
            }
            Err((error, true)) => {
                if let Err(left) = self.take_back(&request.pod_id).await {
                    tracing::warn!(pod = request.pod_id, error = %left, "a failed attachment is owed its DEL");
                    self.owed().failed(&request.pod_id, left.to_string());
                    self.wake.notify_one();
                }
                Err(error)
            }
        }
    }

    /// Calls ADD and records the result; on failure tells whether something may have been made.
    async fn add(
        &self,
        network: &Network,
        programs: &[PathBuf],
        cached: &mut Cached,
    ) -> std::result::Result<(), (Error, bool)> {
        let netns = cached.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        let (args, mark) = (args::join(&cached.cni_args), self.cache.mark(&cached.container_id));
        let target = target(cached, &netns, &args, &mark);
        let result = self
            .chain(network, programs)
            .add(&target)
            .await
            .map_err(|broken| (broken.error, broken.begun))?;
        let bad = |why: String| (Error::failed(format!("network {}", network.name), why), true);
        let summary = result::summary(&result, &cached.if_name).map_err(bad)?;
        if summary.ips.is_empty() {
            return Err(bad("its plugins gave the pod no address; is an ipam plugin configured".into()));
        }
        cached.result = Some(result);
        self.store(cached).await.map_err(|e| (e, true))
    }

    /// Takes a pod's attachment back. A failure is taken note of, and tried again in the background.
    async fn detach(&self, pod_id: &str) -> Result<()> {
        let turn = self.turns.of(pod_id);
        let _turn = turn.lock().await;
        match self.take_back(pod_id).await {
            Ok(()) => {
                self.owed().paid(pod_id);
                self.turns.forget(pod_id);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(pod = pod_id, %error, "DEL failed; it will be tried again");
                self.owed().failed(pod_id, error.to_string());
                self.wake.notify_one();
                Err(error)
            }
        }
    }

    /// DEL, by the configuration that ADD was called with; nothing to do is success.
    async fn take_back(&self, pod_id: &str) -> Result<()> {
        let Some(cached) = self.state().get(pod_id).cloned() else { return Ok(()) };
        self.orphans.wait(pod_id, self.config.limit).await?;
        let network = self.network_of(&cached)?;
        let programs = self.locate(&network)?;
        let netns = present(&cached);
        let (args, mark) = (args::join(&cached.cni_args), self.cache.mark(pod_id));
        let target = target(&cached, &netns, &args, &mark);
        self.chain(&network, &programs).del(&target, cached.result.as_ref()).await?;
        self.forget(&cached).await
    }

    async fn verify(&self, pod_id: &str) -> Result<()> {
        let turn = self.turns.of(pod_id);
        let _turn = turn.lock().await;
        let Some(cached) = self.state().get(pod_id).cloned() else { return Ok(()) };
        let Some(result) = &cached.result else { return Ok(()) };
        self.orphans.wait(pod_id, self.config.limit).await?;
        let network = self.network_of(&cached)?;
        let programs = self.locate(&network)?;
        let netns = present(&cached);
        let (args, mark) = (args::join(&cached.cni_args), self.cache.mark(pod_id));
        self.chain(&network, &programs).check(&target(&cached, &netns, &args, &mark), result).await
    }

    /// GC: the plugins of the current network forget all but the attachments that are known here.
    async fn gc(&self) -> Result<()> {
        let loaded = self.current();
        let Some((network, _)) = loaded.network.as_ref() else { return Ok(()) };
        let valid: Vec<(String, String)> = {
            let state = self.state();
            let mine = state.values().filter(|c| c.network_name == network.name);
            mine.map(|c| (c.container_id.clone(), c.if_name.clone())).collect()
        };
        let programs = self.locate(network)?;
        self.chain(network, &programs).gc(&valid).await
    }

    fn chain<'a>(&'a self, network: &'a Network, programs: &'a [PathBuf]) -> Chain<'a> {
        Chain { network, programs, bin_dirs: &self.config.bin_dirs, limit: self.config.limit }
    }

    fn locate(&self, network: &Network) -> Result<Vec<PathBuf>> {
        dir::locate(network, &self.config.bin_dirs)
            .map_err(|why| Error::new(ErrorKind::Missing, format!("network {}: {why}", network.name)))
    }

    fn network_of(&self, cached: &Cached) -> Result<Network> {
        Network::parse(&cached.config).map_err(|why| {
            Error::failed(format!("cached configuration of network {}", cached.network_name), why)
        })
    }

    /// Records an attachment on disk and in memory.
    async fn store(&self, cached: &Cached) -> Result<()> {
        let (cache, record) = (self.cache.clone(), cached.clone());
        off_thread(move || cache.store(&record)).await?;
        self.state().insert(cached.container_id.clone(), Arc::new(cached.clone()));
        Ok(())
    }

    async fn forget(&self, cached: &Cached) -> Result<()> {
        let (cache, record) = (self.cache.clone(), cached.clone());
        off_thread(move || cache.remove(&record)).await?;
        self.state().remove(&cached.container_id);
        Ok(())
    }

    async fn doctor(&self, needed: bool) -> Vec<Check> {
        let check = |name: &str, result: Result<String, String>, remedy: &str| Check {
            name: format!("cni {name}"),
            ok: result.is_ok(),
            message: result.unwrap_or_else(|e| e),
            remedy: remedy.into(),
        };
        let (mut checks, loaded) = (Vec::new(), self.current());
        if needed {
            let found = match (self.problem(), &loaded.network) {
                (None, Some((n, file))) => Ok(format!("{} {} from {}", n.name, n.version, file.display())),
                // No fault of a node without a kubelet; to a kubelet NetworkReady says the same.
                (Some(problem), None) if loaded.bad.is_empty() => {
                    Ok(format!("{problem}; only a kubelet's pods need one"))
                }
                (problem, _) => Err(problem.unwrap_or_default()),
            };
            let remedy = "install a network plugin, or use --cri-network builtin on a single node";
            checks.push(check("configuration", found, remedy));
            for (file, why) in &loaded.bad {
                let message = format!("{}: {why}", file.display());
                checks.push(check("file", Err(message), "repair the file or remove it"));
            }
            if let Some((network, _)) = loaded.network.as_ref().filter(|_| loaded.problem.is_none()) {
                let answer = self.versions(network).await;
                checks.push(check("plugins", answer, "install plugins that speak the network's version"));
            }
        }
        for (pod, why) in self.owed().reasons() {
            let message = format!("pod {pod}: {why}");
            checks.push(check("owed DEL", Err(message), "repair the plugin; it is tried again by itself"));
        }
        let pods: Vec<String> =
            self.state().values().filter(|c| c.result.is_some()).map(|c| c.container_id.clone()).collect();
        let verify = async {
            let mut bad = Vec::new();
            for pod_id in pods.iter().take(MAX_CHECKED) {
                if let Err(error) = self.verify(pod_id).await {
                    bad.push(check("attachment", Err(format!("pod {pod_id}: {error}")), "restart the pod"));
                }
            }
            bad
        };
        match tokio::time::timeout(CHECK_LIMIT, verify).await {
            Ok(bad) => checks.extend(bad),
            Err(_) => {
                let message = format!("not all were checked within {} s", CHECK_LIMIT.as_secs());
                checks.push(check("attachments", Err(message), "look at what the plugins wait for"));
            }
        }
        checks
    }

    /// What the plugins say of the versions that they speak.
    async fn versions(&self, network: &Network) -> Result<String, String> {
        let programs = self.locate(network).map_err(|e| e.to_string())?;
        let chain = self.chain(network, &programs);
        let asked = tokio::time::timeout(CHECK_LIMIT, chain.versions()).await;
        let all =
            asked.map_err(|_| "VERSION was not answered in time".to_owned())?.map_err(|e| e.to_string())?;
        let wanted = network.version.as_str();
        let lacks = all.iter().find(|(_, versions)| !versions.iter().any(|v| v == wanted));
        match lacks {
            None => {
                let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
                Ok(format!("{} speak {wanted}", names.join(", ")))
            }
            Some((name, versions)) => {
                Err(format!("{name} does not speak {wanted}, only {}", versions.join(", ")))
            }
        }
    }
}

fn target<'a>(cached: &'a Cached, netns: &'a str, args: &'a str, mark: &'a str) -> Target<'a> {
    Target {
        container_id: &cached.container_id,
        netns,
        interface: &cached.if_name,
        args,
        capabilities: &cached.capability_args,
        mark,
    }
}

/// Path of the pod's namespace; empty, as the specification wants it, when it is gone.
fn present(cached: &Cached) -> String {
    let path = cached.netns.as_ref().filter(|p| pin::is_pinned(p));
    path.map(|p| p.display().to_string()).unwrap_or_default()
}

/// Disk accesses wait for the disk.
async fn off_thread(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::failed("write the CNI cache", e)))
}
