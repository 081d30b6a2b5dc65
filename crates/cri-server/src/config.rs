//! What `gantry serve` is told: by flags, by a file, by defaults; in this order.

use crate::metrics::MetricsAddress;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How the kubelet's pods get a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CriNetwork {
    /// CNI plugins; without a configuration the network is not ready.
    Cni,
    /// The built-in bridge, for tests and single nodes.
    Builtin,
}

/// Who manages control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Gantry and the OCI runtime write the cgroup file system.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Options of the daemon; `None` means: as the file says, or the default.
///
/// The same names, with `_` for `-`, are the keys of the configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// State that outlives a boot. Default `/var/lib/gantry`.
    pub root: Option<PathBuf>,
    /// State that dies with a boot. Default `/run/gantry`.
    pub run_dir: Option<PathBuf>,
    /// Socket of the CRI. Default `unix://<run-dir>/gantry.sock`.
    pub listen: Option<String>,
    /// Socket of the CRI and the local API for the command line. Default `unix://<run-dir>/local.sock`.
    pub local_listen: Option<String>,
    /// Address of the streaming server. Default `127.0.0.1:0`.
    pub stream_address: Option<String>,
    /// Network of the kubelet's pods. Default `cni`.
    pub cri_network: Option<CriNetwork>,
    /// CNI configurations. Default `/etc/cni/net.d`.
    pub cni_conf_dir: Option<PathBuf>,
    /// CNI plugins. Default `/opt/cni/bin`.
    pub cni_bin_dir: Option<PathBuf>,
    /// Control groups. Default `cgroupfs`.
    pub cgroup_driver: Option<CgroupDriver>,
    /// Runtime handlers by name, beside those found by themselves.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Handler of pods that name none. Default `auto`.
    pub default_runtime: Option<String>,
    /// Written once the sockets answer.
    pub pid_file: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug`, `trace` or a filter. Default `info`.
    pub log_level: Option<String>,
    /// Default `text`.
    pub log_format: Option<LogFormat>,
    /// Directory of `gantry-monitor` and `gantry-runtime`. Default: that of the `gantry` program, then
    /// `../libexec/gantry` from there, then `/usr/libexec/gantry`.
    pub helper_dir: Option<PathBuf>,
    /// Main registries.conf. Default `/etc/containers/registries.conf`.
    pub registries_conf: Option<PathBuf>,
    /// Where metrics are served: `ADDRESS:PORT` or `unix:///path`. Default: nowhere.
    pub metrics_address: Option<String>,
}

/// A configuration that cannot be used: the file or option, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration {path}: {source}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An option has a value that cannot be used.
    #[error("option {option}: {reason}")]
    Option {
        /// The option, as on the command line.
        option: &'static str,
        /// Why.
        reason: String,
    },
}

/// A configuration in which everything is decided.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) root: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) listen: PathBuf,
    pub(crate) local_listen: PathBuf,
    pub(crate) cri_network: CriNetwork,
    pub(crate) cni_conf_dir: PathBuf,
    pub(crate) runtimes: BTreeMap<String, PathBuf>,
    pub(crate) default_runtime: String,
    pub(crate) cgroup_driver: CgroupDriver,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    pub(crate) helper_dir: Option<PathBuf>,
    pub(crate) registries_conf: Option<PathBuf>,
    pub(crate) metrics_address: Option<MetricsAddress>,
}

impl Options {
    /// Reads a TOML file; a key that is not known is an error that names it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// These options where they are set, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let mut runtimes = below.runtimes;
        runtimes.extend(self.runtimes);
        Self {
            root: self.root.or(below.root),
            run_dir: self.run_dir.or(below.run_dir),
            listen: self.listen.or(below.listen),
            local_listen: self.local_listen.or(below.local_listen),
            stream_address: self.stream_address.or(below.stream_address),
            cri_network: self.cri_network.or(below.cri_network),
            cni_conf_dir: self.cni_conf_dir.or(below.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(below.cni_bin_dir),
            cgroup_driver: self.cgroup_driver.or(below.cgroup_driver),
            runtimes,
            default_runtime: self.default_runtime.or(below.default_runtime),
            pid_file: self.pid_file.or(below.pid_file),
            log_level: self.log_level.or(below.log_level),
            log_format: self.log_format.or(below.log_format),
            helper_dir: self.helper_dir.or(below.helper_dir),
            registries_conf: self.registries_conf.or(below.registries_conf),
            metrics_address: self.metrics_address.or(below.metrics_address),
        }
    }

    /// Decides what is open and checks the rest.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let run_dir = absolute("--run-dir", self.run_dir.unwrap_or_else(|| "/run/gantry".into()))?;
        let socket = |option, given: Option<String>, name: &str| match given {
            Some(address) => unix_path(option, &address),
            None => Ok(run_dir.join(name)),
        };
        if let Some(address) = &self.stream_address {
            let parsed: Result<std::net::SocketAddr, _> = address.parse();
            let reason = |e| format!("{address:?} is not an address such as 127.0.0.1:0: {e}");
            parsed.map_err(|e| ConfigError::Option { option: "--stream-address", reason: reason(e) })?;
        }
        let cgroup_driver = self.cgroup_driver.unwrap_or(CgroupDriver::Cgroupfs);
        if cgroup_driver == CgroupDriver::Systemd && !Path::new("/run/systemd/system").is_dir() {
            let reason =
                "this host does not run systemd (/run/systemd/system is missing); use cgroupfs".into();
            return Err(ConfigError::Option { option: "--cgroup-driver", reason });
        }
        let (listen, local_listen) = (
            socket("--listen", self.listen, "gantry.sock")?,
            socket("--local-listen", self.local_listen, "local.sock")?,
        );
        if listen == local_listen {
            let reason = "is the same socket as --listen; the two serve different realms".into();
            return Err(ConfigError::Option { option: "--local-listen", reason });
        }
        Ok(Config {
            root: absolute("--root", self.root.unwrap_or_else(|| "/var/lib/gantry".into()))?,
            listen,
            local_listen,
            run_dir,
            cri_network: self.cri_network.unwrap_or(CriNetwork::Cni),
            cni_conf_dir: self.cni_conf_dir.unwrap_or_else(|| "/etc/cni/net.d".into()),
            runtimes: self.runtimes,
            default_runtime: self.default_runtime.unwrap_or_else(|| "auto".into()),
            cgroup_driver,
            pid_file: self.pid_file,
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            helper_dir: self.helper_dir,
            registries_conf: self.registries_conf,
            metrics_address: self
                .metrics_address
                .map(|address| address.parse())
                .transpose()
                .map_err(|reason| ConfigError::Option { option: "--metrics-address", reason })?,
        })
    }
}

fn absolute(option: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path)
        .map_err(|e| ConfigError::Option { option, reason: format!("{}: {e}", path.display()) })
}

fn unix_path(option: &'static str, address: &str) -> Result<PathBuf, ConfigError> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => Err(ConfigError::Option {
            option,
            reason: format!("{address:?} is not a socket address; write unix:///path/to/socket"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "root = '/a'\nlog_level = 'debug'\n[runtimes]\nx = '/x'\nrunc = '/file/runc'\n";
        let flags = Options {
            root: Some("/b".into()),
            runtimes: [("runc".into(), "/flag/runc".into())].into(),
            ..Options::default()
        };
        let config = flags.over(parse(text).unwrap()).resolve().unwrap();
        assert_eq!(config.root, Path::new("/b"));
        assert_eq!(config.log_level, "debug");
        assert_eq!(config.listen, Path::new("/run/gantry/gantry.sock"));
        assert_eq!(config.runtimes["runc"], Path::new("/flag/runc"));
        assert_eq!(config.runtimes["x"], Path::new("/x"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let unknown = parse("roots = '/a'").unwrap_err().to_string();
        assert!(unknown.contains("roots"), "{unknown}");
        let bad = |o: Options| o.resolve().unwrap_err().to_string();
        let address = bad(Options { listen: Some("/run/x.sock".into()), ..Options::default() });
        assert!(address.contains("--listen") && address.contains("unix://"), "{address}");
        let stream = bad(Options { stream_address: Some("nowhere".into()), ..Options::default() });
        assert!(stream.contains("--stream-address"), "{stream}");
        let same = Options {
            listen: Some("unix:///s".into()),
            local_listen: Some("unix:///s".into()),
            ..Options::default()
        };
        assert!(bad(same).contains("realms"));
    }
}
