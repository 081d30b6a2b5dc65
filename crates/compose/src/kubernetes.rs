//! Kubernetes manifests that do what a project does, and a list of what they cannot do.
//!
//! A service becomes a Deployment, a StatefulSet (it has a named volume) or a Job (others wait for its end);
//! services in one network namespace become one pod. The result depends on the project only, never on time.

mod container;
mod storage;
mod workload;

use crate::files::Files;
use crate::node::{Node, Span};
use crate::project::Project;
use crate::report::{Finding, Weight};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// How ports that are published on the host are reached in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Publish {
    /// From inside of the cluster only; reported as a loss.
    #[default]
    ClusterIp,
    /// On a port of every node that the cluster chooses.
    NodePort,
    /// By the cluster's load balancer.
    LoadBalancer,
}

/// Manifests and what was lost on the way to them.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// Manifests in the order they are to be applied.
    pub manifests: Vec<Json>,
    /// What the manifests do not do.
    pub losses: Vec<Finding>,
}

impl Conversion {
    /// All manifests as one YAML text.
    pub fn yaml(&self) -> String {
        self.manifests.iter().map(|m| format!("---\n{}", crate::print::yaml_of_json(m))).collect()
    }
}

/// Converts a project; contents of secrets, configs and small bound files are read from `files`.
pub fn convert(project: &Project, files: &dyn Files, publish: Publish) -> Conversion {
    let mut converter = Converter {
        project,
        files,
        publish,
        losses: Vec::new(),
        manifests: Vec::new(),
        names: BTreeMap::new(),
        awaited: BTreeSet::new(),
        isolated: false,
    };
    converter.run();
    let Converter { mut manifests, losses, .. } = converter;
    let rank = |kind: &str| {
        let order = [
            "ConfigMap",
            "Secret",
            "PersistentVolumeClaim",
            "NetworkPolicy",
            "Service",
            "StatefulSet",
            "Deployment",
            "Job",
        ];
        order.iter().position(|k| *k == kind).unwrap_or(order.len())
    };
    let key = |m: &Json| {
        let text = |v: &Json| v.as_str().unwrap_or_default().to_owned();
        (rank(m["kind"].as_str().unwrap_or_default()), text(&m["metadata"]["name"]))
    };
    manifests.sort_by_key(key);
    Conversion { manifests, losses }
}

struct Converter<'a> {
    project: &'a Project,
    files: &'a dyn Files,
    publish: Publish,
    losses: Vec<Finding>,
    manifests: Vec<Json>,
    /// Names of the cluster by names of the file.
    names: BTreeMap<String, String>,
    /// Services that others wait for the end of.
    awaited: BTreeSet<String>,
    /// Whether networks keep services apart.
    isolated: bool,
}

impl<'a> Converter<'a> {
    fn run(&mut self) {
        let project = self.project;
        let services = project.services();
        for finding in &project.findings {
            if finding.weight == Weight::Refused {
                self.losses.push(finding.clone());
            }
        }
        for (name, service) in &services {
            let safe = dns_name(name);
            if safe != *name {
                self.lose(&service.span, format!("services.{name} is called {safe} in the cluster"));
            }
            self.names.insert((*name).to_owned(), safe);
            for (to, edge) in service.get(&["depends_on"]).into_iter().flat_map(Node::entries) {
                if edge.text(&["condition"]) == Some("service_completed_successfully") {
                    self.awaited.insert(to.name.clone());
                }
                let message = format!("services.{name}.depends_on.{}: pods start in no order", to.name);
                self.lose(&to.span, message);
            }
        }
        let used: BTreeSet<&str> = services
            .values()
            .flat_map(|s| s.get(&["networks"]).into_iter().flat_map(Node::entries))
            .map(|(key, _)| key.name.as_str())
            .collect();
        let internal = project.section("networks").values().any(|n| is_true(n, "internal"));
        self.isolated = used.len() > 1 || internal;
        self.contents();
        for (name, service) in &services {
            if leader(service).is_some_and(|other| services.contains_key(other)) {
                continue;
            }
            let members: Vec<(&str, &Node)> =
                services.iter().filter(|(_, s)| leader(s) == Some(*name)).map(|(n, s)| (*n, *s)).collect();
            self.workload(name, service, &members);
        }
        self.claims();
        if self.isolated {
            for network in used {
                self.network(network);
            }
        }
    }

    fn lose(&mut self, span: &Span, message: impl Into<String>) {
        let message = message.into();
        let finding = Finding { weight: Weight::Reported, message, span: Some(span.clone()) };
        if !self.losses.contains(&finding) {
            self.losses.push(finding);
        }
    }

    fn add(&mut self, version: &str, kind: &str, name: &str, service: Option<&str>, body: Json) {
        let mut manifest = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "labels": self.labels(service)},
        });
        if let (Some(whole), Json::Object(body)) = (manifest.as_object_mut(), body) {
            whole.extend(body);
        }
        self.manifests.push(manifest);
    }

    fn labels(&self, service: Option<&str>) -> Json {
        let mut labels = json!({"app.kubernetes.io/part-of": self.project.name});
        if let Some(service) = service {
            labels["app.kubernetes.io/name"] = json!(self.name(service));
        }
        labels
    }

    fn name(&self, service: &str) -> String {
        self.names.get(service).cloned().unwrap_or_else(|| dns_name(service))
    }

    /// Pods of a network hear each other; those of internal networks say nothing to anybody else.
    fn network(&mut self, name: &str) {
        let label = json!({network_label(name): "true"});
        let peers = json!([{"podSelector": {"matchLabels": label}}]);
        let mut spec = json!({
            "podSelector": {"matchLabels": label},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}],
        });
        let network = self.project.model.get(&["networks", name]);
        if network.is_some_and(|n| is_true(n, "internal")) {
            let dns = json!([{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]);
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
            spec["egress"] = json!([{"to": peers}, {"ports": dns}]);
        }
        for key in ["ipam", "driver", "driver_opts", "enable_ipv6"] {
            if let Some(node) = network.and_then(|n| n.get(&[key])) {
                self.lose(&node.span, format!("networks.{name}.{key}: the cluster has a network of its own"));
            }
        }
        self.add("networking.k8s.io/v1", "NetworkPolicy", &dns_name(name), None, json!({"spec": spec}));
    }
}

/// The service whose network namespace a service is in.
fn leader(service: &Node) -> Option<&str> {
    service.text(&["network_mode"])?.strip_prefix("service:")
}

fn is_true(node: &Node, key: &str) -> bool {
    node.get(&[key]).and_then(Node::as_bool) == Some(true)
}

fn network_label(name: &str) -> String {
    format!("network.compose/{}", dns_name(name))
}

/// A name that the cluster takes: small letters, digits and dashes, at most 63.
fn dns_name(name: &str) -> String {
    let safe: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(63)
        .collect();
    let safe = safe.trim_matches('-');
    if safe.is_empty() { "x".to_owned() } else { safe.to_owned() }
}
