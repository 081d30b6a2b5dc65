//! Attachments on disk, in the format of libcni's cache: written before ADD, completed after it, and
//! removed only once DEL has succeeded. It outlives a boot, since what plugins hold does, too.

use crate::model::{Attachment, Backend, PortMapping, Protocol, Quarantined};
use crate::network::{check_id, check_interface};
use crate::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Value of `kind` in every file.
const KIND: &str = "cniCacheV1";

/// Largest file: a configuration and a result of the largest size, in base64 and JSON.
const MAX_FILE: u64 = 8 << 20;

/// One attachment as libcni keeps it (`cachedInfo` of its api.go).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cached {
    kind: String,
    pub(crate) container_id: String,
    /// The configuration that ADD was called with, as a list.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) config: Vec<u8>,
    pub(crate) if_name: String,
    pub(crate) network_name: String,
    #[serde(rename = "netns", default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cni_args: Vec<[String; 2]>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) capability_args: Map<String, Value>,
    /// What ADD came to; missing until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
}

impl Cached {
    pub(crate) fn new(container_id: &str, network_name: &str, if_name: &str, config: Vec<u8>) -> Self {
        Self {
            kind: KIND.into(),
            container_id: container_id.into(),
            config,
            if_name: if_name.into(),
            network_name: network_name.into(),
            netns: None,
            cni_args: Vec::new(),
            capability_args: Map::new(),
            result: None,
        }
    }

    /// The attachment as everybody else sees it.
    pub(crate) fn attachment(&self) -> Attachment {
        let summary = self.result.as_ref().and_then(|r| super::result::summary(r, &self.if_name).ok());
        let summary = summary.unwrap_or_default();
        let ports = self.capability_args.get("portMappings").and_then(Value::as_array);
        Attachment {
            backend: Backend::Cni { network: self.network_name.clone() },
            pod_id: self.container_id.clone(),
            interface: self.if_name.clone(),
            netns: self.netns.clone(),
            ips: summary.ips,
            mac: summary.mac,
            ports: ports.into_iter().flatten().filter_map(port).collect(),
            complete: self.result.is_some(),
        }
    }

    fn file_name(&self) -> String {
        format!("{}-{}-{}", self.network_name, self.container_id, self.if_name)
    }

    fn check(&self, file: &str) -> Result<(), String> {
        if self.kind != KIND {
            return Err(format!("its kind is {:.40?}, not {KIND}", self.kind));
        }
        check_id(&self.container_id).map_err(|e| e.to_string())?;
        check_interface(&self.if_name).map_err(|e| e.to_string())?;
        if self.file_name() != file {
            return Err(format!("it is about {:.300}", self.file_name()));
        }
        super::conf::Network::parse(&self.config).map(drop).map_err(|e| format!("its configuration {e}"))
    }
}

fn port(value: &Value) -> Option<PortMapping> {
    let number = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
    let protocol = match value.get("protocol").and_then(Value::as_str)? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let host_ip = value.get("hostIP").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
    let (container_port, host_port) = (number("containerPort")?, number("hostPort")?);
    Some(PortMapping { protocol, container_port, host_port, host_ip })
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// The directory of the cache. Made with the first attachment.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    results: PathBuf,
    damaged: PathBuf,
}

impl Cache {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { results: dir.join("results"), damaged: dir.join("damaged") }
    }

    /// Marks the standard input of plugins, so that those that outlive this daemon are found.
    pub(crate) fn mark(&self, pod_id: &str) -> String {
        // FNV-1a: two daemons have different directories.
        let path = self.results.as_os_str().as_encoded_bytes();
        let hash = path.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("gantry-cni:{hash:016x}:{pod_id}")
    }

    /// All attachments by pod; a damaged file is moved aside.
    pub(crate) fn load(&self) -> Result<(BTreeMap<String, Cached>, Vec<Quarantined>)> {
        let (mut all, mut damaged) = (BTreeMap::new(), Vec::new());
        let entries = match std::fs::read_dir(&self.results) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((all, damaged)),
            Err(e) => return Err(Error::io(format!("list {}", self.results.display()), &e)),
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                // Never renamed into place: what it is about was not begun.
                remove(&path)?;
                continue;
            }
            match read(&path, &name) {
                Ok(cached) => {
                    all.insert(cached.container_id.clone(), cached);
                }
                Err(reason) => {
                    make_dir(&self.damaged)?;
                    let moved_to = self.damaged.join(&*name);
                    std::fs::rename(&path, &moved_to)
                        .map_err(|e| Error::io(format!("set {} aside", path.display()), &e))?;
                    damaged.push(Quarantined { moved_to, reason });
                }
            }
        }
        Ok((all, damaged))
    }

    /// Writes an attachment so that it outlives a power cut.
    pub(crate) fn store(&self, cached: &Cached) -> Result<()> {
        make_dir(&self.results)?;
        let name = cached.file_name();
        let (path, temporary) = (self.results.join(&name), self.results.join(format!(".{name}")));
        let bytes =
            serde_json::to_vec(cached).map_err(|e| Error::failed(format!("record {}", path.display()), e))?;
        let write = || {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.results)?.sync_all()
        };
        write().map_err(|e| Error::io(format!("write {}", path.display()), &e))
    }

    pub(crate) fn remove(&self, cached: &Cached) -> Result<()> {
        remove(&self.results.join(cached.file_name()))
    }
}

fn read(path: &Path, name: &str) -> Result<Cached, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let cached: Cached = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    cached.check(name)?;
    Ok(cached)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Configurations may hold secrets: nobody else looks in.
fn make_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::io(format!("create {}", dir.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cached() -> Cached {
        let config = br#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;
        let mut cached = Cached::new("p1", "net", "eth0", config.to_vec());
        cached.netns = Some("/run/netns/gantry-p1".into());
        cached.cni_args = vec![["IgnoreUnknown".into(), "1".into()]];
        let port = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"});
        cached.capability_args.insert("portMappings".into(), json!([port]));
        cached
    }

    #[test]
    fn the_format_is_libcnis() {
        let text = serde_json::to_string(&cached()).unwrap();
        let expected = concat!(
            r#"{"kind":"cniCacheV1","containerId":"p1","#,
            r#""config":"eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3sidHlwZSI6ImJyaWRnZSJ9XX0=","#,
            r#""ifName":"eth0","networkName":"net","netns":"/run/netns/gantry-p1","#,
            r#""cniArgs":[["IgnoreUnknown","1"]],"#,
            r#""capabilityArgs":{"portMappings":[{"containerPort":80,"hostIP":"127.0.0.1","hostPort":8080,"protocol":"tcp"}]}}"#,
        );
        assert_eq!(text, expected);
        let mut complete = cached();
        complete.result = Some(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]}));
        let text = serde_json::to_string(&complete).unwrap();
        assert!(
            text.ends_with(r#""result":{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}}"#),
            "{text}"
        );
    }

    #[test]
    fn an_attachment_survives_and_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        assert!(cache.load().unwrap().0.is_empty() && !dir.path().join("results").exists());
        let mut cached = cached();
        cache.store(&cached).unwrap();
        assert!(dir.path().join("results/net-p1-eth0").is_file());
        assert!(!cache.load().unwrap().0["p1"].attachment().complete);
        cached.result = Some(json!({"ips": [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}]}));
        cache.store(&cached).unwrap();
        let attachment = cache.load().unwrap().0["p1"].attachment();
        assert_eq!(attachment.backend, Backend::Cni { network: "net".into() });
        assert_eq!(attachment.ips, ["10.1.2.3", "fd00::3"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
        assert!(attachment.complete && attachment.ports[0].host_port == 8080);
        cache.remove(&cached).unwrap();
        cache.remove(&cached).unwrap();
        assert!(cache.load().unwrap().0.is_empty());
    }

    #[test]
    fn damaged_files_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        cache.store(&cached()).unwrap();
        let results = dir.path().join("results");
        let good = std::fs::read_to_string(results.join("net-p1-eth0")).unwrap();
        for (name, text) in [
            ("empty", ""),
            ("net-p2-eth0", &*good),
            ("net-p3-eth0", &good.replace("p1", "p3").replace("cniCacheV1", "v2")),
            ("net-p4-eth0", &good.replace("p1", "p4").replace("eyJj", "eyJX")),
        ] {
            std::fs::write(results.join(name), text).unwrap();
        }
        std::fs::write(results.join(".net-p9-eth0"), "half").unwrap();
        let (all, damaged) = cache.load().unwrap();
        assert_eq!((all.len(), damaged.len()), (1, 4), "{damaged:?}");
        assert_eq!(
            std::fs::read_dir(&results).unwrap().count(),
            1,
            "a name with a dot is a half-written file"
        );
    }
}
