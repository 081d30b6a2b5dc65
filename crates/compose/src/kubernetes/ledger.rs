//! Which values of a model were converted or reported; whatever is neither is reported as lost.
//!
//! Nothing is dropped in silence because nothing has to be remembered: a key that no line of the converter
//! reads is still here at the end.

use super::Converter;
use crate::load::SECTIONS;
use crate::node::{Node, Path, Span, Value};
use std::collections::HashSet;

/// Values by address; the model is borrowed as long as the conversion takes, so an address is one value.
#[derive(Debug, Default)]
pub(super) struct Ledger(HashSet<*const Node>);

/// Keys that say nothing when they are false.
const OFF: [&str; 13] = [
    "attachable",
    "disable",
    "enable_ipv6",
    "external",
    "init",
    "internal",
    "nocopy",
    "oom_kill_disable",
    "privileged",
    "read_only",
    "stdin_open",
    "tty",
    "use_api_socket",
];

/// Mappings in which a name without a value says something too.
const NAMES: [&str; 6] = ["args", "driver_opts", "environment", "models", "networks", "options"];

/// Why there is no like for some keys; a key below one of these has the same reason.
const REASONS: [(&str, &str); 34] = [
    ("services.*.attach", "there is no foreground to show its output in"),
    ("services.*.blkio_config", "a cluster does not limit input and output of disks"),
    ("services.*.build", "a cluster builds nothing; build and push the image yourself"),
    ("services.*.cgroup", "nodes decide on control groups"),
    ("services.*.cgroup_parent", "nodes decide on control groups"),
    ("services.*.cpuset", "nodes decide which processors a pod gets"),
    ("services.*.deploy.placement", "say it as affinity or nodeSelector of the pod"),
    ("services.*.deploy.rollback_config", "kubectl rollout undo goes back at once"),
    ("services.*.develop", "it is for work on one machine"),
    ("services.*.devices", "devices of nodes come from device plugins"),
    ("services.*.deploy.resources.reservations.devices", "ask for what a device plugin offers"),
    (
        "services.*.deploy.resources.limits.pids",
        "the kubelet limits processes, the same for all pods of a node",
    ),
    ("services.*.domainname", "pods are in the cluster's domain"),
    ("services.*.external_links", "there is nothing outside of the namespace to link to by this name"),
    ("services.*.gpus", "ask for what a device plugin offers"),
    ("services.*.init", "the image has to bring its own"),
    ("services.*.links", "an alias for one service only is unknown to the cluster's DNS"),
    ("services.*.logging", "nodes decide where logs go"),
    ("services.*.mac_address", "the cluster gives addresses"),
    ("services.*.models", "a cluster serves no models by itself"),
    ("services.*.networks", "the cluster has a network of its own"),
    ("services.*.oom_score_adj", "the kubelet sets it"),
    ("services.*.pids_limit", "the kubelet limits processes, the same for all pods of a node"),
    ("services.*.deploy.labels", "there is nothing between pods and containers to put them on"),
    ("services.*.deploy.restart_policy", "the kubelet waits longer after each failure by itself"),
    ("services.*.deploy.update_config", "a workload of this kind has nothing like it"),
    ("services.*.ports.*.host_ip", "a port is not on one address of a node"),
    ("services.*.ports.*.mode", "all nodes lead to a published port"),
    ("services.*.provider", "no container is behind it"),
    ("services.*.stop_signal", "the image's STOPSIGNAL holds"),
    ("services.*.ulimits", "the container runtime of the nodes decides"),
    ("networks", "the cluster has a network of its own"),
    ("volumes", "the storage class decides"),
    ("models", "a cluster serves no models by itself"),
];

/// Something that nobody cared for: its path, its place, itself.
type Lost<'a> = (Path, &'a Span, &'a Node);

impl Ledger {
    fn has(&self, node: &Node) -> bool {
        self.0.contains(&std::ptr::from_ref(node))
    }
}

impl<'a> Converter<'a> {
    /// Says that a value, with all below it, was converted or reported.
    pub(super) fn done(&mut self, node: &Node) {
        self.ledger.0.insert(std::ptr::from_ref(node));
    }

    /// Says so of what is below a chain of names, if there is something.
    pub(super) fn done_at(&mut self, node: &Node, path: &[&str]) {
        if let Some(found) = node.get(path) {
            self.done(found);
        }
    }

    /// Reports that a value, with all below it, does not arrive as it is.
    pub(super) fn lose(&mut self, node: &Node, message: impl Into<String>) {
        self.done(node);
        self.tell(&node.span, message);
    }

    /// A text to convert.
    pub(super) fn text(&mut self, node: &'a Node, path: &[&str]) -> Option<&'a str> {
        let found = node.get(path)?;
        let text = found.as_str()?;
        self.done(found);
        Some(text)
    }

    /// A whole number to convert.
    pub(super) fn int(&mut self, node: &'a Node, path: &[&str]) -> Option<i64> {
        let found = node.get(path)?;
        let number = found.as_int()?;
        self.done(found);
        Some(number)
    }

    /// Whether something is on.
    pub(super) fn flag(&mut self, node: &'a Node, path: &[&str]) -> bool {
        let Some(found) = node.get(path) else { return false };
        self.done(found);
        found.as_bool() == Some(true)
    }

    /// The texts of a list to convert.
    pub(super) fn texts(&mut self, node: &'a Node, key: &str) -> Vec<&'a str> {
        self.done_at(node, &[key]);
        super::items(node, key).iter().filter_map(Node::as_str).collect()
    }

    /// Reports what was neither converted nor reported.
    pub(super) fn leftovers(&mut self) {
        let project = self.project;
        let mut found: Vec<Lost<'a>> = Vec::new();
        for section in SECTIONS {
            let path = Path::default().join(section);
            for (key, entry) in project.model.get(&[section]).into_iter().flat_map(Node::entries) {
                let path = path.join(&key.name);
                if !self.walk(entry, &path, &mut found) {
                    found.push((path, &key.span, entry));
                }
            }
        }
        for (mut path, mut span, mut node) in found {
            // Who holds nothing else is named by what it holds.
            while let Some((key, only)) = node.as_map().filter(|m| m.len() == 1).and_then(|m| m.first()) {
                (path, span, node) = (path.join(&key.name), &key.span, only);
            }
            let why = REASONS.iter().find(|(pattern, _)| starts(&path, pattern)).map(|(_, why)| *why);
            self.tell(span, format!("{path} is lost: {}", why.unwrap_or("Kubernetes has nothing like it")));
        }
    }

    /// Whether anything of a value was converted or reported; if so, `out` has what was not.
    fn walk(&self, node: &'a Node, path: &Path, out: &mut Vec<Lost<'a>>) -> bool {
        if self.ledger.has(node) {
            return true;
        }
        let children: Vec<Lost<'a>> = match &node.value {
            Value::Null => {
                return !path.parts().iter().rev().nth(1).is_some_and(|p| NAMES.contains(&p.as_str()));
            }
            Value::Bool(false) => return path.parts().last().is_some_and(|p| OFF.contains(&p.as_str())),
            Value::Map(map) => {
                map.iter().map(|(key, value)| (path.join(&key.name), &key.span, value)).collect()
            }
            Value::Seq(items) => {
                let place = |i| path.join(&format!("[{i}]"));
                items.iter().enumerate().map(|(i, item)| (place(i), &item.span, item)).collect()
            }
            _ => return false,
        };
        let (mut any, mut lost) = (children.is_empty(), Vec::new());
        for (path, span, child) in children {
            if path.parts().last().is_some_and(|p| p.starts_with("x-")) {
                continue;
            }
            let before = out.len();
            if self.walk(child, &path, out) {
                // A null or a false alone is no sign that somebody cared for its siblings.
                any |= out.len() > before || self.ledger.has(child) || !says_nothing(child);
            } else {
                lost.push((path, span, child));
            }
        }
        if any || lost.is_empty() {
            out.extend(lost);
            return true;
        }
        false
    }
}

fn says_nothing(node: &Node) -> bool {
    matches!(node.value, Value::Null | Value::Bool(false))
}

/// Whether a path is at or below what a pattern names; a star is any one name.
fn starts(path: &Path, pattern: &str) -> bool {
    let mut parts = path.parts().iter();
    pattern.split('.').all(|p| parts.next().is_some_and(|name| p == "*" || p == name))
}
