//! What the files leave unsaid: default networks and names, implied dependencies, profiles, env files.

use crate::error::{Error, Result};
use crate::load::{Environment, Loader};
use crate::node::{Map, Node, Span, Value};
use crate::{dotenv, units};
use std::collections::BTreeMap;

/// Largest env or label file in bytes.
const MAX_FILE: usize = 1 << 20;

fn section<'a>(model: &'a mut Node, name: &str) -> impl Iterator<Item = (&'a str, &'a mut Node)> {
    let found = model.as_map_mut().and_then(|m| m.get_mut(name)).and_then(Node::as_map_mut);
    found.into_iter().flat_map(|map| map.iter_mut().map(|(key, node)| (key.name.as_str(), node)))
}

/// Writes down what is meant without being said.
pub fn defaults(model: &mut Node, project: &str) {
    let mut uses_default = false;
    for (_, service) in section(model, "services") {
        let span = service.span.clone();
        drop_empty(service);
        networks(service, &span, &mut uses_default);
        dependencies(service);
        for (list, folder) in [("secrets", "/run/secrets"), ("configs", "")] {
            mounts_of(service, list, folder);
        }
        build(service, &span);
        scale(service);
    }
    let span = model.span.clone();
    if uses_default && model.get(&["networks", "default"]).is_none() {
        if model.get(&["networks"]).is_none_or(Node::is_null) {
            model.set("networks", Node::map(&span));
        }
        if let Some(networks) = model.as_map_mut().and_then(|m| m.get_mut("networks")) {
            networks.set("default", Node::map(&span));
        }
    }
    for name in ["networks", "volumes", "configs", "secrets"] {
        for (key, entry) in section(model, name) {
            if entry.is_null() {
                entry.value = Value::Map(Map::new());
            }
            let external = entry.get(&["external"]).and_then(Node::as_bool) == Some(true);
            if entry.text(&["name"]).is_none_or(str::is_empty) {
                let full = if external { key.to_owned() } else { format!("{project}_{key}") };
                let span = entry.span.clone();
                entry.set("name", Node::string(full, &span));
            }
            if entry.get(&["external"]).and_then(Node::as_bool) == Some(false) {
                entry.take("external");
            }
        }
    }
    // An empty section says nothing.
    if let Some(map) = model.as_map_mut() {
        map.retain(|key, node| {
            key.name.starts_with("x-")
                || key.name == "services"
                || !(node.is_null() || node.as_map().is_some_and(Map::is_empty))
        });
    }
}

/// Empty servers come from variables that are not set.
fn drop_empty(service: &mut Node) {
    for name in ["dns", "dns_search"] {
        if let Some(Value::Seq(items)) =
            service.as_map_mut().and_then(|s| s.get_mut(name)).map(|n| &mut n.value)
        {
            items.retain(|i| i.as_str() != Some(""));
        }
    }
}

fn networks(service: &mut Node, span: &Span, uses_default: &mut bool) {
    if service.get(&["provider"]).is_some() || service.get(&["network_mode"]).is_some() {
        return;
    }
    if service.get(&["networks"]).and_then(Node::as_map).is_none_or(Map::is_empty) {
        let mut networks = Node::map(span);
        networks.set("default", Node::new(Value::Null, span));
        service.set("networks", networks);
    }
    *uses_default |= service.get(&["networks", "default"]).is_some();
}

/// What a service needs of others without saying so under `depends_on`.
fn dependencies(service: &mut Node) {
    let mut implied: Vec<(String, bool, Span)> = Vec::new();
    for link in service.get(&["links"]).map(Node::items).unwrap_or_default() {
        let name = link.as_str().unwrap_or_default().split(':').next().unwrap_or_default();
        implied.push((name.to_owned(), true, link.span.clone()));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(&[key])
            && let Some(name) = node.as_str().and_then(|t| t.strip_prefix("service:"))
        {
            implied.push((name.to_owned(), true, node.span.clone()));
        }
    }
    for from in service.get(&["volumes_from"]).map(Node::items).unwrap_or_default() {
        let text = from.as_str().unwrap_or_default();
        if !text.starts_with("container:") {
            let name = text.split(':').next().unwrap_or_default();
            implied.push((name.to_owned(), false, from.span.clone()));
        }
    }
    for (name, restart, span) in implied {
        if service.get(&["depends_on"]).is_none() {
            service.set("depends_on", Node::map(&span));
        }
        let Some(edges) = service.as_map_mut().and_then(|s| s.get_mut("depends_on")) else { continue };
        if edges.get(&[&name]).is_some() {
            continue;
        }
        let mut edge = Node::map(&span);
        edge.set("condition", Node::string("service_started", &span));
        edge.set("required", Node::new(Value::Bool(true), &span));
        if restart {
            edge.set("restart", Node::new(Value::Bool(true), &span));
        }
        edges.set(&name, edge);
    }
}

/// Where a secret or config is put when nothing is said.
fn mounts_of(service: &mut Node, list: &str, folder: &str) {
    let Some(Value::Seq(items)) = service.as_map_mut().and_then(|s| s.get_mut(list)).map(|n| &mut n.value)
    else {
        return;
    };
    for item in items {
        let span = item.span.clone();
        let target = match (item.text(&["target"]), item.text(&["source"])) {
            (Some(target), _) if target.starts_with('/') => continue,
            (Some(name), _) | (None, Some(name)) => format!("{folder}/{name}"),
            (None, None) => continue,
        };
        item.set("target", Node::string(target, &span));
    }
}

fn build(service: &mut Node, span: &Span) {
    let Some(build) = service.as_map_mut().and_then(|s| s.get_mut("build")) else { return };
    if build.get(&["dockerfile"]).is_none() && build.get(&["dockerfile_inline"]).is_none() {
        build.set("dockerfile", Node::string("Dockerfile", span));
    }
}

/// `scale` and `deploy.replicas` say the same.
fn scale(service: &mut Node) {
    let (scale, replicas) = (service.get(&["scale"]).cloned(), service.get(&["deploy", "replicas"]).cloned());
    if let (Some(scale), None, Some(deploy)) =
        (scale, replicas, service.as_map_mut().and_then(|s| s.get_mut("deploy")))
    {
        deploy.set("replicas", scale);
    }
}

/// Takes the services out that no profile turns on, and edges to them that are not required.
pub fn profiles(model: &mut Node, active: &[String]) -> BTreeMap<String, Node> {
    let mut off = BTreeMap::new();
    let all = active.iter().any(|p| p == "*");
    if let Some(services) = model.as_map_mut().and_then(|m| m.get_mut("services")).and_then(Node::as_map_mut)
    {
        services.retain(|key, service| {
            let wanted = service.get(&["profiles"]).map(Node::items).unwrap_or_default();
            let on = all
                || wanted.is_empty()
                || wanted.iter().any(|p| active.iter().any(|a| Some(a.as_str()) == p.as_str()));
            if !on {
                off.insert(key.name.clone(), service.clone());
            }
            on
        });
    }
    for (_, service) in section(model, "services") {
        if let Some(edges) =
            service.as_map_mut().and_then(|s| s.get_mut("depends_on")).and_then(Node::as_map_mut)
        {
            edges.retain(|key, edge| {
                !off.contains_key(&key.name) || edge.get(&["required"]).and_then(Node::as_bool) != Some(false)
            });
        }
    }
    off
}

/// Reads `env_file` and `label_file` of every service into its variables and labels; what the service says
/// itself wins.
///
/// # Errors
/// A required file that is not there, and one that cannot be understood.
pub fn files_of_variables(
    model: &mut Node,
    loader: &mut Loader<'_>,
    environment: &Environment,
) -> Result<()> {
    for (name, service) in section(model, "services") {
        let mut found: Vec<(String, String, Span)> = Vec::new();
        for file in service.take("env_file").iter().flat_map(|f| f.items().iter()) {
            let path = file.text(&["path"]).unwrap_or_default().to_owned();
            let required = file.get(&["required"]).and_then(Node::as_bool) != Some(false);
            if !loader.exists(&path) {
                if required {
                    let message = format!("services.{name}.env_file: there is no file {path}");
                    return Err(Error::at(&file.span, message)
                        .note("a file that may be missing is written {path: ..., required: false}", None));
                }
                continue;
            }
            let source = loader.source(&path, MAX_FILE, Some(&file.span))?;
            let lookup = |name: &str| {
                let own = found.iter().rev().find(|(n, _, _)| n == name).map(|(_, v, _)| v.clone());
                environment.get(name).cloned().or(own)
            };
            let variables = match file.text(&["format"]) {
                None | Some("") => dotenv::parse(&source, &lookup)?,
                Some("raw") => dotenv::parse_raw(&source, &lookup)?,
                Some(other) => {
                    let message = format!("services.{name}.env_file: unknown format {other:?}; there is raw");
                    return Err(Error::at(&file.span, message));
                }
            };
            found.extend(variables.into_iter().map(|(n, v)| (n, v, file.span.clone())));
        }
        fill(service, "environment", found);
        let mut labels = Vec::new();
        for file in service.take("label_file").iter().flat_map(|f| f.items().iter()) {
            let source = loader.source(file.as_str().unwrap_or_default(), MAX_FILE, Some(&file.span))?;
            let variables = dotenv::parse(&source, &|_| None)?;
            labels.extend(variables.into_iter().map(|(n, v)| (n, v, file.span.clone())));
        }
        fill(service, "labels", labels);
    }
    Ok(())
}

/// Adds values below those that are there; a later one of the list wins over an earlier one.
fn fill(service: &mut Node, key: &str, found: Vec<(String, String, Span)>) {
    if found.is_empty() {
        return;
    }
    let mut whole = Node::map(&service.span);
    for (name, value, span) in found {
        whole.set(&name, Node::string(value, &span));
    }
    for (key, value) in service.take(key).iter().flat_map(Node::entries) {
        whole.set(&key.name, value.clone());
    }
    service.set(key, whole);
}

/// Nanoseconds of a canonical time.
pub fn nanoseconds(text: &str) -> i64 {
    units::duration(text).unwrap_or_default()
}
