//! What has to be done to get from what is there to what is wanted: a pure function with a cause for each step.
//!
//! A container runs in a pod sandbox of its own, or in that of the service whose network namespace it shares.
//! Keys of a service that make the sandbox are kept apart from those that make the container only: a change of
//! the latter leaves address, names and published ports as they are.

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

/// Keys of a service that its sandbox is made of.
const SANDBOX: [&str; 18] = [
    "hostname",
    "domainname",
    "networks",
    "network_mode",
    "ports",
    "dns",
    "dns_opt",
    "dns_search",
    "sysctls",
    "shm_size",
    "userns_mode",
    "ipc",
    "pid",
    "uts",
    "cgroup_parent",
    "runtime",
    "mac_address",
    "extra_hosts",
];

/// Keys of a service that say how to treat its containers, not what they are.
const ASIDE: [&str; 9] = [
    "build",
    "pull_policy",
    "scale",
    "depends_on",
    "profiles",
    "develop",
    "restart",
    "stop_grace_period",
    "attach",
];

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
    /// Make a sandbox and the container in it.
    CreatePod,
    /// Replace the sandbox with all that is in it.
    RecreatePod,
    /// Replace the container, keep its sandbox.
    RecreateContainer,
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
            Self::CreatePod => "create pod",
            Self::RecreatePod => "recreate pod",
            Self::RecreateContainer => "recreate container",
            Self::Start => "start",
            Self::RemovePod => "remove pod",
        })
    }
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
    /// Place in a file that the cause lies in.
    pub at: Option<Span>,
    /// Services that have to be up (for removal: gone) before this step.
    pub after: Vec<String>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.action, self.target, self.cause)?;
        if let Some(at) = &self.at {
            write!(f, " ({at})")?;
        }
        if !self.after.is_empty() {
            write!(f, " after {}", self.after.join(", "))?;
        }
        Ok(())
    }
}

/// Steps from what is there to what is wanted, in an order that can be carried out.
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
    let order = order(project);
    let mut steps = Vec::new();
    let changed = networks(project, observed, &mut steps);
    removals(project, observed, &order, &mut steps)?;
    let mut recreated: BTreeMap<String, Action> = BTreeMap::new();
    for name in &order {
        let Some(service) = project.services().get(name.as_str()).copied() else { continue };
        pods(project, observed, name, service, &changed, &mut recreated, &mut steps)?;
    }
    Ok(steps)
}

/// Services in an order where each comes after those it waits for; equal ones by name.
pub fn order(project: &Project) -> Vec<String> {
    let services = project.services();
    let mut left: BTreeMap<&str, BTreeSet<&str>> = services
        .iter()
        .map(|(name, s)| (*name, needs(s).filter(|n| services.contains_key(n)).collect()))
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

fn needs(service: &Node) -> impl Iterator<Item = &str> {
    service.get(&["depends_on"]).into_iter().flat_map(Node::entries).map(|(key, _)| key.name.as_str())
}

fn replicas(name: &str, service: &Node) -> Result<u32> {
    let node = service.get(&["scale"]).or_else(|| service.get(&["deploy", "replicas"]));
    let count = node.and_then(Node::as_int).unwrap_or(1);
    match u32::try_from(count) {
        Ok(number) if count <= MAX_REPLICAS => Ok(number),
        _ => {
            let message = format!("services.{name}: {count} replicas are more than {MAX_REPLICAS}");
            Err(Error::at(node.map_or(&service.span, |n| &n.span), message))
        }
    }
}

/// Networks and volumes; returns the networks that are made anew, by their name in the file.
fn networks(project: &Project, observed: &Observed, steps: &mut Vec<Operation>) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    let mut step = |action, target: &str, cause: String, at: Option<Span>| {
        steps.push(Operation { action, target: target.to_owned(), cause, at, after: Vec::new() });
    };
    for (section, create) in [("networks", Action::CreateNetwork), ("volumes", Action::CreateVolume)] {
        let there = if section == "networks" { &observed.networks } else { &observed.volumes };
        for (name, entry) in project.section(section) {
            if entry.get(&["external"]).is_some() {
                continue;
            }
            let full = entry.text(&["name"]).unwrap_or(name);
            match there.get(full) {
                None => {
                    changed.insert(format!("{section}.{name}"));
                    step(create, full, "it is not there".into(), Some(entry.span.clone()));
                }
                // Data is never thrown away: a changed volume stays.
                Some(old) if section == "networks" && *old != json(entry, false) => {
                    let (path, at) = difference(old, entry, &Path::default().join(section).join(name));
                    let cause = format!("{path} changed");
                    changed.insert(format!("{section}.{name}"));
                    step(Action::RemoveNetwork, full, cause.clone(), Some(at.clone()));
                    step(create, full, cause, Some(at));
                }
                Some(_) => {}
            }
        }
    }
    let wanted: BTreeSet<&str> =
        project.section("networks").values().filter_map(|n| n.text(&["name"])).collect();
    for name in observed.networks.keys().filter(|n| !wanted.contains(n.as_str())) {
        step(Action::RemoveNetwork, name, "no file names it".into(), None);
    }
    changed
}

/// Containers that are too many, those that others wait for last.
fn removals(
    project: &Project,
    observed: &Observed,
    order: &[String],
    steps: &mut Vec<Operation>,
) -> Result<()> {
    let services = project.services();
    let place = |name: &str| order.iter().position(|n| n == name).map_or(usize::MAX, |at| at);
    let mut gone: Vec<(&ObservedContainer, String, Option<Span>)> = Vec::new();
    for container in &observed.containers {
        match services.get(container.service.as_str()) {
            None => gone.push((container, "no service that is on has this name".into(), None)),
            Some(service) => {
                let count = replicas(&container.service, service)?;
                if container.number > count {
                    let at = service.get(&["scale"]).or_else(|| service.get(&["deploy", "replicas"]));
                    gone.push((
                        container,
                        format!("{count} replicas are wanted"),
                        at.map(|n| n.span.clone()),
                    ));
                }
            }
        }
    }
    gone.sort_by_key(|(c, _, _)| {
        (std::cmp::Reverse(place(&c.service)), c.service.clone(), std::cmp::Reverse(c.number))
    });
    let gone = waiting_first(gone);
    for (container, cause, at) in gone {
        // Whoever waited for it goes first.
        let after: Vec<String> = observed
            .containers
            .iter()
            .filter(|other| other.made_from["depends_on"].get(&container.service).is_some())
            .map(|other| other.service.clone())
            .filter(|other| !services.contains_key(other.as_str()))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let target = format!("{}-{}", container.service, container.number);
        steps.push(Operation { action: Action::RemovePod, target, cause, at, after });
    }
    Ok(())
}

type Gone<'a> = (&'a ObservedContainer, String, Option<Span>);

/// Those that waited for others before those they waited for.
fn waiting_first(mut gone: Vec<Gone<'_>>) -> Vec<Gone<'_>> {
    let mut found = Vec::with_capacity(gone.len());
    while !gone.is_empty() {
        let awaited = |name: &str| {
            let waits =
                |(c, _, _): &Gone<'_>| c.service != name && c.made_from["depends_on"].get(name).is_some();
            gone.iter().any(waits)
        };
        // What was there may wait in a circle; then the order does not matter.
        let next = gone.iter().position(|(c, _, _)| !awaited(&c.service)).unwrap_or_default();
        found.push(gone.remove(next));
    }
    found
}

/// Containers of one service.
fn pods(
    project: &Project,
    observed: &Observed,
    name: &str,
    service: &Node,
    changed: &BTreeSet<String>,
    recreated: &mut BTreeMap<String, Action>,
    steps: &mut Vec<Operation>,
) -> Result<()> {
    let services = project.services();
    let after: Vec<String> = needs(service).filter(|n| services.contains_key(n)).map(str::to_owned).collect();
    let after: Vec<String> = after.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let network = service
        .get(&["networks"])
        .into_iter()
        .flat_map(Node::entries)
        .find(|(key, _)| changed.contains(&format!("networks.{}", key.name)));
    let peer = service.text(&["network_mode"]).and_then(|m| m.strip_prefix("service:"));
    let restarted = service.get(&["depends_on"]).into_iter().flat_map(Node::entries).find(|(key, edge)| {
        recreated.contains_key(&key.name) && edge.get(&["restart"]).and_then(Node::as_bool) == Some(true)
    });
    for number in 1..=replicas(name, service)? {
        let there = observed.containers.iter().find(|c| c.service == name && c.number == number);
        let found: Option<(Action, String, Option<Span>)> = match there {
            None => Some((Action::CreatePod, "it is not there".into(), Some(service.span.clone()))),
            Some(container) => {
                let path = Path::default().join("services").join(name);
                let sandbox = changes(&container.made_from, service, &path, |key| SANDBOX.contains(&key));
                let inside = changes(&container.made_from, service, &path, |key| {
                    !SANDBOX.contains(&key)
                        && !ASIDE.contains(&key)
                        && !key.starts_with("x-")
                        && key != "deploy"
                })
                .or_else(|| {
                    let old = &container.made_from["deploy"]["resources"];
                    let new = service.get(&["deploy", "resources"]);
                    let same = new.map_or(Json::Null, |n| json(n, false)) == *old;
                    let at = new.map_or_else(|| service.span.clone(), |n| n.span.clone());
                    (!same).then(|| (path.join("deploy").join("resources"), at))
                });
                let image = observed.images.get(name);
                let newer = image.filter(|i| !container.image.is_empty() && **i != container.image);
                if let Some((path, at)) = sandbox {
                    Some((Action::RecreatePod, format!("{path} changed"), Some(at)))
                } else if let Some((key, _)) = network {
                    let cause = format!("network {} is made anew", key.name);
                    Some((Action::RecreatePod, cause, Some(key.span.clone())))
                } else if let Some(peer) = peer.filter(|p| recreated.get(*p) == Some(&Action::RecreatePod)) {
                    let cause = format!("the pod of {peer}, which it is in, is made anew");
                    Some((Action::RecreatePod, cause, service.get(&["network_mode"]).map(|n| n.span.clone())))
                } else if let Some((path, at)) = inside {
                    Some((Action::RecreateContainer, format!("{path} changed"), Some(at)))
                } else if newer.is_some() {
                    let at = service.get(&["image"]).map(|n| n.span.clone());
                    Some((Action::RecreateContainer, "there is a newer image of the same name".into(), at))
                } else if let Some((key, _)) = restarted {
                    let cause = format!("{} is replaced, and it restarts with it", key.name);
                    Some((Action::RecreateContainer, cause, Some(key.span.clone())))
                } else if !container.running {
                    Some((Action::Start, "it does not run".into(), None))
                } else {
                    None
                }
            }
        };
        if let Some((action, cause, at)) = found {
            if action == Action::RecreatePod || action == Action::RecreateContainer {
                recreated.insert(name.to_owned(), action);
            }
            steps.push(Operation {
                action,
                target: format!("{name}-{number}"),
                cause,
                at,
                after: after.clone(),
            });
        }
    }
    Ok(())
}

/// The first of some keys, by name, whose value is not what it was.
fn changes(old: &Json, new: &Node, path: &Path, of: impl Fn(&str) -> bool) -> Option<(Path, Span)> {
    let was = old.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str));
    let is = new.entries().map(|(key, _)| key.name.as_str());
    let keys: BTreeSet<&str> = was.chain(is).filter(|key| of(key)).collect();
    for key in keys {
        let before = &old[key];
        match new.get(&[key]) {
            Some(node) if json(node, false) != *before => {
                return Some(difference(before, node, &path.join(key)));
            }
            None if !before.is_null() => return Some((path.join(key), new.span.clone())),
            _ => {}
        }
    }
    None
}

/// Where in a value the first difference lies.
fn difference(old: &Json, new: &Node, path: &Path) -> (Path, Span) {
    if let (Some(before), Some(_)) = (old.as_object(), new.as_map()) {
        if let Some(found) = changes(old, new, path, |_| true) {
            return found;
        }
        // Nothing but a null came or went.
        let _ = before;
    }
    if let (Some(before), items) = (old.as_array(), new.items()) {
        for (i, item) in items.iter().enumerate() {
            let place = path.join(&format!("[{i}]"));
            match before.get(i) {
                Some(old) if *old == json(item, false) => {}
                Some(old) => return difference(old, item, &place),
                None => return (place, item.span.clone()),
            }
        }
    }
    (path.clone(), new.span.clone())
}
