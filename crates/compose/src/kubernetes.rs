//! Kubernetes manifests that do what a project does, and a list of what they cannot do.
//!
//! A service becomes a Deployment, a StatefulSet (it has a named volume) or a Job (others wait for its end);
//! services in one network namespace become one pod. The result depends on the project, the contents of its
//! files and the options only, never on time.

mod address;
mod container;
mod ledger;
mod names;
mod probes;
mod resources;
mod security;
mod storage;
mod workload;

use crate::files::Files;
use crate::node::{Node, Span};
use crate::project::Project;
use crate::report::{Finding, Weight};
use names::{Names, label_value};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

pub use storage::quantity;

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
    /// On the published port of the node that a pod runs on.
    HostPort,
}

/// What the files do not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How published ports are reached.
    pub publish: Publish,
    /// Size of volumes that have no `x-size`, e.g. `10Gi`; none means 1Gi, which is reported.
    pub volume_size: Option<String>,
}

/// Manifests and what was lost on the way to them.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// Manifests in the order they are to be applied.
    pub manifests: Vec<Json>,
    /// What the manifests do not do, or do otherwise, in the order of its places.
    pub losses: Vec<Finding>,
}

impl Conversion {
    /// All manifests as one YAML text.
    pub fn yaml(&self) -> String {
        self.manifests.iter().map(|m| format!("---\n{}", crate::print::yaml_of_json(m))).collect()
    }

    /// The losses for programs: a list of file, line, column (null where there is no place) and message.
    pub fn report(&self) -> Json {
        let loss = |loss: &Finding| {
            let at = loss.span.as_ref();
            json!({
                "file": at.map(Span::file),
                "line": at.map(Span::line),
                "column": at.map(Span::column),
                "message": loss.message,
            })
        };
        self.losses.iter().map(loss).collect()
    }
}

/// Order in which kinds are applied.
const KINDS: [&str; 8] = [
    "ConfigMap",
    "Secret",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "Service",
    "StatefulSet",
    "Deployment",
    "Job",
];

/// Converts a project; contents of secrets, configs and small bound files are read from `files`.
///
/// Every value of the model is in the manifests, or its loss is in the report.
pub fn convert(project: &Project, files: &dyn Files, options: &Options) -> Conversion {
    let mut converter = Converter {
        project,
        files,
        options,
        losses: Vec::new(),
        manifests: Vec::new(),
        names: Names::default(),
        ledger: ledger::Ledger::default(),
        awaited: BTreeSet::new(),
        mounted: BTreeMap::new(),
        isolated: false,
        internal: false,
    };
    converter.run();
    let Converter { mut manifests, mut losses, .. } = converter;
    manifests.sort_by_key(|m| {
        let kind = m["kind"].as_str().unwrap_or_default();
        let rank = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len());
        (rank, m["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    });
    let place = |s: &Span| (s.file().to_owned(), s.line(), s.column());
    losses.sort_by_key(|l| (l.span.as_ref().map(place), l.message.clone()));
    losses.dedup();
    Conversion { manifests, losses }
}

struct Converter<'a> {
    project: &'a Project,
    files: &'a dyn Files,
    options: &'a Options,
    losses: Vec<Finding>,
    manifests: Vec<Json>,
    names: Names,
    ledger: ledger::Ledger,
    /// Services that others wait for the end of.
    awaited: BTreeSet<&'a str>,
    /// How many pods mount a volume.
    mounted: BTreeMap<&'a str, i64>,
    /// Whether networks keep services apart.
    isolated: bool,
    /// Whether some network has no way out.
    internal: bool,
}

impl<'a> Converter<'a> {
    fn run(&mut self) {
        let project = self.project;
        let services = project.services();
        self.name_all();
        for (name, service) in &services {
            let safe = self.name(name);
            if safe != *name {
                self.tell(&service.span, format!("services.{name} is called {safe} in the cluster"));
            }
            // Which services are on is the caller's choice, and made.
            self.done_at(service, &["profiles"]);
            for (to, edge) in entries(service, "depends_on") {
                if edge.text(&["condition"]) == Some("service_completed_successfully") {
                    self.awaited.insert(to.name.as_str());
                }
                self.done(edge);
                self.tell(
                    &to.span,
                    format!("services.{name}.depends_on.{}: pods start in no order", to.name),
                );
            }
        }
        let used: BTreeSet<&str> = services
            .values()
            .flat_map(|s| entries(s, "networks"))
            .map(|(key, _)| key.name.as_str())
            .collect();
        self.internal =
            project.section("networks").iter().any(|(n, e)| used.contains(n) && is_true(e, "internal"));
        self.isolated = used.len() > 1 || self.internal;
        self.contents();
        for (name, service) in &services {
            if let Some(provider) = service.get(&["provider"]) {
                self.done(service);
                self.tell(
                    &provider.span,
                    format!("services.{name}.provider is lost: no container is behind it"),
                );
                continue;
            }
            if self.leader(name) != *name {
                continue;
            }
            let mut members: Vec<(&'a str, &'a Node)> = vec![(*name, *service)];
            members.extend(
                services.iter().filter(|(n, _)| *n != name && self.leader(n) == *name).map(|(n, s)| (*n, *s)),
            );
            self.workload(&members);
        }
        self.claims();
        for network in used {
            self.network(network);
        }
        self.leftovers();
    }

    fn name_all(&mut self) {
        let project = self.project;
        let same = |n: &'a str| (n, n.to_owned());
        self.names.give_all("services", project.services().into_keys().map(same));
        self.names.give_all("policies", project.section("networks").into_keys().map(same));
        for section in ["volumes", "secrets", "configs"] {
            let entries = project.section(section);
            // What is there already keeps its name; what the file names itself is called so.
            for (key, entry) in &entries {
                if let (Some(name), Some(_)) = (entry.text(&["name"]), entry.get(&["external"])) {
                    self.names.give(section_kind(section), key, name);
                }
            }
            let own = entries.iter().filter(|(_, e)| e.get(&["external"]).is_none()).map(|(key, entry)| {
                let default = format!("{}_{key}", project.name);
                let plain = if section == "volumes" {
                    (*key).to_owned()
                } else {
                    format!("{}-{key}", section.trim_end_matches('s'))
                };
                (*key, entry.text(&["name"]).filter(|n| *n != default).map_or(plain, str::to_owned))
            });
            let own: Vec<_> = own.collect();
            self.names.give_all(section_kind(section), own);
        }
    }

    /// The service whose network namespace a service is in, over any number of steps.
    fn leader(&self, name: &'a str) -> &'a str {
        let services = self.project.services();
        let mut found = name;
        for _ in 0..services.len() {
            let mode = services.get(found).and_then(|s| s.text(&["network_mode"]));
            match mode.and_then(|m| m.strip_prefix("service:")).filter(|o| services.contains_key(o)) {
                Some(other) => found = other,
                None => return found,
            }
        }
        name
    }

    /// Reports something that belongs to a place.
    fn tell(&mut self, span: &Span, message: impl Into<String>) {
        let span = Some(span.clone());
        self.losses.push(Finding { weight: Weight::Reported, message: message.into(), span });
    }

    fn add(&mut self, version: &str, kind: &str, name: &str, service: Option<&str>, body: Json) {
        let mut manifest = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "labels": self.labels(service)},
        });
        if let (Some(whole), Json::Object(body)) = (manifest.as_object_mut(), body) {
            for (key, value) in body {
                if key == "annotations" {
                    if value.as_object().is_some_and(|a| !a.is_empty()) {
                        whole["metadata"]["annotations"] = value;
                    }
                } else {
                    whole.insert(key, value);
                }
            }
        }
        self.manifests.push(manifest);
    }

    fn labels(&self, service: Option<&str>) -> Json {
        let mut labels = json!({"app.kubernetes.io/part-of": label_value(&self.project.name)});
        if let Some(service) = service {
            labels["app.kubernetes.io/name"] = json!(self.name(service));
        }
        labels
    }

    /// Name of a service in the cluster.
    fn name(&self, service: &str) -> String {
        self.names.of("services", service)
    }

    /// Labels as annotations, since their values are free text; what cannot be one is reported.
    fn annotations(&mut self, node: &'a Node, keys: &[&str], place: &str) -> Json {
        let mut found = json!({});
        for key in keys {
            for (name, value) in entries(node, key) {
                self.done(value);
                let full = format!("{place}.{key}.{}", name.name);
                if !names::is_annotation(&name.name) {
                    self.tell(&name.span, format!("{full} is lost: no annotation can have this name"));
                } else if found.get(&name.name).is_some() {
                    self.tell(&name.span, format!("{full} takes the place of the label of this name"));
                    found[&name.name] = json!(value.scalar().unwrap_or_default());
                } else {
                    found[&name.name] = json!(value.scalar().unwrap_or_default());
                }
            }
        }
        found
    }
}

/// Kind of object that an entry of a section becomes, for names.
fn section_kind(section: &str) -> &'static str {
    match section {
        "volumes" => "claims",
        "secrets" => "secrets",
        _ => "configs",
    }
}

/// Items of the list under a name.
fn items<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    node.get(&[key]).map(Node::items).unwrap_or_default()
}

/// Entries of the mapping under a name, sorted: their order in the file says nothing.
fn entries<'n>(node: &'n Node, key: &str) -> Vec<(&'n crate::node::Key, &'n Node)> {
    let mut found: Vec<_> = node.get(&[key]).into_iter().flat_map(Node::entries).collect();
    found.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    found
}

fn is_true(node: &Node, key: &str) -> bool {
    node.get(&[key]).and_then(Node::as_bool) == Some(true)
}

/// Whole seconds of a canonical time, rounded up.
fn seconds(text: &str) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    let nanoseconds = crate::finish::nanoseconds(text).max(0);
    nanoseconds / SECOND + i64::from(nanoseconds % SECOND != 0)
}
