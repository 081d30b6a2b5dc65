//! What `gantry serve` is told: by flags, by files, by defaults; in this order.
//!
//! The table below is the only place that lists the options. The flags of the command line, the keys of the
//! file, `gantry config default`, the table in `docs/configuration.md` and [`Config`] itself are made from it.

mod layers;
mod text;
mod values;

pub use layers::{ConfigError, DEFAULT_FILE, Layers, Origin, Problem, Setting};
pub use text::{default_file, markdown_table};
pub use values::{LogFilter, Number, OptionValue, Shape, SocketAddress};

use crate::metrics::MetricsAddress;
use gantry_pod_sandbox::Ulimit;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use values::choices;

/// One option of the daemon, as its users see it.
#[derive(Debug)]
pub struct OptionSpec {
    /// Key in the file.
    pub key: &'static str,
    /// Flag of `gantry serve`, without the dashes.
    pub flag: &'static str,
    /// One or more sentences, as in the table.
    pub help: &'static str,
    /// The default, as TOML.
    pub default: &'static str,
    /// What stands for the value in the help, e.g. `DIR`.
    pub placeholder: &'static str,
    /// Every value that may be given; empty when that cannot be listed.
    pub choices: &'static [&'static str],
    /// Whether it takes one value, a list, or named values.
    pub shape: Shape,
    /// Why a TOML value cannot be used.
    check: fn(&toml::Value) -> Result<(), String>,
    /// The TOML value that the text of a flag stands for.
    from_flag: fn(&str) -> Result<toml::Value, String>,
}

/// Makes [`Config`] and [`OPTIONS`] of the lines of the table: documentation, key, flag, type, default as TOML.
macro_rules! options {
    ($( $(#[doc = $doc:literal])+ $key:ident, $flag:literal: $type:ty = $default:literal; )+) => {
        /// A configuration in which everything is decided.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $key: $type, )+
        }

        /// Every option, in the order in which they are shown.
        pub static OPTIONS: &[OptionSpec] = &[
            $( OptionSpec {
                key: stringify!($key),
                flag: $flag,
                help: concat!($($doc),+),
                default: $default,
                placeholder: <$type as OptionValue>::PLACEHOLDER,
                choices: <$type as OptionValue>::CHOICES,
                shape: <$type as OptionValue>::SHAPE,
                check: |value| <$type as OptionValue>::from_toml(value).map(drop),
                from_flag: <$type as OptionValue>::from_flag,
            }, )+
        ];

        impl Layers {
            /// The values as their types.
            fn typed(&self) -> Result<Config, ConfigError> {
                Ok(Config { $( $key: self.value(stringify!($key))?, )+ })
            }
        }
    };
}

options! {
    /// Images and writable layers: state that outlives a boot.
    root, "root": PathBuf = "\"/var/lib/gantry\"";
    /// Records, bundles, sockets: state that dies with a boot. Made an own tmpfs unless something is
    /// mounted there.
    run_dir, "run-dir": PathBuf = "\"/run/gantry\"";
    /// Socket of the CRI, for the kubelet and crictl. {run_dir} stands for that option.
    listen, "listen": SocketAddress = "\"unix://{run_dir}/gantry.sock\"";
    /// Socket of the CRI and the local API, for the gantry command line.
    local_listen, "local-listen": SocketAddress = "\"unix://{run_dir}/local.sock\"";
    /// Where exec, attach and port-forward are served. It stands in their URLs, so it cannot be 0.0.0.0.
    stream_address, "stream-address": SocketAddr = "\"127.0.0.1:0\"";
    /// Certificate (PEM, with those that sign it) that makes the streaming server speak TLS. Read again when it changes.
    stream_tls_cert, "stream-tls-cert": Option<PathBuf> = "\"\"";
    /// Private key (PEM) of that certificate.
    stream_tls_key, "stream-tls-key": Option<PathBuf> = "\"\"";
    /// Seconds after which a streaming connection is ended on which nothing comes or goes.
    stream_idle_timeout, "stream-idle-timeout": Number<1, 604_800> = "14400";
    /// Seconds that a client has to open the streams of its exec, attach or port-forward.
    stream_creation_timeout, "stream-creation-timeout": Number<1, 3600> = "30";
    /// What becomes of an exec'd command whose client, or whose daemon, goes away: it is killed, or left to see
    /// the end of its input.
    exec_on_disconnect, "exec-on-disconnect": ExecOnDisconnect = "\"kill\"";
    /// Network of the kubelet's pods: CNI plugins, or the built-in bridge for tests and single nodes.
    cri_network, "cri-network": CriNetwork = "\"cni\"";
    /// Directory of CNI configurations.
    cni_conf_dir, "cni-conf-dir": PathBuf = "\"/etc/cni/net.d\"";
    /// Directories of CNI plugins, searched in this order.
    cni_bin_dir, "cni-bin-dir": Vec<PathBuf> = "[\"/opt/cni/bin\"]";
    /// Template of a CNI configuration, filled in with the addresses that the cluster gives this node
    /// (UpdateRuntimeConfig) and written to the directory of configurations as 10-gantry.conflist. Left empty:
    /// the addresses are only noted.
    cni_conf_template, "cni-conf-template": Option<PathBuf> = "\"\"";
    /// Seconds that one call of one CNI plugin may take.
    cni_timeout, "cni-timeout": Number<1, 3600> = "60";
    /// Whether GC of CNI plugins is called after a restart, for networks that Gantry alone uses.
    cni_gc, "cni-gc": bool = "false";
    /// Where network namespaces of pods are pinned, for agents that look for them by name.
    netns_dir, "netns-dir": PathBuf = "\"/run/netns\"";
    /// Who manages control groups. For systemd it must run, with cgroup v2.
    cgroup_driver, "cgroup-driver": CgroupDriver = "\"cgroupfs\"";
    /// Handler of pods that name none; auto is the first of embedded, crun, runc that passes its self-test.
    default_runtime, "default-runtime": String = "\"auto\"";
    /// Seconds between two samples of the use of CPUs; writable layers are looked at in every third round.
    stats_interval, "stats-interval": Number<1, 3600> = "10";
    /// Metrics of pods and containers that are told over the CRI, for kubelets without cAdvisor.
    pod_metrics, "pod-metrics": Vec<PodMetric> = "[\"cpu\", \"memory\", \"oom\", \"network\", \"disk\", \
        \"diskIO\", \"hugetlb\", \"process\", \"spec\", \"pressure\"]";
    /// Where metrics are served, over HTTP; a TCP address or unix:///path. Nowhere unless it is given.
    metrics_address, "metrics-address": Option<MetricsAddress> = "\"\"";
    /// Written once the sockets answer.
    pid_file, "pid-file": Option<PathBuf> = "\"\"";
    /// A level (error, warn, info, debug, trace) or a filter such as info,gantry_netns=debug.
    log_level, "log-level": LogFilter = "\"info\"";
    /// How log lines look on standard error.
    log_format, "log-format": LogFormat = "\"text\"";
    /// Directory of gantry-monitor and gantry-runtime. Left empty: that of gantry, then ../libexec/gantry
    /// from there, then /usr/libexec/gantry.
    helper_dir, "helper-dir": Option<PathBuf> = "\"\"";
    /// File that says how registries are reached, with drop-ins from the directory of that name plus .d.
    registries_conf, "registries-conf": PathBuf = "\"/etc/containers/registries.conf\"";
    /// Runtime handlers by name, beside those that are found: embedded, and runc and crun where they are
    /// in PATH.
    runtimes, "runtime": BTreeMap<String, PathBuf> = "{}";
    /// Runtime handlers whose privileged containers get only the devices of the host that they ask for.
    privileged_without_host_devices, "privileged-without-host-devices": Vec<String> = "[]";
    /// Whether containers on the node's network go without an SELinux label unless they ask for one.
    hostnetwork_disable_selinux, "hostnetwork-disable-selinux": bool = "true";
    /// Directories of device specifications (CDI). Of two for one device the later directory's counts.
    cdi_spec_dirs, "cdi-spec-dir": Vec<PathBuf> = "[\"/etc/cdi\", \"/var/run/cdi\"]";
    /// Limits of every container's processes, as nofile=1024:4096 (soft and hard) or core=0 (both).
    default_ulimits, "default-ulimit": Vec<Ulimit> = "[]";
    /// Whether a missing source of a mount is made as a directory. The CRI wants such a container refused.
    create_missing_mount_sources, "create-missing-mount-sources": bool = "false";
}

choices! {
    /// How the kubelet's pods get a network.
    CriNetwork {
        /// CNI plugins; without a configuration the network is not ready.
        Cni = "cni",
        /// The built-in bridge, for tests and single nodes.
        Builtin = "builtin",
    }
}

choices! {
    /// Metrics that one can choose, as groups.
    PodMetric {
        /// Use of CPUs, throttling.
        Cpu = "cpu",
        /// Memory by what it is for, faults.
        Memory = "memory",
        /// Processes killed for want of memory.
        Oom = "oom",
        /// Bytes and packets by interface.
        Network = "network",
        /// Space of writable layers.
        Disk = "disk",
        /// Reads and writes by device.
        DiskIo = "diskIO",
        /// Huge pages.
        HugeTlb = "hugetlb",
        /// Processes, threads, open files.
        Process = "process",
        /// Limits.
        Spec = "spec",
        /// Pressure stall information.
        Pressure = "pressure",
    }
}

impl From<PodMetric> for gantry_pod_sandbox::MetricGroup {
    fn from(asked: PodMetric) -> Self {
        match asked {
            PodMetric::Cpu => Self::Cpu,
            PodMetric::Memory => Self::Memory,
            PodMetric::Oom => Self::Oom,
            PodMetric::Network => Self::Network,
            PodMetric::Disk => Self::Disk,
            PodMetric::DiskIo => Self::DiskIo,
            PodMetric::HugeTlb => Self::HugeTlb,
            PodMetric::Process => Self::Process,
            PodMetric::Spec => Self::Spec,
            PodMetric::Pressure => Self::Pressure,
        }
    }
}

choices! {
    /// What becomes of an exec'd command whose client goes away.
    ExecOnDisconnect {
        /// It is killed with what it started.
        Kill = "kill",
        /// It sees the end of its input, and goes on if it can.
        Leave = "leave",
    }
}

impl From<ExecOnDisconnect> for gantry_pod_sandbox::OnDisconnect {
    fn from(asked: ExecOnDisconnect) -> Self {
        match asked {
            ExecOnDisconnect::Kill => Self::Kill,
            ExecOnDisconnect::Leave => Self::Leave,
        }
    }
}

choices! {
    /// Who manages control groups.
    CgroupDriver {
        /// Gantry and the OCI runtime write the cgroup file system.
        Cgroupfs = "cgroupfs",
        /// systemd, asked over D-Bus.
        Systemd = "systemd",
    }
}

choices! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

impl Config {
    /// Path of the kubelet's socket.
    pub fn listen_path(&self) -> PathBuf {
        self.listen.path(&self.run_dir)
    }

    /// Path of the command line's socket.
    pub fn local_listen_path(&self) -> PathBuf {
        self.local_listen.path(&self.run_dir)
    }

    /// Key and reason of what is wrong between options, or between an option and this host.
    fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.listen_path() == self.local_listen_path() {
            found.push((
                "local_listen",
                "is the same socket as listen; the two serve different realms".into(),
            ));
        }
        if self.stream_address.ip().is_unspecified() {
            let reason = "is every address; name the one that clients connect to";
            found.push(("stream_address", reason.into()));
        }
        if self.stream_tls_cert.is_some() != self.stream_tls_key.is_some() {
            let reason = "TLS needs both stream_tls_cert and stream_tls_key";
            found.push(("stream_tls_cert", reason.into()));
        }
        // CNI_PATH separates directories by colons.
        let has_colon = |d: &PathBuf| d.as_os_str().as_encoded_bytes().contains(&b':');
        if self.cni_bin_dir.is_empty() || self.cni_bin_dir.iter().any(has_colon) {
            found.push(("cni_bin_dir", "must name at least one directory, each without ':'".into()));
        }
        if self.cgroup_driver == CgroupDriver::Systemd && !Path::new("/run/systemd/system").is_dir() {
            let reason = "this host does not run systemd (/run/systemd/system is missing); use cgroupfs";
            found.push(("cgroup_driver", reason.into()));
        }
        found
    }
}

impl OptionSpec {
    /// Help in one line.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// The option with this key.
    pub fn find(key: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|o| o.key == key)
    }
}

#[cfg(test)]
mod tests;
