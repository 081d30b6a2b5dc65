//! Volumes, secrets and configs.

use super::{Converter, dns_name};
use crate::node::Node;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// Largest content of a secret, a config or a bound file, in bytes; the cluster takes a mebibyte.
const MAX_CONTENT: usize = 1 << 20;

impl Converter<'_> {
    /// Secrets and configs of the project.
    pub(super) fn contents(&mut self) {
        for (section, kind, field) in [("secrets", "Secret", "stringData"), ("configs", "ConfigMap", "data")]
        {
            for (name, entry) in self.project.section(section) {
                if entry.get(&["external"]).is_some() {
                    continue;
                }
                match self.content(entry) {
                    Ok(text) => {
                        let full = content_name(section, name);
                        self.add("v1", kind, &full, None, json!({field: {dns_name(name): text}}));
                    }
                    Err(why) => self.lose(&entry.span, format!("{section}.{name}: {why}")),
                }
            }
        }
    }

    fn content(&self, entry: &Node) -> Result<String, String> {
        if let Some(text) = entry.text(&["content"]) {
            return Ok(text.to_owned());
        }
        if let Some(variable) = entry.text(&["environment"]) {
            let value = self.project.environment.get(variable);
            return value.cloned().ok_or_else(|| format!("variable {variable} is not set"));
        }
        self.text_file(entry.text(&["file"]).unwrap_or_default())
    }

    fn text_file(&self, path: &str) -> Result<String, String> {
        let content = self.files.read(path, MAX_CONTENT).map_err(|e| format!("cannot read {path}: {e}"))?;
        String::from_utf8(content).map_err(|_| format!("{path} is no UTF-8 text"))
    }

    /// Mounts of a container; what they need of the pod is added to `volumes`.
    pub(super) fn mounts(&mut self, name: &str, service: &Node, volumes: &mut Vec<Json>) -> Vec<Json> {
        let mut found = Vec::new();
        let own = self.name(name);
        for (i, mount) in service.get(&["volumes"]).map(Node::items).unwrap_or_default().iter().enumerate() {
            let target = mount.text(&["target"]).unwrap_or_default();
            let source = mount.text(&["source"]);
            let read_only = mount.get(&["read_only"]).and_then(Node::as_bool) == Some(true);
            let volume = numbered(&own, "volume", i);
            let mut entry = json!({"name": volume, "mountPath": target});
            if read_only {
                entry["readOnly"] = json!(true);
            }
            match (mount.text(&["type"]).unwrap_or_default(), source) {
                ("volume", Some(source)) => {
                    let claim = dns_name(source);
                    entry["name"] = json!(claim);
                    if let Some(path) = mount.text(&["volume", "subpath"]) {
                        entry["subPath"] = json!(path);
                    }
                    let pod = json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
                    if !volumes.contains(&pod) {
                        volumes.push(pod);
                    }
                }
                ("volume", None) => volumes.push(json!({"name": volume, "emptyDir": {}})),
                ("tmpfs", _) => volumes.push(memory(&volume, mount.text(&["tmpfs", "size"]))),
                ("bind", Some(source)) => {
                    self.bind(name, mount, source, &volume, &mut entry, volumes);
                }
                (kind, _) => {
                    self.lose(
                        &mount.span,
                        format!("services.{name}.volumes: a mount of type {kind} is lost"),
                    );
                    continue;
                }
            }
            found.push(entry);
        }
        for (i, tmpfs) in service.get(&["tmpfs"]).map(Node::items).unwrap_or_default().iter().enumerate() {
            let text = tmpfs.as_str().unwrap_or_default();
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            let volume = numbered(&own, "tmpfs", i);
            let size = options.split(',').find_map(|o| o.strip_prefix("size=")).and_then(crate::units::bytes);
            volumes.push(memory(&volume, size.map(|s| s.to_string()).as_deref()));
            found.push(json!({"name": volume, "mountPath": path}));
        }
        if let Some(size) = service.text(&["shm_size"]) {
            let volume = numbered(&own, "shm", 0);
            volumes.push(memory(&volume, Some(size)));
            found.push(json!({"name": volume, "mountPath": "/dev/shm"}));
        }
        for (section, field) in [("secrets", "secret"), ("configs", "configMap")] {
            let items = service.get(&[section]).map(Node::items).unwrap_or_default();
            for (i, item) in items.iter().enumerate() {
                let source = item.text(&["source"]).unwrap_or_default();
                let volume = numbered(&own, field.to_lowercase().as_str(), i);
                let external = self.project.model.get(&[section, source, "external"]).is_some();
                let full = match self.project.model.text(&[section, source, "name"]) {
                    Some(name) if external => dns_name(name),
                    _ => content_name(section, source),
                };
                let key = dns_name(source);
                let mut pod =
                    if section == "secrets" { json!({"secretName": full}) } else { json!({"name": full}) };
                if let Some(mode) = item.get(&["mode"]).and_then(Node::as_int) {
                    pod["defaultMode"] = json!(mode);
                }
                for owner in ["uid", "gid"] {
                    if let Some(node) = item.get(&[owner]) {
                        self.lose(&node.span, format!("services.{name}.{section}: {owner} is lost"));
                    }
                }
                volumes.push(json!({"name": volume, field: pod}));
                let target = item.text(&["target"]).unwrap_or_default();
                found.push(json!({"name": volume, "mountPath": target, "subPath": key, "readOnly": true}));
            }
        }
        found
    }

    /// A small text file that is only read becomes a config; everything else stays on its node.
    fn bind(
        &mut self,
        name: &str,
        mount: &Node,
        source: &str,
        volume: &str,
        entry: &mut Json,
        volumes: &mut Vec<Json>,
    ) {
        let read_only = entry["readOnly"] == true;
        let inside = source.starts_with(&format!("{}/", self.project.directory.trim_end_matches('/')));
        if let Some(text) = (read_only && inside).then(|| self.text_file(source).ok()).flatten() {
            let key = source.rsplit('/').next().unwrap_or_default();
            let key: String = key
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
                .collect();
            self.add("v1", "ConfigMap", volume, Some(name), json!({"data": {key.clone(): text}}));
            volumes.push(json!({"name": volume, "configMap": {"name": volume}}));
            entry["subPath"] = json!(key);
            return;
        }
        let message = format!("services.{name}.volumes: {source} has to be on the node that the pod runs on");
        self.lose(&mount.span, message);
        volumes.push(json!({"name": volume, "hostPath": {"path": source}}));
    }

    /// A claim for each named volume that a service mounts.
    pub(super) fn claims(&mut self) {
        let project = self.project;
        let used: BTreeSet<&str> = project
            .services()
            .values()
            .flat_map(|s| s.get(&["volumes"]).map(Node::items).unwrap_or_default())
            .filter(|m| m.text(&["type"]) == Some("volume"))
            .filter_map(|m| m.text(&["source"]))
            .collect();
        for name in used {
            let entry = project.model.get(&["volumes", name]);
            if entry.is_some_and(|e| e.get(&["external"]).is_some()) {
                continue;
            }
            if let Some(options) = entry.and_then(|e| e.get(&["driver_opts"])) {
                self.lose(&options.span, format!("volumes.{name}.driver_opts: the storage class decides"));
            }
            let spec = json!({
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            });
            self.add("v1", "PersistentVolumeClaim", &dns_name(name), None, json!({"spec": spec}));
        }
    }
}

fn content_name(section: &str, name: &str) -> String {
    format!("{}-{}", section.trim_end_matches('s'), dns_name(name))
}

/// A name below a service that fits into a label.
fn numbered(service: &str, what: &str, number: usize) -> String {
    let front: String = service.chars().take(45).collect();
    format!("{}-{what}-{number}", front.trim_end_matches('-'))
}

fn memory(name: &str, size: Option<&str>) -> Json {
    let mut volume = json!({"name": name, "emptyDir": {"medium": "Memory"}});
    if let Some(size) = size {
        volume["emptyDir"]["sizeLimit"] = json!(size);
    }
    volume
}
