//! What happens to each container of each service.

use super::difference::changes;
use super::{Action, Observed, ObservedContainer, Operation, Until, Wait, needs, replicas};
use crate::error::Result;
use crate::node::{Node, Path, Span};
use crate::print::json;
use crate::project::Project;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

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

/// Keys of a service that say how to treat a container that is there.
const TREATMENT: [&str; 3] = ["restart", "stop_grace_period", "healthcheck"];

/// Keys of a service that say nothing about containers that are there.
const ASIDE: [&str; 7] =
    ["build", "pull_policy", "pull_refresh_after", "scale", "depends_on", "profiles", "develop"];

/// Keys of a service that may put it into the namespaces of another one.
const SHARED: [&str; 5] = ["network_mode", "ipc", "pid", "uts", "cgroup"];

/// What is done with one container, and why.
pub(super) struct Decision {
    pub(super) service: String,
    pub(super) number: u32,
    /// None if a network in use is replaced: then the pod goes before it and comes after it.
    pub(super) action: Option<Action>,
    pub(super) cause: String,
    pub(super) at: Option<Span>,
    after: Vec<Wait>,
}

impl Decision {
    /// The step that makes it so.
    pub(super) fn operation(self) -> Operation {
        Operation {
            action: self.action.unwrap_or(Action::CreatePod),
            target: format!("{}-{}", self.service, self.number),
            cause: self.cause,
            at: self.at,
            after: self.after,
        }
    }
}

/// What of a service is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Its containers, in sandboxes that stay.
    Container,
    /// Its pods.
    Pod,
    /// Its pods, which go before a network does and come after it.
    Removed,
}

type Reason = (String, Option<Span>);

/// Decides about all containers of the services that are on, in the order of `order`.
pub(super) struct Decider<'a> {
    pub(super) project: &'a Project,
    pub(super) observed: &'a Observed,
    /// Networks that are there and made anew, by their name in the file, with the cause.
    pub(super) replaced: &'a BTreeMap<String, Reason>,
    /// Services of which something is made anew.
    pub(super) renewed: BTreeMap<String, Renewal>,
}

impl Decider<'_> {
    /// What has to be done for one service.
    pub(super) fn service(&mut self, name: &str, service: &Node) -> Result<Vec<Decision>> {
        let services = self.project.services();
        let after: Vec<Wait> = needs(service)
            .filter(|(n, _)| services.contains_key(n.as_str()))
            .map(|(service, until)| Wait { service, until })
            .collect();
        let mut found = Vec::new();
        for number in 1..=replicas(name, service)? {
            let there = self.observed.containers.iter().find(|c| c.service == name && c.number == number);
            let decision = match there {
                None => {
                    let cause = ("it is not there".to_owned(), Some(service.span.clone()));
                    Some((Some(Action::CreatePod), cause))
                }
                Some(container) => self.decide(name, service, container),
            };
            let Some((action, (cause, at))) = decision else { continue };
            match action {
                None => self.renewed.insert(name.to_owned(), Renewal::Removed),
                Some(Action::RecreatePod) => self.renewed.insert(name.to_owned(), Renewal::Pod),
                Some(Action::RecreateContainer) => self.renewed.insert(name.to_owned(), Renewal::Container),
                _ => None,
            };
            found.push(Decision {
                service: name.to_owned(),
                number,
                action,
                cause,
                at,
                after: after.clone(),
            });
        }
        Ok(found)
    }

    /// The strongest thing that has to happen to a container that is there.
    fn decide(
        &self,
        name: &str,
        service: &Node,
        container: &ObservedContainer,
    ) -> Option<(Option<Action>, Reason)> {
        let path = Path::default().join("services").join(name);
        let old = &container.made_from;
        let changed = |(path, at): (Path, Span)| {
            let more = others(old, service, &path);
            (format!("{path} changed{more}"), Some(at))
        };
        let on_replaced = old["networks"].as_object().into_iter().flat_map(|n| n.keys());
        let replaced = on_replaced.filter_map(|key| self.replaced.get(key).map(|why| (key, why))).next();
        if let Some((key, (cause, at))) = replaced {
            return Some((None, (format!("network {key} is made anew: {cause}"), at.clone())));
        }
        let shared = SHARED.iter().find_map(|key| {
            let node = service.get(&[key])?;
            let peer = node.as_str()?.strip_prefix("service:")?;
            let renewal = *self.renewed.get(peer)?;
            Some((peer, node, renewal)).filter(|_| renewal != Renewal::Container)
        });
        if let Some((peer, node, Renewal::Removed)) = shared {
            let cause = format!("the pod of {peer}, which it is in, is made anew");
            return Some((None, (cause, Some(node.span.clone()))));
        }
        if let Some(reason) = changes(old, service, &path, |key| SANDBOX.contains(&key)) {
            return Some((Some(Action::RecreatePod), changed(reason)));
        }
        if let Some((peer, node, _)) = shared {
            let cause = format!("the pod of {peer}, which it is in, is made anew");
            return Some((Some(Action::RecreatePod), (cause, Some(node.span.clone()))));
        }
        let inside = changes(old, service, &path, |key| {
            let elsewhere = [&SANDBOX[..], &TREATMENT, &ASIDE, &["deploy", "attach"]];
            !key.starts_with("x-") && !elsewhere.iter().any(|keys| keys.contains(&key))
        });
        let reason = inside
            .or_else(|| resources(old, service, &path))
            .map(changed)
            .or_else(|| self.content(service, container))
            .or_else(|| self.image(name, service, container))
            .or_else(|| self.follows(service));
        if let Some(reason) = reason {
            return Some((Some(Action::RecreateContainer), reason));
        }
        let treated = changes(old, service, &path, |key| TREATMENT.contains(&key));
        if !container.running {
            return Some((Some(Action::Start), ("it does not run".into(), None)));
        }
        treated.map(|reason| (Some(Action::Update), changed(reason)))
    }

    /// A secret or config whose content is not what it was.
    fn content(&self, service: &Node, container: &ObservedContainer) -> Option<Reason> {
        for section in ["configs", "secrets"] {
            for item in service.get(&[section]).map(Node::items).unwrap_or_default() {
                let Some(source) = item.text(&["source"]) else { continue };
                let full = format!("{section}.{source}");
                let (old, new) = (container.contents.get(&full), self.observed.contents.get(&full));
                if let (Some(old), Some(new)) = (old, new)
                    && old != new
                {
                    let at = self.project.model.get(&[section, source]).map(|n| n.span.clone());
                    return Some((format!("the content of {full} changed"), at));
                }
            }
        }
        None
    }

    fn image(&self, name: &str, service: &Node, container: &ObservedContainer) -> Option<Reason> {
        let now = self.observed.images.get(name)?;
        let newer = !container.image.is_empty() && *now != container.image;
        let at = service.get(&["image"]).or_else(|| service.get(&["build"])).map(|n| n.span.clone());
        newer.then(|| ("there is a newer image of the same name".to_owned(), at))
    }

    /// A dependency that is replaced and takes its dependents along.
    fn follows(&self, service: &Node) -> Option<Reason> {
        let edges = service.get(&["depends_on"]).into_iter().flat_map(Node::entries);
        let mut found = edges.filter(|(key, edge)| {
            self.renewed.contains_key(&key.name)
                && edge.get(&["restart"]).and_then(Node::as_bool) == Some(true)
        });
        let (key, _) = found.next()?;
        Some((format!("{} is replaced, and it restarts with it", key.name), Some(key.span.clone())))
    }
}

/// Other keys of a service that changed too, for people.
fn others(old: &Json, service: &Node, path: &Path) -> String {
    let first = path.parts().get(2).map(String::as_str);
    let was = old.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str));
    let is = service.entries().map(|(key, _)| key.name.as_str());
    let keys: BTreeSet<&str> = was.chain(is).collect();
    let found: Vec<&str> = keys
        .into_iter()
        .filter(|key| Some(*key) != first && !ASIDE.contains(key) && !key.starts_with("x-"))
        .filter(|key| service.get(&[key]).map_or(Json::Null, |n| json(n, false)) != old[*key])
        .collect();
    if found.is_empty() { String::new() } else { format!(", and so did {}", found.join(", ")) }
}

/// Limits and reservations are all of `deploy` that a container is made of.
fn resources(old: &Json, service: &Node, path: &Path) -> Option<(Path, Span)> {
    let node = service.get(&["deploy", "resources"]);
    let path = path.join("deploy").join("resources");
    let before = &old["deploy"]["resources"];
    match node {
        Some(node) if json(node, false) != *before => {
            Some(super::difference::difference(before, node, &path))
        }
        None if !before.is_null() => Some((path, service.span.clone())),
        _ => None,
    }
}

/// Containers that are too many or replaced, those that wait for others before those they wait for.
pub(super) fn removals(
    project: &Project,
    observed: &Observed,
    decisions: &[Decision],
) -> Result<Vec<Operation>> {
    let services = project.services();
    let mut gone: Vec<(&ObservedContainer, String, Option<Span>)> = Vec::new();
    for container in &observed.containers {
        let name = container.service.as_str();
        let decision = decisions.iter().find(|d| d.service == name && d.number == container.number);
        match services.get(name) {
            // Who turned a profile off did not ask for its services to go.
            None if project.disabled.contains_key(name) => {}
            None => gone.push((container, "no file has a service of this name".into(), None)),
            Some(service) => {
                let count = replicas(name, service)?;
                if container.number > count {
                    let at = service.get(&["scale"]).or_else(|| service.get(&["deploy", "replicas"]));
                    let at = at.map_or_else(|| service.span.clone(), |n| n.span.clone());
                    gone.push((container, format!("{count} wanted"), Some(at)));
                } else if let Some(decision) = decision.filter(|d| d.action.is_none()) {
                    gone.push((container, decision.cause.clone(), decision.at.clone()));
                }
            }
        }
    }
    // The same whatever order they were observed in; then whoever waits goes first.
    gone.sort_by(|(a, _, _), (b, _, _)| (&a.service, b.number).cmp(&(&b.service, a.number)));
    let leaving: BTreeSet<&str> = gone.iter().map(|(c, _, _)| c.service.as_str()).collect();
    let mut found = Vec::with_capacity(gone.len());
    while !gone.is_empty() {
        let waits_for = |waiting: &ObservedContainer, name: &str| {
            waiting.service != name && waiting.made_from["depends_on"].get(name).is_some()
        };
        // What was there may wait in a circle; then the order does not matter.
        let next = gone.iter().position(|(c, _, _)| !gone.iter().any(|(w, _, _)| waits_for(w, &c.service)));
        let (container, cause, at) = gone.remove(next.unwrap_or_default());
        let after: BTreeSet<&str> = observed
            .containers
            .iter()
            .filter(|w| waits_for(w, &container.service) && leaving.contains(w.service.as_str()))
            .map(|w| w.service.as_str())
            .collect();
        found.push(Operation {
            action: Action::RemovePod,
            target: format!("{}-{}", container.service, container.number),
            cause,
            at,
            after: after.into_iter().map(|s| Wait { service: s.to_owned(), until: Until::Gone }).collect(),
        });
    }
    Ok(found)
}
