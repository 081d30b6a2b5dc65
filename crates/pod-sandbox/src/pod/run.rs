//! RunPodSandbox.

use super::network::attach;
use super::{Pod, PodNamespaces, user_namespace};
use crate::engine::{Engine, Inner, PodKey, realm_cgroup};
use crate::error::{Kind, io_error};
use crate::flight::{blocking, lock};
use crate::handler::Handler;
use crate::journal::{Journal, Undo};
use crate::monitor::{Monitor, Notice};
use crate::pod_files;
use crate::record::{self, PodRecord, PodState};
use crate::{Error, Realm, Result, sandboxer};
use gantry_cri_api::v1;
use gantry_monitor_api::{IdMap, Namespaces, Setup, UserNamespace, VERSION};
use gantry_stage::Stage;
use gantry_sys::mount;
use prost::Message as _;
use rustix::mount::MountFlags;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Longest name, namespace, uid or host name that is taken.
const MAX_NAME: usize = 253;

/// How long the undoing of an earlier attempt at the same sandbox is waited for.
const EARLIER_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Size of a pod's /dev/shm, as the kubelet's users know it.
const SHM_OPTIONS: &str = "mode=1777,size=67108864";

impl Engine {
    /// Makes a sandbox and returns its id; the same request again joins the running one or returns
    /// the id that it got.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`] naming the sandbox that has the same key and another configuration.
    pub async fn run_pod(&self, realm: Realm, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let inner = &self.inner;
        let (key, name) = check(realm, &config)?;
        let resolved = inner.handlers.get(handler)?;
        sandboxer::check_pod(resolved.sandboxer(), resolved.name(), &config)
            .map_err(|e| e.context(format!("pod sandbox {name}")))?;
        let (pod, fresh) = {
            let mut state = lock(&inner.state);
            match state.pod_keys.get(&key).and_then(|id| state.pods.get(id)) {
                Some(pod) => (pod.clone(), false),
                None => {
                    let pod = Arc::new(new_pod(inner, realm, config.clone(), handler, resolved)?);
                    state.pod_keys.insert(key.clone(), pod.id.clone());
                    state.pods.insert(pod.id.clone(), pod.clone());
                    (pod, true)
                }
            }
        };
        if !fresh {
            let record = pod.record();
            let taken = |why: &str| {
                let message = format!("pod sandbox {name} exists already as {}, {why}", pod.id);
                Err(Error::new(Kind::AlreadyExists, message))
            };
            if record.config != config || record.requested_handler != handler {
                return taken("with another configuration; remove it or use another attempt number");
            }
            match record.state {
                PodState::Ready => return Ok(pod.id.clone()),
                PodState::Stopped => return taken("stopped; remove it or use another attempt number"),
                PodState::Creating => {}
            }
        }
        let work = {
            let (inner, pod) = (inner.clone(), pod.clone());
            move || async move { create(&inner, &pod).await }
        };
        inner.pod_flights.join(key, work).await.map_err(|e| e.context(format!("pod sandbox {name}")))
    }
}

fn new_pod(
    inner: &Inner,
    realm: Realm,
    config: v1::PodSandboxConfig,
    requested: &str,
    handler: &Handler,
) -> Result<Pod> {
    let id = crate::id::new_id()?;
    let dir = inner.pods_dir().join(&id);
    let place = inner.scopes.place(realm, &id, crate::scope::parent(&config))?;
    let log_directory = match config.log_directory.as_str() {
        "" => inner.root.join("logs").join(&id),
        dir => PathBuf::from(dir),
    };
    let record = PodRecord {
        version: record::VERSION,
        id,
        realm,
        boot_id: inner.boot_id.clone(),
        handler: handler.name().to_owned(),
        sandboxer: handler.sandboxer(),
        requested_handler: requested.to_owned(),
        created_at: record::now(),
        config,
        state: PodState::Creating,
        reason: None,
        monitor: None,
        pause: None,
        ips: Vec::new(),
        cgroup_parent: place.cgroup,
        scope: place.scope,
        resources: None,
        overhead: None,
        log_directory,
    };
    let journal = Journal::new(&dir);
    Ok(Pod::new(dir, record, journal, inner.events.clone()))
}

async fn create(inner: &Arc<Inner>, pod: &Arc<Pod>) -> Result<String> {
    let started = std::time::Instant::now();
    wait_for_earlier(inner, pod).await;
    let result = build(inner, pod).await;
    match result {
        Ok(()) => {
            let ms = started.elapsed().as_millis() as u64;
            tracing::info!(pod = %pod.id, duration_ms = ms, "sandbox is ready");
            Ok(pod.id.clone())
        }
        Err(error) => {
            pod.set_stopping();
            Stage::SandboxUndo.run(inner.abandon_pod(pod)).await;
            Err(error)
        }
    }
}

/// Waits for the end of attempts at the same sandbox that failed or died with their daemon: they may still
/// have its host ports. One that cannot be undone is not waited for.
async fn wait_for_earlier(inner: &Inner, pod: &Pod) {
    let same = |other: &PodRecord, own: &PodRecord| {
        other.realm == own.realm && other.config.metadata == own.config.metadata
    };
    let earlier: Vec<Arc<Pod>> = {
        let own = pod.record().clone();
        let state = lock(&inner.state);
        let dying = |p: &&Arc<Pod>| {
            p.id != own.id && p.is_stopping() && {
                let record = p.record();
                record.state == PodState::Creating && same(&record, &own)
            }
        };
        state.pods.values().filter(dying).cloned().collect()
    };
    for other in earlier {
        if tokio::time::timeout(EARLIER_LIMIT, other.wait_gone()).await.is_err() {
            tracing::warn!(pod = %pod.id, earlier = %other.id, "an earlier attempt is not undone yet; going on");
        }
    }
}

async fn build(inner: &Arc<Inner>, pod: &Arc<Pod>) -> Result<()> {
    let record = pod.record().clone();
    let namespaces = PodNamespaces::of(&record);
    let recording = Stage::SandboxRecord.begin();
    // What the request gets wrong is found before anything is made.
    inner.cgroup(&record.cgroup_parent)?;
    let user = user_namespace::wanted(&record)?;
    if user.is_some() {
        user_namespace::check_handler(inner.handlers.get(&record.handler)?)?;
    }
    let root = PodRoot::of(user.as_ref());
    make_dirs(inner, pod, &record, root)?;
    inner.limit_new_pod(&record)?;
    drop(recording);

    let hostname = hostname(&record, &namespaces);
    let setup = Setup {
        version: VERSION,
        pod_id: pod.id.clone(),
        pod_dir: pod.dir.clone(),
        namespaces: Namespaces {
            net: !namespaces.host_network,
            ipc: !namespaces.host_ipc,
            uts: !namespaces.host_network,
            pid: namespaces.shared_pid && !pod.is_sandboxed(),
        },
        user_namespace: user,
        hostname: (!namespaces.host_network).then(|| hostname.clone()),
        sysctls: sysctls(&record),
        pause_oom_score_adj: -998,
    };
    // Stopped after the monitor: the end of the pause child, which is in it, is no surprise then.
    if let Some(scope) = &record.scope {
        pod.promise(Undo::StopScope(scope.clone()))?;
    }
    pod.promise(Undo::StopMonitor)?;
    let starting = Stage::SandboxMonitor.begin();
    let (client, child) = inner.spawner.spawn(&pod.dir).await?;
    let pid = child.id() as i32;
    inner.reap(child);
    inner.place_monitor(pid.unsigned_abs()).await?;
    let (monitor, hello) = Monitor::set_up(client, pid, setup, inner.notices(&pod.id)).await?;
    pod.set_monitor(Some(monitor));
    let pause = hello
        .pause
        .ok_or_else(|| Error::new(Kind::Internal, "the monitor reports no pause child after its set-up"))?;
    pod.update(|r| {
        r.monitor = Some(hello.monitor);
        r.pause = Some(pause);
    })?;
    drop(starting);
    if record.scope.is_some() {
        Stage::SandboxScope.run(inner.start_scope(pod, &record, pause.pid)).await?;
    }

    let mut ips = Vec::new();
    if !namespaces.host_network {
        ips = Stage::SandboxNetwork.run(attach(inner, pod, &record, pause.pid)).await?;
    }
    let _writing = Stage::SandboxFiles.begin();
    let shm = (!namespaces.host_ipc).then(|| pod.shm_dir());
    if let Some(shm) = &shm {
        std::fs::create_dir(shm).map_err(io_error("create", shm))?;
        pod.promise(Undo::Unmount(shm.clone()))?;
        let options = format!("{SHM_OPTIONS},uid={},gid={}", root.uid, root.gid);
        mount::tmpfs(shm, &options, MountFlags::NOEXEC)?;
    }
    let (dir, config) = (pod.dir.clone(), record.config.clone());
    let ip = ips.first().cloned();
    let name = hostname.clone();
    blocking(move || write_files(&dir, &config, &name, ip.as_deref(), namespaces.host_network, root)).await?;
    inner.start_sandbox(pod, pause.pid, &hostname).await?;
    if pod.is_stopping() {
        return Err(Error::new(Kind::FailedPrecondition, "the sandbox died while it was being made"));
    }
    pod.update(|r| {
        r.ips = ips;
        r.state = PodState::Ready;
    })
}

/// Who root of a pod is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PodRoot {
    uid: u32,
    gid: u32,
}

impl PodRoot {
    fn of(user: Option<&UserNamespace>) -> Self {
        let outside = |maps| IdMap::outside_of(maps, 0).unwrap_or(0);
        user.map_or(Self { uid: 0, gid: 0 }, |u| Self { uid: outside(&u.uids), gid: outside(&u.gids) })
    }

    /// Mode of the directories on the way to the root filesystem: the OCI runtime walks it as the pod's
    /// root. What is in them has modes of its own.
    fn dir_mode(self) -> u32 {
        if self.uid == 0 { 0o700 } else { 0o711 }
    }
}

fn make_dirs(inner: &Inner, pod: &Pod, record: &PodRecord, root: PodRoot) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(root.dir_mode()).create(&pod.dir).map_err(io_error("create", &pod.dir))?;
    pod.update(|_| {})?;
    let runtime = pod.runtime_root();
    std::fs::DirBuilder::new().mode(0o700).create(&runtime).map_err(io_error("create", &runtime))?;
    if record.config.log_directory.is_empty() {
        pod.promise(Undo::RemoveDir(record.log_directory.clone()))?;
    }
    if record.cgroup_parent.starts_with(&realm_cgroup(record.realm)) {
        pod.promise(Undo::RemoveEmptyCgroup(record.cgroup_parent.clone()))?;
    }
    debug_assert!(pod.dir.starts_with(&inner.run_dir));
    std::fs::create_dir_all(&record.log_directory).map_err(io_error("create", &record.log_directory))
}

fn hostname(record: &PodRecord, namespaces: &PodNamespaces) -> String {
    if namespaces.host_network {
        let uname = rustix::system::uname();
        return uname.nodename().to_string_lossy().into_owned();
    }
    match record.config.hostname.as_str() {
        "" => record.id[..12].to_owned(),
        name => name.to_owned(),
    }
}

fn sysctls(record: &PodRecord) -> Vec<(String, String)> {
    let linux = record.config.linux.as_ref();
    linux.map_or_else(Vec::new, |l| l.sysctls.clone().into_iter().collect())
}

/// Writes the pod's files. Runs off the async threads: it reads files of the host.
fn write_files(
    dir: &Path,
    config: &v1::PodSandboxConfig,
    hostname: &str,
    ip: Option<&str>,
    host_network: bool,
    root: PodRoot,
) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(io_error("write", &path))?;
        std::os::unix::fs::chown(&path, Some(root.uid), Some(root.gid)).map_err(io_error("chown", &path))
    };
    write("hostname", &format!("{hostname}\n"))?;
    let hosts = match host_network {
        true => host_file("/etc/hosts").unwrap_or_else(|| pod_files::hosts(hostname, ip)),
        false => pod_files::hosts(hostname, ip),
    };
    write("hosts", &hosts)?;
    let resolv = match &config.dns_config {
        Some(dns) if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) => {
            pod_files::resolv_conf(dns)
        }
        _ => host_file("/etc/resolv.conf").unwrap_or_default(),
    };
    write("resolv.conf", &resolv)
}

fn host_file(path: &str) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(pod_files::MAX_HOST_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn check(realm: Realm, config: &v1::PodSandboxConfig) -> Result<(PodKey, String)> {
    let bad = |message: String| Error::new(Kind::InvalidArgument, message);
    record::check_size("sandbox", config.encoded_len())?;
    let meta =
        config.metadata.as_ref().ok_or_else(|| bad("the sandbox configuration has no metadata".into()))?;
    for (field, value) in [("name", &meta.name), ("namespace", &meta.namespace), ("uid", &meta.uid)] {
        if value.is_empty() || value.len() > MAX_NAME || value.contains(['\n', '\0']) {
            return Err(bad(format!(
                "the sandbox {field} {value:.64?} must have 1 to {MAX_NAME} characters on one line"
            )));
        }
    }
    // sethostname(2) takes 64 bytes.
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    if config.hostname.len() > 64 || !config.hostname.bytes().all(letters) {
        let message = "the host name {:?} must have at most 64 of a-z, A-Z, 0-9, '-', '_' and '.'";
        return Err(bad(message.replace("{:?}", &format!("{:.80?}", config.hostname))));
    }
    if !config.log_directory.is_empty() && !is_plain_absolute(&config.log_directory) {
        return Err(bad(format!(
            "log directory {:?} must be an absolute path without '..'",
            config.log_directory
        )));
    }
    super::sysctls::check(config)?;
    if let Some(dns) = &config.dns_config {
        let fields = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
        if let Some(field) = fields.into_iter().find(|f| !pod_files::is_clean(f)) {
            return Err(bad(format!("the DNS entry {field:?} is empty or has more than one line")));
        }
    }
    let key = PodKey {
        realm,
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        attempt: meta.attempt,
    };
    Ok((key, format!("{}/{}", meta.namespace, meta.name)))
}

/// Whether a path is absolute and does not climb.
pub(crate) fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == "..")
}

impl Inner {
    /// Who hears what the monitor of `pod_id` tells of its own accord.
    pub(crate) fn notices(self: &Arc<Self>, pod_id: &str) -> impl Fn(Notice) + Send + 'static {
        let (inner, pod_id): (Weak<Self>, String) = (Arc::downgrade(self), pod_id.to_owned());
        move |notice| {
            if let Some(inner) = inner.upgrade() {
                inner.hear(&pod_id, notice);
            }
        }
    }

    /// Collects the exit status of a monitor that this daemon forked, once it ends.
    fn reap(&self, mut child: std::process::Child) {
        tokio::spawn(async move {
            if let Ok(process) = gantry_sys::pidfd::Process::open(child.id() as i32) {
                crate::undo::wait_exit(&process).await;
            }
            // It has exited: this returns at once.
            let _status = child.wait();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> v1::PodSandboxConfig {
        let meta = v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt: 0,
        };
        v1::PodSandboxConfig { metadata: Some(meta), ..Default::default() }
    }

    #[test]
    fn bad_configurations_are_named() {
        type Change = fn(&mut v1::PodSandboxConfig);
        let table: [(&str, Change); 7] = [
            ("metadata", |c| c.metadata = None),
            ("name", |c| c.metadata.as_mut().unwrap().name.clear()),
            ("uid", |c| c.metadata.as_mut().unwrap().uid = "x".repeat(254)),
            ("host name", |c| c.hostname = "x".repeat(65)),
            ("host name", |c| c.hostname = "a b".into()),
            ("log directory", |c| c.log_directory = "/var/log/../../etc".into()),
            ("DNS", |c| {
                let servers = vec!["1.1.1.1\noptions x".into()];
                c.dns_config = Some(v1::DnsConfig { servers, ..Default::default() });
            }),
        ];
        check(Realm::Cri, &config()).unwrap();
        for (word, change) in table {
            let mut config = config();
            change(&mut config);
            let error = check(Realm::Cri, &config).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}
