//! A configuration made for this node, from a template and the addresses that the cluster gave the node.

use super::conf::Network;
use super::template::{Fields, Value, render};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Name of the file that is made.
pub(super) const FILE: &str = "10-gantry.conflist";

/// Largest template that is read.
const MAX_TEMPLATE: u64 = 1 << 20;

/// Most ranges of addresses that a node has.
const MAX_RANGES: usize = 16;

/// What became of a node's ranges of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodCidr {
    /// There is no template to fill in.
    NoTemplate,
    /// The configuration was written, or says the same already.
    Written(PathBuf),
    /// Somebody else's configuration is in effect; nothing was written.
    Foreign(PathBuf),
}

/// Ranges such as `10.1.0.0/24,fd00::/64`, checked one by one.
///
/// # Errors
///
/// What is not a range of addresses.
pub(super) fn parse(text: &str) -> Result<Vec<(IpAddr, String)>> {
    let ranges: Vec<&str> = text.split(',').map(str::trim).collect();
    let bad = |range: &str| {
        let message = "write a range of addresses such as 10.1.0.0/24, several separated by commas";
        invalid(format!("pod CIDR {range:.64?}"), message)
    };
    if ranges.len() > MAX_RANGES {
        return Err(bad(text));
    }
    let parse = |range: &&str| {
        let (address, bits) = range.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then(|| (address, (*range).to_owned()))
    };
    ranges.iter().map(|range| parse(range).ok_or_else(|| bad(range))).collect()
}

/// Fills `template` in and puts the result into `conf_dir`, whole or not at all. Blocking.
///
/// # Errors
///
/// A template that is not understood or does not make a valid configuration; what the disk refuses.
pub(super) fn write(template: &Path, conf_dir: &Path, ranges: &[(IpAddr, String)]) -> Result<PathBuf> {
    let object = format!("CNI template {}", template.display());
    let mut text = String::new();
    let file = File::open(template).map_err(|e| Error::io(format!("open {object}"), &e))?;
    file.take(MAX_TEMPLATE).read_to_string(&mut text).map_err(|e| Error::io(format!("read {object}"), &e))?;
    let filled = render(&text, &fields(ranges)).map_err(|why| invalid(object.clone(), why))?;
    Network::parse(filled.as_bytes())
        .map_err(|why| invalid(object, format!("what it makes is no network: {why}")))?;
    let path = conf_dir.join(FILE);
    if std::fs::read(&path).is_ok_and(|old| old == filled.as_bytes()) {
        return Ok(path);
    }
    std::fs::create_dir_all(conf_dir).map_err(|e| Error::io(format!("create {}", conf_dir.display()), &e))?;
    // Two calls at once write two files; the later rename holds.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = format!(".{FILE}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let temporary = conf_dir.join(unique);
    let write = || -> std::io::Result<()> {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(filled.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(conf_dir)?.sync_all()
    };
    write().map_err(|e| {
        // Half a file is of no use to anybody.
        let _gone = std::fs::remove_file(&temporary);
        Error::io(format!("write {}", path.display()), &e)
    })?;
    Ok(path)
}

fn invalid(object: String, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("{object}: {why}"))
}

fn fields(ranges: &[(IpAddr, String)]) -> Fields {
    let default = |wanted: bool, route: &str| {
        ranges.iter().any(|(address, _)| address.is_ipv4() == wanted).then(|| route.to_owned())
    };
    let routes = default(true, "0.0.0.0/0").into_iter().chain(default(false, "::/0"));
    Fields::from([
        ("PodCIDR", Value::Text(ranges.first().map(|(_, range)| range.clone()).unwrap_or_default())),
        ("PodCIDRRanges", Value::List(ranges.iter().map(|(_, range)| range.clone()).collect())),
        ("Routes", Value::List(routes.collect())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "ptp", "ipam": {
        "type": "host-local",
        "ranges": [{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}],
        "routes": [{{range $i, $r := .Routes}}{{if $i}}, {{end}}{"dst": "{{$r}}"}{{end}}]}}]}"#;

    #[test]
    fn a_template_becomes_a_network_and_a_new_range_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let (template, conf) = (dir.path().join("t"), dir.path().join("net.d"));
        std::fs::write(&template, TEMPLATE).unwrap();
        let made = |cidr: &str| -> serde_json::Value {
            let path = write(&template, &conf, &parse(cidr).unwrap()).unwrap();
            assert_eq!(path, conf.join(FILE));
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let both = made("10.1.0.0/24, fd00::/64");
        let ipam = &both["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00::/64");
        assert_eq!(
            (&ipam["routes"][0]["dst"], &ipam["routes"][1]["dst"]),
            (&"0.0.0.0/0".into(), &"::/0".into())
        );
        let other = made("10.2.0.0/24");
        assert_eq!(other["plugins"][0]["ipam"]["ranges"], serde_json::json!([[{"subnet": "10.2.0.0/24"}]]));
        let files: Vec<_> = std::fs::read_dir(&conf).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(files, [FILE], "nothing else is left");
    }

    #[test]
    fn a_bad_template_or_range_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (template, conf) = (dir.path().join("t"), dir.path().join("net.d"));
        let ranges = parse("10.1.0.0/24").unwrap();
        for text in ["{{.Nothing}}", "{\"name\": \"{{.PodCIDR}}\"}", "no json"] {
            std::fs::write(&template, text).unwrap();
            let error = write(&template, &conf, &ranges).unwrap_err().to_string();
            assert!(error.contains("CNI template"), "{error}");
        }
        assert!(!conf.join(FILE).exists());
        for bad in ["10.1.0.0", "10.1.0.0/33", "x/24", "10.1.0.0/24,", "\"/24", &"10.0.0.0/8,".repeat(20)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
