//! Volumes, secrets and configs.

use super::{Converter, entries, items};
use crate::node::Node;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// Largest content of a secret, a config or a bound file, in bytes; the cluster takes a mebibyte in all.
const MAX_CONTENT: usize = 1_000_000;

/// Size of a volume of which nobody said one.
const ASSUMED_SIZE: &str = "1Gi";

/// The mounts of a container while they are collected.
struct Mounts<'m> {
    /// Name of the container, for names of volumes.
    own: String,
    found: Vec<Json>,
    /// Volumes of the pod.
    volumes: &'m mut Vec<Json>,
}

impl Mounts<'_> {
    /// A name that no volume of the pod has.
    fn volume(&self, what: &str, number: usize) -> String {
        let mut name = format!("{}-{what}-{number}", self.own);
        while self.volumes.iter().any(|v| v["name"] == name.as_str()) {
            name.push('x');
        }
        name
    }

    fn add(&mut self, volume: Json, mut mount: Json) {
        if mount.get("name").is_none() {
            mount["name"] = volume["name"].clone();
        }
        if !self.volumes.contains(&volume) {
            self.volumes.push(volume);
        }
        self.found.push(mount);
    }
}

impl<'a> Converter<'a> {
    /// Secrets and configs of the project.
    pub(super) fn contents(&mut self) {
        for (section, kind, text_field, binary_field) in
            [("secrets", "Secret", "stringData", "data"), ("configs", "ConfigMap", "data", "binaryData")]
        {
            for (name, entry) in self.project.section(section) {
                let default = format!("{}_{name}", self.project.name);
                let kind_of_names = super::section_kind(section);
                let full = self.names.of(kind_of_names, name);
                let wanted = entry.text(&["name"]).filter(|n| *n != default);
                self.done_at(entry, &["name"]);
                if let Some(wanted) = wanted.filter(|w| *w != full) {
                    self.tell(
                        &entry.span,
                        format!("{section}.{name}: {wanted:?} is called {full} in the cluster"),
                    );
                }
                let key = data_key(name);
                if entry.get(&["external"]).is_some() {
                    self.done_at(entry, &["external"]);
                    self.tell(
                        &entry.span,
                        format!("{section}.{name}: {kind} {full} has to have the key {key}"),
                    );
                    continue;
                }
                let content = self.content(entry);
                match content {
                    Ok(content) => {
                        let annotations = self.annotations(entry, &["labels"], &format!("{section}.{name}"));
                        let mut body = json!({"annotations": annotations});
                        match String::from_utf8(content) {
                            Ok(text) => body[text_field] = json!({key: text}),
                            Err(bytes) => {
                                body[binary_field] = json!({key: STANDARD.encode(bytes.as_bytes())});
                            }
                        }
                        self.add("v1", kind, &full, None, body);
                    }
                    Err(why) => {
                        self.done(entry);
                        self.tell(
                            &entry.span,
                            format!("{section}.{name}: {kind} {full} is not written: {why}"),
                        );
                    }
                }
            }
        }
    }

    fn content(&mut self, entry: &'a Node) -> Result<Vec<u8>, String> {
        if let Some(text) = self.text(entry, &["content"]) {
            return Ok(text.as_bytes().to_vec());
        }
        if let Some(variable) = self.text(entry, &["environment"]) {
            let value = self.project.environment.get(variable);
            return value
                .map(|v| v.as_bytes().to_vec())
                .ok_or_else(|| format!("variable {variable} is not set"));
        }
        match self.text(entry, &["file"]) {
            Some(path) => self.files.read(path, MAX_CONTENT).map_err(|e| format!("cannot read {path}: {e}")),
            None => Err("nothing says what is in it".to_owned()),
        }
    }

    /// Mounts of a container; what they need of the pod is added to `volumes`.
    pub(super) fn mounts(&mut self, name: &'a str, service: &'a Node, volumes: &mut Vec<Json>) -> Vec<Json> {
        let mut mounts = Mounts { own: self.name(name), found: Vec::new(), volumes };
        for (i, mount) in items(service, "volumes").iter().enumerate() {
            self.mount(name, mount, i, &mut mounts);
        }
        for (i, tmpfs) in items(service, "tmpfs").iter().enumerate() {
            self.done(tmpfs);
            let text = tmpfs.as_str().unwrap_or_default();
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            let mut size = None;
            for option in options.split(',').filter(|o| !o.is_empty()) {
                match option.strip_prefix("size=").and_then(crate::units::bytes) {
                    Some(bytes) => size = Some(bytes.to_string()),
                    None => {
                        self.tell(&tmpfs.span, format!("services.{name}.tmpfs: {option} of {path} is lost"));
                    }
                }
            }
            let volume = memory(&mounts.volume("tmpfs", i), size.as_deref());
            mounts.add(volume, json!({"mountPath": path}));
        }
        if let Some(size) = self.text(service, &["shm_size"]) {
            let volume = memory(&mounts.volume("shm", 0), Some(size));
            mounts.add(volume, json!({"mountPath": "/dev/shm"}));
        }
        for (section, field) in [("secrets", "secret"), ("configs", "configMap")] {
            for (i, item) in items(service, section).iter().enumerate() {
                self.content_mount(name, section, field, item, i, &mut mounts);
            }
        }
        let mut seen = BTreeSet::new();
        let mut kept = Vec::with_capacity(mounts.found.len());
        for mount in mounts.found {
            let path = mount["mountPath"].as_str().unwrap_or_default().to_owned();
            if path.is_empty() || path.contains(':') {
                self.tell(&service.span, format!("services.{name}: nothing can be mounted at {path:?}"));
            } else if !seen.insert(path.clone()) {
                self.tell(&service.span, format!("services.{name}: two mounts at {path}; the first is kept"));
            } else {
                kept.push(mount);
            }
        }
        kept
    }

    /// One secret or config.
    fn content_mount(
        &mut self,
        name: &str,
        section: &'static str,
        field: &str,
        item: &'a Node,
        number: usize,
        mounts: &mut Mounts<'_>,
    ) {
        let source = self.text(item, &["source"]).unwrap_or_default();
        let full = self.names.of(super::section_kind(section), source);
        let mut pod = if section == "secrets" { json!({"secretName": full}) } else { json!({"name": full}) };
        if let Some(node) = item.get(&["mode"]) {
            match node.as_int() {
                Some(mode) if (0..=0o777).contains(&mode) => pod["defaultMode"] = json!(mode),
                _ => self.lose(node, format!("services.{name}.{section}: this mode is lost")),
            }
            self.done(node);
        }
        for owner in ["uid", "gid"] {
            if let Some(node) = item.get(&[owner]) {
                self.lose(
                    node,
                    format!("services.{name}.{section}: {owner} is lost: files in pods are root's"),
                );
            }
        }
        let target = self.text(item, &["target"]).unwrap_or_default();
        let volume = mounts.volume(&field.to_lowercase(), number);
        mounts.add(
            json!({"name": volume, field: pod}),
            json!({"mountPath": target, "subPath": data_key(source), "readOnly": true}),
        );
    }

    /// One mount of the list `volumes`.
    fn mount(&mut self, name: &'a str, mount: &'a Node, number: usize, mounts: &mut Mounts<'_>) {
        let target = self.text(mount, &["target"]).unwrap_or_default();
        let volume = mounts.volume("volume", number);
        let mut entry = json!({"mountPath": target});
        if self.flag(mount, &["read_only"]) {
            entry["readOnly"] = json!(true);
        }
        let source = mount.text(&["source"]);
        match (mount.text(&["type"]).unwrap_or_default(), source) {
            ("volume", Some(source)) => {
                let claim = self.names.of("claims", source);
                if let Some(path) = self.text(mount, &["volume", "subpath"]) {
                    entry["subPath"] = json!(path);
                }
                if !self.flag(mount, &["volume", "nocopy"]) {
                    let message = format!(
                        "services.{name}.volumes: what the image has at {target} is not copied to it"
                    );
                    self.tell(&mount.span, message);
                }
                let in_pod =
                    mounts.volumes.iter().find(|v| v["persistentVolumeClaim"]["claimName"] == claim.as_str());
                let volume = in_pod.cloned().unwrap_or_else(|| {
                    let name = mounts_name(mounts, &claim);
                    json!({"name": name, "persistentVolumeClaim": {"claimName": claim}})
                });
                mounts.add(volume, entry);
            }
            ("volume", None) => mounts.add(json!({"name": volume, "emptyDir": {}}), entry),
            ("tmpfs", _) => {
                let size = self.text(mount, &["tmpfs", "size"]);
                mounts.add(memory(&volume, size), entry);
            }
            ("bind", Some(source)) => {
                let volume = self.bind(name, mount, source, volume, &mut entry);
                mounts.add(volume, entry);
            }
            ("image", Some(source)) => {
                if let Some(path) = self.text(mount, &["image", "subpath"]) {
                    entry["subPath"] = json!(path);
                }
                entry["readOnly"] = json!(true);
                mounts.add(json!({"name": volume, "image": {"reference": source}}), entry);
            }
            (kind, _) => {
                self.lose(mount, format!("services.{name}.volumes: a mount of type {kind} is lost"));
                return;
            }
        }
        self.done_at(mount, &["type"]);
        self.done_at(mount, &["source"]);
    }

    /// A small file of the project that is only read becomes a config; everything else stays on its node.
    fn bind(
        &mut self,
        name: &'a str,
        mount: &'a Node,
        source: &str,
        volume: String,
        entry: &mut Json,
    ) -> Json {
        // The node does as Docker: it makes a folder where there is nothing.
        if mount.get(&["bind", "create_host_path"]).and_then(Node::as_bool) == Some(true) {
            self.done_at(mount, &["bind", "create_host_path"]);
        }
        if let Some(propagation) = mount.text(&["bind", "propagation"]) {
            let like = match propagation {
                "rprivate" | "private" | "" => Some("None"),
                "rslave" | "slave" => Some("HostToContainer"),
                _ => None,
            };
            if let Some(like) = like {
                self.done_at(mount, &["bind", "propagation"]);
                entry["mountPropagation"] = json!(like);
            }
        }
        let inside = source.starts_with(&format!("{}/", self.project.directory.trim_end_matches('/')));
        if entry["readOnly"] == true
            && inside
            && let Ok(content) = self.files.read(source, MAX_CONTENT)
        {
            let key = data_key(source.rsplit('/').next().unwrap_or_default());
            let full = self.names.give("configs", &format!("{name}/{volume}"), &volume);
            let body = match String::from_utf8(content) {
                Ok(text) => json!({"data": {key.clone(): text}}),
                Err(bytes) => json!({"binaryData": {key.clone(): STANDARD.encode(bytes.as_bytes())}}),
            };
            self.add("v1", "ConfigMap", &full, Some(name), body);
            entry["subPath"] = json!(key);
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("mountPropagation");
            }
            return json!({"name": volume, "configMap": {"name": full}});
        }
        let message = format!("services.{name}.volumes: {source} has to be on the node that the pod runs on");
        self.tell(&mount.span, message);
        json!({"name": volume, "hostPath": {"path": source}})
    }

    /// A claim for each named volume that a service mounts.
    pub(super) fn claims(&mut self) {
        let project = self.project;
        for (name, count) in std::mem::take(&mut self.mounted) {
            let Some(entry) = project.model.get(&["volumes", name]) else { continue };
            let full = self.names.of("claims", name);
            let default = format!("{}_{name}", project.name);
            let wanted = entry.text(&["name"]).filter(|n| *n != default).unwrap_or(name);
            self.done_at(entry, &["name"]);
            if wanted != full {
                self.tell(&entry.span, format!("volumes.{name}: {wanted:?} is called {full} in the cluster"));
            }
            if count > 1 {
                let message =
                    format!("volumes.{name}: the {count} pods that mount it have to run on one node");
                self.tell(&entry.span, message);
            }
            if entry.get(&["external"]).is_some() {
                self.done_at(entry, &["external"]);
                continue;
            }
            if matches!(entry.text(&["driver"]), Some("local" | "")) {
                self.done_at(entry, &["driver"]);
            }
            let size = self.size(name, entry);
            let annotations = self.annotations(entry, &["labels"], &format!("volumes.{name}"));
            let spec = json!({
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}},
            });
            let body = json!({"annotations": annotations, "spec": spec});
            self.add("v1", "PersistentVolumeClaim", &full, None, body);
        }
        for (name, entry) in project.section("volumes") {
            let unused = !entries(&project.model, "services")
                .iter()
                .any(|(_, s)| items(s, "volumes").iter().any(|m| m.text(&["source"]) == Some(name)));
            if unused {
                self.done(entry);
                self.tell(&entry.span, format!("volumes.{name} is lost: no service mounts it"));
            }
        }
    }

    /// The size that the file or the caller says, or one that is assumed.
    fn size(&mut self, name: &str, entry: &'a Node) -> String {
        if let Some(node) = entry.get(&["x-size"]) {
            let text = node.scalar().unwrap_or_default();
            if let Some(size) = quantity(&text) {
                return size;
            }
            self.tell(&node.span, format!("volumes.{name}.x-size: {text:?} is no size; write it like 10Gi"));
        }
        if let Some(size) = &self.options.volume_size {
            return size.clone();
        }
        let message = format!(
            "volumes.{name}: its size is assumed to be {ASSUMED_SIZE}; say x-size here or --volume-size"
        );
        self.tell(&entry.span, message);
        ASSUMED_SIZE.to_owned()
    }
}

/// A size as the cluster writes it: its own notation stays, that of Compose (`10gb`) becomes bytes.
pub fn quantity(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let units = ["", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];
    if number.parse::<u32>().is_ok_and(|n| n > 0) && units.contains(&unit) {
        return Some(text.to_owned());
    }
    crate::units::bytes(text).filter(|b| *b > 0).map(|b| b.to_string())
}

/// A name for a claim's volume that no other volume of the pod has.
fn mounts_name(mounts: &Mounts<'_>, claim: &str) -> String {
    let mut name = claim.to_owned();
    while mounts.volumes.iter().any(|v| v["name"] == name.as_str()) {
        name.push_str("-claim");
    }
    name
}

/// A key of a Secret or ConfigMap.
fn data_key(name: &str) -> String {
    let key: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(253)
        .collect();
    // Two dots in front are the kubelet's own.
    if key.is_empty() || key.starts_with("..") || key == "." { format!("x{key}") } else { key }
}

fn memory(name: &str, size: Option<&str>) -> Json {
    let mut volume = json!({"name": name, "emptyDir": {"medium": "Memory"}});
    if let Some(size) = size {
        volume["emptyDir"]["sizeLimit"] = json!(size);
    }
    volume
}
