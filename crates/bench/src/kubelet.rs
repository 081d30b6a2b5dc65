//! Configurations as the kubelet sends them: one pod with one container.

use anyhow::{Context as _, Result, ensure};
use gantry_cri_api::v1;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::retry_on_intr;
use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Namespace label of every pod made here; cleaning up finds them by it.
pub(crate) const NAMESPACE: &str = "gantry-bench";
/// Memory limit of the container in bytes.
pub(crate) const MEMORY_LIMIT: i64 = 128 << 20;
/// CPU limit of the container: microseconds per period.
pub(crate) const CPU_QUOTA: i64 = 100_000;
/// The period, in microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;
/// The CPU weight, as cgroup v1 counts it.
pub(crate) const CPU_SHARES: i64 = 102;
/// Port in the pod that the host port leads to.
pub(crate) const CONTAINER_PORT: i32 = 8080;
/// Where the service account's token is mounted.
pub(crate) const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name server that pods are given.
pub(crate) const NAME_SERVER: &str = "10.96.0.10";

/// Where the container may leave a last word; here it tells that it runs.
pub(crate) const TERMINATION_LOG: &str = "/dev/termination-log";
/// The same on the host, in the pod's directory.
const TERMINATION_FILE: &str = "termination-log";
/// What the container writes there once its handler of SIGTERM is set.
const READY: &str = "ready";

/// What the kubelet prepares on the host for one pod, and the configurations it sends.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// For RunPodSandbox and CreateContainer.
    pub(crate) sandbox: v1::PodSandboxConfig,
    /// For CreateContainer.
    pub(crate) container: v1::ContainerConfig,
    /// Its volumes and logs.
    pub(crate) dir: PathBuf,
    /// Its control group below each hierarchy.
    pub(crate) cgroup: String,
    /// Port on the host.
    pub(crate) host_port: u16,
}

/// What tells one pod from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template<'a> {
    /// The pod's name.
    pub(crate) name: &'a str,
    /// The container's image.
    pub(crate) image: &'a str,
    /// Below which the pod's directory is.
    pub(crate) dir: &'a Path,
    /// Below which the pod's control group is; begins with a slash.
    pub(crate) cgroup_parent: &'a str,
    /// Port on the host.
    pub(crate) host_port: u16,
}

impl Template<'_> {
    /// The configurations; makes nothing.
    pub(crate) fn pod(&self) -> Pod {
        let uid = uid_of(self.name);
        let dir = self.dir.join(&uid);
        let cgroup = format!("{}/burstable/pod{uid}", self.cgroup_parent);
        let labels = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
            let common = [
                ("io.kubernetes.pod.name", self.name),
                ("io.kubernetes.pod.namespace", NAMESPACE),
                ("io.kubernetes.pod.uid", &uid),
            ];
            strings(common.iter().chain(more))
        };
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: self.name.to_owned(),
                uid: uid.clone(),
                namespace: NAMESPACE.to_owned(),
                attempt: 0,
            }),
            hostname: self.name.to_owned(),
            log_directory: dir.join("logs").display().to_string(),
            dns_config: Some(v1::DnsConfig {
                servers: vec![NAME_SERVER.to_owned()],
                searches: ["bench.svc.cluster.local", "svc.cluster.local", "cluster.local"]
                    .map(str::to_owned)
                    .to_vec(),
                options: vec!["ndots:5".to_owned()],
            }),
            port_mappings: vec![v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: CONTAINER_PORT,
                host_port: i32::from(self.host_port),
                host_ip: String::new(),
            }],
            labels: labels(&[("app", "bench"), ("pod-template-hash", "5d4f8c7b9")]),
            annotations: strings(&[
                ("kubernetes.io/config.seen", "2026-01-01T00:00:00.000000000Z"),
                ("kubernetes.io/config.source", "api"),
            ]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: cgroup.clone(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(runtime_default()),
                    ..Default::default()
                }),
                overhead: Some(v1::LinuxContainerResources::default()),
                resources: Some(v1::LinuxContainerResources { oom_score_adj: 0, ..limits() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let container = self.container(&dir, labels(&[("io.kubernetes.container.name", "main")]));
        Pod { sandbox, container, dir, cgroup, host_port: self.host_port }
    }

    fn container(&self, dir: &Path, labels: BTreeMap<String, String>) -> v1::ContainerConfig {
        let mount = |to: &str, from: &str, readonly| v1::Mount {
            container_path: to.to_owned(),
            host_path: dir.join(from).display().to_string(),
            readonly,
            ..Default::default()
        };
        let program = format!("trap 'exit 0' TERM; echo {READY} >{TERMINATION_LOG}; sleep 1000000 & wait");
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: self.image.to_owned(),
                user_specified_image: self.image.to_owned(),
                ..Default::default()
            }),
            // It must end by SIGTERM: as the first process of its namespace it needs a handler for that.
            command: ["sh", "-c", &program].map(str::to_owned).to_vec(),
            working_dir: "/".to_owned(),
            envs: environment(),
            mounts: vec![
                mount(TOKEN_DIR, "token", true),
                mount("/etc/hosts", "etc-hosts", false),
                mount(TERMINATION_LOG, TERMINATION_FILE, false),
            ],
            labels,
            annotations: strings(&[
                ("io.kubernetes.container.hash", "5f6d7c8a"),
                ("io.kubernetes.container.restartCount", "0"),
                ("io.kubernetes.container.terminationMessagePath", TERMINATION_LOG),
                ("io.kubernetes.container.terminationMessagePolicy", "File"),
                ("io.kubernetes.pod.terminationGracePeriod", "30"),
            ]),
            log_path: "main/0.log".to_owned(),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(limits()),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    capabilities: Some(v1::Capability::default()),
                    run_as_user: Some(v1::Int64Value { value: 0 }),
                    masked_paths: paths(&[
                        "/proc/asound",
                        "/proc/acpi",
                        "/proc/kcore",
                        "/proc/keys",
                        "/proc/latency_stats",
                        "/proc/timer_list",
                        "/proc/timer_stats",
                        "/proc/sched_debug",
                        "/proc/scsi",
                        "/sys/firmware",
                        "/sys/devices/virtual/powercap",
                    ]),
                    readonly_paths: paths(&[
                        "/proc/bus",
                        "/proc/fs",
                        "/proc/irq",
                        "/proc/sys",
                        "/proc/sysrq-trigger",
                    ]),
                    seccomp: Some(runtime_default()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }
}

impl Pod {
    /// Makes the files that the configurations name, as the kubelet does before it calls.
    pub(crate) fn make_files(&self) -> Result<()> {
        let dir = &self.dir;
        let write = |name: &str, text: &str| -> Result<()> {
            fs::write(dir.join(name), text).with_context(|| format!("write {}", dir.join(name).display()))
        };
        for name in ["logs/main", "token"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        write("token/token", "a-token-of-a-service-account")?;
        write("token/namespace", NAMESPACE)?;
        write("etc-hosts", "# written for a benchmark\n127.0.0.1\tlocalhost\n")?;
        write(TERMINATION_FILE, "")?;
        fs::set_permissions(dir.join(TERMINATION_FILE), fs::Permissions::from_mode(0o666))
            .with_context(|| format!("chmod {}/{TERMINATION_FILE}", dir.display()))
    }

    /// Begins to watch for the container's word that it runs. To be called before it is started.
    pub(crate) fn watch(&self) -> Result<Readiness> {
        let path = self.dir.join(TERMINATION_FILE);
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .context("inotify_init1")?;
        inotify::add_watch(&inotify, &path, inotify::WatchFlags::MODIFY)
            .with_context(|| format!("watch {}", path.display()))?;
        Ok(Readiness { inotify, path })
    }

    /// Removes them.
    pub(crate) fn remove_files(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A container whose word is awaited.
#[derive(Debug)]
pub(crate) struct Readiness {
    inotify: OwnedFd,
    path: PathBuf,
}

impl Readiness {
    /// Blocks until the container's program runs, for at most `limit` (whole seconds) between two events.
    pub(crate) fn wait(&self, limit: Duration) -> Result<()> {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
        let mut buffer = [MaybeUninit::uninit(); 512];
        loop {
            let text =
                fs::read_to_string(&self.path).with_context(|| format!("read {}", self.path.display()))?;
            if text.trim_end() == READY {
                return Ok(());
            }
            let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
            let count = retry_on_intr(|| poll(&mut fds, Some(&limit))).context("poll inotify")?;
            ensure!(count > 0, "the container did not run within {} s of its start", limit.tv_sec);
            // One event is as good as many: what counts is the file. The others come with the next poll.
            inotify::Reader::new(&self.inotify, &mut buffer).next().context("read inotify")?;
        }
    }
}

/// A name's UID: of the form of a UUID, the same for the same name.
fn uid_of(name: &str) -> String {
    // FNV-1a, twice with different beginnings: 128 bits that only have to differ between our own pods.
    let hash = |begin: u64| {
        name.bytes().fold(begin, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let text = format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4));
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn runtime_default() -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    }
}

fn limits() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: CPU_QUOTA,
        cpu_shares: CPU_SHARES,
        memory_limit_in_bytes: MEMORY_LIMIT,
        // What the kubelet gives a burstable container; every process may raise its own.
        oom_score_adj: 994,
        ..Default::default()
    }
}

fn environment() -> Vec<v1::KeyValue> {
    [
        ("BENCH", "yes"),
        ("POD_NAMESPACE", NAMESPACE),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
        ("KUBERNETES_PORT_443_TCP_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
    ]
    .map(|(key, value)| v1::KeyValue { key: key.to_owned(), value: value.into() })
    .to_vec()
}

fn strings<'a>(pairs: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn paths(all: &[&str]) -> Vec<String> {
    all.iter().map(|path| (*path).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template<'a>(name: &'a str, dir: &'a Path) -> Template<'a> {
        Template {
            name,
            image: "registry.example.com/busybox:1",
            dir,
            cgroup_parent: "/bench",
            host_port: 31000,
        }
    }

    #[test]
    fn a_pod_has_all_that_the_kubelet_sends() {
        let pod = template("one", Path::new("/pods")).pod();
        let sandbox = &pod.sandbox;
        let uid = &sandbox.metadata.as_ref().unwrap().uid;
        assert_eq!(uid.len(), 36);
        assert_eq!(pod.dir, Path::new("/pods").join(uid));
        assert_eq!(pod.cgroup, format!("/bench/burstable/pod{uid}"));
        assert_eq!(sandbox.linux.as_ref().unwrap().cgroup_parent, pod.cgroup);
        assert_eq!(sandbox.labels["io.kubernetes.pod.uid"], *uid);
        assert_eq!(sandbox.port_mappings[0].host_port, 31000);
        assert_eq!(sandbox.dns_config.as_ref().unwrap().servers, [NAME_SERVER]);

        let linux = pod.container.linux.as_ref().unwrap();
        let limits = linux.resources.as_ref().unwrap();
        assert_eq!((limits.memory_limit_in_bytes, limits.cpu_quota), (MEMORY_LIMIT, CPU_QUOTA));
        let security = linux.security_context.as_ref().unwrap();
        assert_eq!(security.seccomp.as_ref().unwrap().profile_type, 0, "RuntimeDefault");
        let asked = security.namespace_options.as_ref().unwrap();
        assert_eq!((asked.network, asked.pid, asked.ipc), (0, 1, 0), "pod, container, pod");
        assert_eq!(pod.container.mounts.len(), 3);
        assert!(pod.container.mounts.iter().any(|m| m.container_path == TOKEN_DIR && m.readonly));
        assert!(pod.container.envs.iter().any(|e| e.key == "KUBERNETES_SERVICE_HOST"));
    }

    #[test]
    fn pods_differ_by_name_alone() {
        let dir = Path::new("/pods");
        let [one, again, two] = ["one", "one", "two"].map(|name| template(name, dir).pod());
        assert_eq!(one.sandbox, again.sandbox);
        assert_eq!(one.container, again.container);
        assert_ne!(one.dir, two.dir);
        assert_ne!(one.cgroup, two.cgroup);
    }

    #[test]
    fn files_are_there_when_mounts_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let pod = template("one", dir.path()).pod();
        pod.make_files().unwrap();
        for mount in &pod.container.mounts {
            assert!(Path::new(&mount.host_path).exists(), "{}", mount.host_path);
        }
        let log = Path::new(&pod.sandbox.log_directory).join(&pod.container.log_path);
        assert!(log.parent().unwrap().is_dir());
        let watch = pod.watch().unwrap();
        fs::write(pod.dir.join(TERMINATION_FILE), format!("{READY}\n")).unwrap();
        watch.wait(Duration::from_secs(10)).unwrap();
        watch.wait(Duration::from_secs(10)).unwrap();
        pod.remove_files().unwrap();
        pod.remove_files().unwrap();
        assert!(!pod.dir.exists());
    }
}
