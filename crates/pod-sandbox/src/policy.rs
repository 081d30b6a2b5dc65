//! What the node's administrator decides for every container.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::str::FromStr;

/// What holds for all containers of this node, from the configuration.
#[derive(Debug, Clone, Default)]
pub struct ContainerPolicy {
    /// Directories of device specifications (CDI); of two for one device the later directory's counts.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Limits of processes that no request can name.
    pub ulimits: Vec<Ulimit>,
    /// A missing source of a mount is made as a directory instead of refusing the container.
    pub create_missing_mount_sources: bool,
    /// Handlers whose privileged containers get only the devices that they ask for.
    pub privileged_without_host_devices: Vec<String>,
    /// Containers on the node's network get no SELinux label unless they ask for one.
    pub hostnetwork_disable_selinux: bool,
}

/// A limit of setrlimit(2), written `nofile=1024:4096` (soft and hard) or `core=0` (both).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    kind: &'static str,
    soft: u64,
    hard: u64,
}

/// Names of limits as ulimit(1) and other tools write them, and as OCI does.
const KINDS: [(&str, &str); 16] = [
    ("as", "RLIMIT_AS"),
    ("core", "RLIMIT_CORE"),
    ("cpu", "RLIMIT_CPU"),
    ("data", "RLIMIT_DATA"),
    ("fsize", "RLIMIT_FSIZE"),
    ("locks", "RLIMIT_LOCKS"),
    ("memlock", "RLIMIT_MEMLOCK"),
    ("msgqueue", "RLIMIT_MSGQUEUE"),
    ("nice", "RLIMIT_NICE"),
    ("nofile", "RLIMIT_NOFILE"),
    ("nproc", "RLIMIT_NPROC"),
    ("rss", "RLIMIT_RSS"),
    ("rtprio", "RLIMIT_RTPRIO"),
    ("rttime", "RLIMIT_RTTIME"),
    ("sigpending", "RLIMIT_SIGPENDING"),
    ("stack", "RLIMIT_STACK"),
];

impl Ulimit {
    /// An entry of `process.rlimits`.
    pub(crate) fn oci(&self) -> Value {
        json!({"type": self.kind, "soft": self.soft, "hard": self.hard})
    }
}

impl FromStr for Ulimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |value: &str| match value {
            "unlimited" | "-1" => Ok(u64::MAX),
            value => value.parse().map_err(|_| format!("{value:?} is neither a number nor unlimited")),
        };
        let (name, values) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?}: write a limit as nofile=1024:4096 or core=0"))?;
        let kind = KINDS.iter().find(|(short, _)| *short == name).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|(short, _)| *short).collect();
            format!("{name:?} is no limit; known are {}", known.join(", "))
        })?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(format!("{text:?}: the first number, the soft limit, is above the hard one"));
        }
        Ok(Self { kind, soft, hard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        let get = |text: &str| text.parse::<Ulimit>();
        assert_eq!(
            get("nofile=1024:4096").unwrap().oci(),
            json!({"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096})
        );
        assert_eq!(get("core=unlimited").unwrap().soft, u64::MAX);
        assert_eq!(get("core=0").unwrap().hard, 0);
        for bad in ["", "nofile", "files=1", "nofile=", "nofile=2:1", "nofile=x", "nofile=1:2:3"] {
            assert!(get(bad).is_err(), "{bad}");
        }
    }
}
