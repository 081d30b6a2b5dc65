//! What a caller ought to know: what a single machine cannot do, and what files leave to chance.

use crate::load::Loader;
use crate::node::{Node, Span};

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The files leave something to chance.
    Noted,
    /// It has no effect here.
    Reported,
    /// The project cannot be run with it.
    Refused,
}

/// Something that is understood, but not done.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// What it is, and why.
    pub message: String,
    /// Where it is written.
    pub span: Option<Span>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(span) = &self.span {
            write!(f, "{span}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What loading found: variables without a value, and `version`.
pub fn loading(loader: &Loader<'_>) -> Vec<Finding> {
    let missing = loader.missing.iter().map(|name| Finding {
        weight: Weight::Noted,
        message: format!("variable {name} is not set; an empty text stands for it"),
        span: None,
    });
    let versions = loader.versions.iter().map(|span| Finding {
        weight: Weight::Noted,
        message: "version means nothing any more and can be left out".into(),
        span: Some(span.clone()),
    });
    missing.chain(versions).collect()
}

const SWARM: &str = "only a cluster can do it";
const WINDOWS: &str = "only Windows has it";
const ELSEWHERE: &str = "it needs a helper program of Docker";

/// Keys below a service that are refused or have no effect, and why.
const KEYS: [(&[&str], Weight, &str); 19] = [
    (&["provider"], Weight::Refused, ELSEWHERE),
    (&["models"], Weight::Refused, ELSEWHERE),
    (&["use_api_socket"], Weight::Refused, "there is no Docker socket"),
    (&["credential_spec"], Weight::Refused, WINDOWS),
    (&["cpu_count"], Weight::Refused, WINDOWS),
    (&["cpu_percent"], Weight::Refused, WINDOWS),
    (&["cpu_rt_period"], Weight::Refused, "the kernel's cgroup v2 has no realtime limits"),
    (&["cpu_rt_runtime"], Weight::Refused, "the kernel's cgroup v2 has no realtime limits"),
    (&["storage_opt"], Weight::Noted, "layers have no quota"),
    (&["deploy", "placement"], Weight::Noted, SWARM),
    (&["deploy", "endpoint_mode"], Weight::Noted, SWARM),
    (&["deploy", "labels"], Weight::Noted, SWARM),
    (&["deploy", "rollback_config"], Weight::Noted, SWARM),
    (&["deploy", "update_config", "max_failure_ratio"], Weight::Noted, SWARM),
    (&["deploy", "resources", "reservations", "generic_resources"], Weight::Noted, SWARM),
    (&["mem_swappiness"], Weight::Noted, "the kernel's cgroup v2 does not have it"),
    (&["oom_kill_disable"], Weight::Noted, "the kernel's cgroup v2 does not have it"),
    (&["mac_address"], Weight::Noted, "say it under networks"),
    (&["label_file"], Weight::Noted, "it was read into labels"),
];

/// What a single machine cannot do with a model, each with its place.
pub fn unsupported(model: &Node) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |weight, path: String, why: &str, span: &Span| {
        let verb = if weight == Weight::Refused { "is not supported" } else { "has no effect" };
        found.push(Finding { weight, message: format!("{path} {verb}: {why}"), span: Some(span.clone()) });
    };
    for section in ["models", "jobs"] {
        for (key, _) in model.get(&[section]).into_iter().flat_map(Node::entries) {
            add(Weight::Refused, format!("{section}.{}", key.name), ELSEWHERE, &key.span);
        }
    }
    for (key, service) in model.get(&["services"]).into_iter().flat_map(Node::entries) {
        let name = &key.name;
        for (path, weight, why) in KEYS {
            if let Some(node) = service.get(path).filter(|n| n.as_bool() != Some(false)) {
                add(weight, format!("services.{name}.{}", path.join(".")), why, &node.span);
            }
        }
        if let Some(mode) = service.get(&["deploy", "mode"]).filter(|m| m.as_str() != Some("replicated")) {
            add(Weight::Reported, format!("services.{name}.deploy.mode"), SWARM, &mode.span);
        }
        if let Some(node) = service.get(&["isolation"]).filter(|n| n.as_str() != Some("default")) {
            add(Weight::Refused, format!("services.{name}.isolation"), WINDOWS, &node.span);
        }
        for mount in service.get(&["volumes"]).map(Node::items).unwrap_or_default() {
            let kind = mount.text(&["type"]).unwrap_or_default();
            if matches!(kind, "npipe" | "cluster") {
                let why = if kind == "npipe" { WINDOWS } else { SWARM };
                add(Weight::Refused, format!("services.{name}.volumes of type {kind}"), why, &mount.span);
            }
        }
        if let Some(driver) = service.get(&["logging", "driver"])
            && !matches!(driver.as_str(), Some("json-file" | "local" | "none"))
        {
            let path = format!("services.{name}.logging.driver");
            add(Weight::Reported, path, "logs are kept in files on this machine", &driver.span);
        }
    }
    for (key, network) in model.get(&["networks"]).into_iter().flat_map(Node::entries) {
        let name = &key.name;
        if let Some(driver) = network.get(&["driver"])
            && !matches!(driver.as_str(), Some("bridge" | "macvlan" | "ipvlan" | "host" | "none" | "default"))
        {
            add(
                Weight::Refused,
                format!("networks.{name}.driver"),
                "there are bridge, macvlan, ipvlan",
                &driver.span,
            );
        }
        if let Some(node) = network.get(&["attachable"]).filter(|n| n.as_bool() == Some(true)) {
            add(Weight::Reported, format!("networks.{name}.attachable"), SWARM, &node.span);
        }
    }
    for (key, volume) in model.get(&["volumes"]).into_iter().flat_map(Node::entries) {
        if let Some(driver) = volume.get(&["driver"]).filter(|d| d.as_str() != Some("local")) {
            add(Weight::Refused, format!("volumes.{}.driver", key.name), "there is only local", &driver.span);
        }
    }
    for section in ["secrets", "configs"] {
        for (key, entry) in model.get(&[section]).into_iter().flat_map(Node::entries) {
            for name in ["driver", "template_driver"] {
                if let Some(node) = entry.get(&[name]) {
                    add(Weight::Refused, format!("{section}.{}.{name}", key.name), SWARM, &node.span);
                }
            }
        }
    }
    found
}
