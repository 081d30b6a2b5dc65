//! What has to be done to get from what is there to what is wanted: a pure function with a cause for each
//! step.
//!
//! A container runs in a pod sandbox of its own, or in that of the service whose namespaces it shares. Keys
//! of a service that make the sandbox are kept apart from those that make the container only: a change of
//! the latter leaves address, names and published ports as they are. Keys that say how a container is
//! treated change nothing that runs.

mod difference;
mod pods;

use crate::error::{Error, Result};
use crate::node::{Node, Path, Span};
use crate::print::json;
use crate::project::Project;
use crate::report::Weight;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most replicas of one service.
const MAX_REPLICAS: i64 = 10_000;

/// A container that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedContainer {
    /// Service it belongs to.
    pub service: String,
    /// Number among the replicas, from 1.
    pub number: u32,
    /// Canonical service that it was made from, as JSON.
    pub made_from: Json,
    /// Digest of the image it runs; empty if that is not known.
    pub image: String,
    /// Digests of the secrets and configs it was made with, by `secrets.name` and `configs.name`.
    pub contents: BTreeMap<String, String>,
    /// Whether it runs.
    pub running: bool,
}

/// What is there of a project.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Containers.
    pub containers: Vec<ObservedContainer>,
    /// Networks by full name, and what they were made from.
    pub networks: BTreeMap<String, Json>,
    /// Volumes by full name, and what they were made from.
    pub volumes: BTreeMap<String, Json>,
    /// Digests that the wanted images have now, by service; a service without one keeps its image.
    pub images: BTreeMap<String, String>,
    /// Digests that secrets and configs have now, by `secrets.name` and `configs.name`; one without stays.
    pub contents: BTreeMap<String, String>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Make a network.
    CreateNetwork,
    /// Remove a network that changed or belongs to nothing.
    RemoveNetwork,
    /// Make a volume.
    CreateVolume,
    /// Leave a volume as it is, although the file says otherwise: data is never thrown away.
    KeepVolume,
    /// Make a sandbox and the container in it.
    CreatePod,
    /// Replace the sandbox with all that is in it.
    RecreatePod,
    /// Replace the container, keep its sandbox.
    RecreateContainer,
    /// Treat a running container as the file says now; it keeps running.
    Update,
    /// Start a container that is there and stopped.
    Start,
    /// Stop and remove a container with its sandbox.
    RemovePod,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateNetwork => "create network",
            Self::RemoveNetwork => "remove network",
            Self::CreateVolume => "create volume",
            Self::KeepVolume => "keep volume",
            Self::CreatePod => "create pod",
            Self::RecreatePod => "recreate pod",
            Self::RecreateContainer => "recreate container",
            Self::Update => "update",
            Self::Start => "start",
            Self::RemovePod => "remove pod",
        })
    }
}

/// How far a service has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// It runs.
    Started,
    /// Its health check succeeds.
    Healthy,
    /// It ended with success.
    Completed,
    /// It is removed.
    Gone,
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "is started",
            Self::Healthy => "is healthy",
            Self::Completed => "has completed",
            Self::Gone => "is gone",
        })
    }
}

/// A service that a step waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait {
    /// Its name.
    pub service: String,
    /// How far it has to be.
    pub until: Until,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// What is done.
    pub action: Action,
    /// What it is done to: a network or volume by full name, a container as service and number.
    pub target: String,
    /// Why.
    pub cause: String,
    /// Place in a file that the cause lies in; none if it lies in what is there.
    pub at: Option<Span>,
    /// What has to be so before this step.
    pub after: Vec<Wait>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.action, self.target, self.cause)?;
        if let Some(at) = &self.at {
            write!(f, " ({at})")?;
        }
        for (i, wait) in self.after.iter().enumerate() {
            let word = if i == 0 { ", after" } else { " and" };
            write!(f, "{word} {} {}", wait.service, wait.until)?;
        }
        Ok(())
    }
}

/// Steps from what is there to what is wanted, in an order that can be carried out: pods that go and those on
/// networks that are replaced, networks and volumes, pods in the order they wait for each other, networks
/// that nobody uses any more.
///
/// # Errors
/// A project with something that cannot be run on one machine, and more replicas than can be.
pub fn plan(project: &Project, observed: &Observed) -> Result<Vec<Operation>> {
    if let Some(refused) = project.findings.iter().find(|f| f.weight == Weight::Refused) {
        return Err(match &refused.span {
            Some(span) => Error::at(span, refused.message.clone()),
            None => Error::nowhere(refused.message.clone()),
        });
    }
    let (stores, replaced) = stores(project, observed);
    let mut decider = pods::Decider { project, observed, replaced: &replaced, renewed: BTreeMap::new() };
    let services = project.services();
    let mut decisions = Vec::new();
    for name in order(project) {
        if let Some(service) = services.get(name.as_str()) {
            decisions.extend(decider.service(&name, service)?);
        }
    }
    let mut steps = pods::removals(project, observed, &decisions)?;
    steps.extend(stores);
    steps.extend(decisions.into_iter().map(pods::Decision::operation));
    let wanted: BTreeSet<&str> =
        project.section("networks").values().filter_map(|n| n.text(&["name"])).collect();
    for name in observed.networks.keys().filter(|n| !wanted.contains(n.as_str())) {
        steps.push(step(Action::RemoveNetwork, name, "no file names it".into(), None));
    }
    Ok(steps)
}

fn step(action: Action, target: &str, cause: String, at: Option<Span>) -> Operation {
    Operation { action, target: target.to_owned(), cause, at, after: Vec::new() }
}

/// Services in an order where each comes after those it waits for; equal ones by name.
pub fn order(project: &Project) -> Vec<String> {
    let services = project.services();
    let mut left: BTreeMap<&str, BTreeSet<String>> = services
        .iter()
        .map(|(name, s)| {
            let needed = needs(s).map(|(n, _)| n).filter(|n| services.contains_key(n.as_str()));
            (*name, needed.collect())
        })
        .collect();
    let mut found = Vec::new();
    while !left.is_empty() {
        // Loading refused circles; a model that was made otherwise is broken by name.
        let next = left.iter().find(|(_, n)| n.is_empty()).or_else(|| left.iter().next()).map(|(n, _)| *n);
        let Some(next) = next else { break };
        left.remove(next);
        for needs in left.values_mut() {
            needs.remove(next);
        }
        found.push(next.to_owned());
    }
    found
}

/// What a service waits for, sorted.
fn needs(service: &Node) -> impl Iterator<Item = (String, Until)> {
    let edges = service.get(&["depends_on"]).into_iter().flat_map(Node::entries);
    let found: BTreeMap<String, Until> = edges
        .map(|(key, edge)| {
            let until = match edge.text(&["condition"]) {
                Some("service_healthy") => Until::Healthy,
                Some("service_completed_successfully") => Until::Completed,
                _ => Until::Started,
            };
            (key.name.clone(), until)
        })
        .collect();
    found.into_iter()
}

fn replicas(name: &str, service: &Node) -> Result<u32> {
    let node = service.get(&["scale"]).or_else(|| service.get(&["deploy", "replicas"]));
    let count = node.and_then(Node::as_int).unwrap_or(1);
    match u32::try_from(count) {
        Ok(number) if count <= MAX_REPLICAS => Ok(number),
        _ => {
            let message = format!("services.{name}: {count} replicas; there can be 0 to {MAX_REPLICAS}");
            Err(Error::at(node.map_or(&service.span, |n| &n.span), message))
        }
    }
}

type Replaced = BTreeMap<String, (String, Option<Span>)>;

/// Networks and volumes; and the networks that are made anew, by their name in the file, with the cause.
fn stores(project: &Project, observed: &Observed) -> (Vec<Operation>, Replaced) {
    let (mut removed, mut created, mut replaced) = (Vec::new(), Vec::new(), Replaced::new());
    for (section, create) in [("networks", Action::CreateNetwork), ("volumes", Action::CreateVolume)] {
        let there = if section == "networks" { &observed.networks } else { &observed.volumes };
        for (name, entry) in project.section(section) {
            if entry.get(&["external"]).is_some() {
                continue;
            }
            let full = entry.text(&["name"]).unwrap_or(name);
            let Some(old) = there.get(full) else {
                created.push(step(create, full, "it is not there".into(), Some(entry.span.clone())));
                continue;
            };
            if *old == json(entry, false) {
                continue;
            }
            let path = Path::default().join(section).join(name);
            let (path, at) = difference::difference(old, entry, &path);
            let cause = format!("{path} changed");
            if section == "volumes" {
                created.push(step(Action::KeepVolume, full, cause, Some(at)));
                continue;
            }
            removed.push(step(Action::RemoveNetwork, full, cause.clone(), Some(at.clone())));
            created.push(step(create, full, cause.clone(), Some(at.clone())));
            replaced.insert(name.to_owned(), (cause, Some(at)));
        }
    }
    removed.extend(created);
    (removed, replaced)
}
