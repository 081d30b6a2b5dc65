//! What a model has to be beyond its schema: names that are referred to exist, and nothing contradicts.

use crate::error::{Error, Result, nearest};
use crate::node::{Key, Map, Node};
use std::collections::{BTreeMap, HashMap};

/// Checks a whole canonical model; `disabled` are the services that no profile turned on.
///
/// # Errors
/// The first contradiction, with its place.
pub fn check(model: &Node, disabled: &BTreeMap<String, Node>) -> Result<()> {
    let model = Model { model, disabled };
    for (key, service) in model.entries("services") {
        let name = key.name.as_str();
        model.has_origin(key, service)?;
        model.references(name, service)?;
        model.depends_on(name, service)?;
        model.numbers(name, service)?;
        mounts(name, service)?;
        others(name, service)?;
    }
    for (section, ways) in
        [("configs", &["file", "environment", "content"][..]), ("secrets", &["file", "environment"])]
    {
        for (key, entry) in model.entries(section) {
            content(section, key, entry, ways)?;
        }
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        for (key, entry) in model.entries(section) {
            external(section, key, entry)?;
        }
    }
    model.cycles()
}

struct Model<'a> {
    model: &'a Node,
    disabled: &'a BTreeMap<String, Node>,
}

impl<'a> Model<'a> {
    fn entries(&self, section: &str) -> impl Iterator<Item = (&'a Key, &'a Node)> {
        self.model.get(&[section]).into_iter().flat_map(Node::entries)
    }

    fn names(&self, section: &str) -> Vec<&'a str> {
        self.entries(section).map(|(key, _)| key.name.as_str()).collect()
    }

    fn has_origin(&self, key: &Key, service: &Node) -> Result<()> {
        let has = |name: &str| service.get(&[name]).is_some_and(|n| !n.is_null() && n.as_str() != Some(""));
        if has("image") || has("build") || has("provider") {
            return Ok(());
        }
        Err(Error::at(&key.span, format!("services.{}: neither image nor build says what to run", key.name)))
    }

    /// A name that has to be in a section of the model.
    fn known(&self, section: &str, name: &str, at: &Node, place: &str) -> Result<()> {
        if self.model.get(&[section, name]).is_some() {
            return Ok(());
        }
        let help = match nearest(name, self.names(section)) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => format!("; name it under {section} at the top of the file"),
        };
        let thing = section.trim_end_matches('s');
        Err(Error::at(&at.span, format!("{place}: there is no {thing} {name:?}{help}")))
    }

    fn references(&self, name: &str, service: &Node) -> Result<()> {
        if service.get(&["network_mode"]).is_some()
            && let Some(networks) =
                service.get(&["networks"]).filter(|n| n.as_map().is_some_and(|m| !m.is_empty()))
        {
            let message = format!("services.{name}: network_mode and networks exclude each other");
            return Err(Error::at(&networks.span, message));
        }
        for (key, node) in service.get(&["networks"]).into_iter().flat_map(Node::entries) {
            let at = Node { span: key.span.clone(), ..node.clone() };
            self.known("networks", &key.name, &at, &format!("services.{name}.networks"))?;
        }
        for mount in list(service, "volumes") {
            if let (Some("volume"), Some(source)) = (mount.text(&["type"]), mount.text(&["source"]))
                && !source.is_empty()
            {
                self.known("volumes", source, mount, &format!("services.{name}.volumes"))?;
            }
        }
        for section in ["configs", "secrets"] {
            for item in list(service, section) {
                let source = item.text(&["source"]).unwrap_or_default();
                self.known(section, source, item, &format!("services.{name}.{section}"))?;
            }
        }
        for item in service.get(&["build", "secrets"]).map(Node::items).unwrap_or_default() {
            let source = item.text(&["source"]).unwrap_or_default();
            self.known("secrets", source, item, &format!("services.{name}.build.secrets"))?;
        }
        for (key, node) in service.get(&["models"]).into_iter().flat_map(Node::entries) {
            self.known("models", &key.name, node, &format!("services.{name}.models"))?;
        }
        Ok(())
    }

    fn depends_on(&self, name: &str, service: &Node) -> Result<()> {
        for (key, edge) in service.get(&["depends_on"]).into_iter().flat_map(Node::entries) {
            let wanted = key.name.as_str();
            if self.model.get(&["services", wanted]).is_some() {
                let checked = edge.text(&["condition"]) == Some("service_healthy");
                let test = self.model.get(&["services", wanted, "healthcheck"]);
                let off = test.is_some_and(|t| {
                    t.get(&["disable"]).and_then(Node::as_bool) == Some(true)
                        || t.get(&["test"])
                            .is_some_and(|t| t.items().first().and_then(Node::as_str) == Some("NONE"))
                });
                if checked && off {
                    let message = format!(
                        "services.{name}.depends_on.{wanted}: it waits for health, which {wanted} does not check"
                    );
                    return Err(Error::at(&edge.span, message));
                }
                continue;
            }
            if edge.get(&["required"]).and_then(Node::as_bool) == Some(false) {
                continue;
            }
            let place = format!("services.{name}.depends_on");
            if let Some(off) = self.disabled.get(wanted) {
                let profiles: Vec<&str> = list(off, "profiles").iter().filter_map(Node::as_str).collect();
                let message = format!(
                    "{place}: service {wanted:?} is off; turn on profile {}, or say required: false",
                    profiles.join(" or ")
                );
                return Err(Error::at(&key.span, message));
            }
            let help = nearest(wanted, self.names("services"));
            let help = help.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
            return Err(Error::at(&key.span, format!("{place}: there is no service {wanted:?}{help}")));
        }
        Ok(())
    }

    fn numbers(&self, name: &str, service: &Node) -> Result<()> {
        let same = [
            ("scale", &["deploy", "replicas"][..]),
            ("cpus", &["deploy", "resources", "limits", "cpus"]),
            ("mem_limit", &["deploy", "resources", "limits", "memory"]),
            ("mem_reservation", &["deploy", "resources", "reservations", "memory"]),
            ("pids_limit", &["deploy", "resources", "limits", "pids"]),
        ];
        for (short, long) in same {
            let (Some(a), Some(b)) = (service.get(&[short]), service.get(long)) else { continue };
            let number = |n: &Node| n.scalar().and_then(|t| t.parse::<f64>().ok());
            if number(a) != number(b) {
                let message =
                    format!("services.{name}: {short} and {} contradict each other", long.join("."));
                return Err(Error::at(&a.span, message).note("this is the other one", Some(&b.span)));
            }
        }
        let replicas = service.get(&["scale"]).or_else(|| service.get(&["deploy", "replicas"]));
        if let Some(node) = replicas {
            let count = node.as_int().unwrap_or(1);
            if count < 0 {
                return Err(Error::at(&node.span, format!("services.{name}: {count} replicas cannot be")));
            }
            if let Some(fixed) = service.get(&["container_name"]).filter(|_| count > 1) {
                let message =
                    format!("services.{name}: container_name can be given to one container, not to {count}");
                return Err(Error::at(&fixed.span, message).note("this asks for them", Some(&node.span)));
            }
        }
        Ok(())
    }

    /// A service that waits for itself by way of others.
    fn cycles(&self) -> Result<()> {
        let edges: HashMap<&str, &Map> = self
            .entries("services")
            .filter_map(|(key, service)| Some((key.name.as_str(), service.get(&["depends_on"])?.as_map()?)))
            .collect();
        // 1: on the way, 2: done.
        let mut state: HashMap<&str, u8> = HashMap::new();
        for start in self.names("services") {
            let mut way: Vec<(&str, usize)> = vec![(start, 0)];
            if state.contains_key(start) {
                continue;
            }
            state.insert(start, 1);
            while let Some((name, next)) = way.last_mut() {
                let edge = edges.get(name).and_then(|m| m.get_index(*next));
                *next += 1;
                let Some((key, _)) = edge else {
                    state.insert(name, 2);
                    way.pop();
                    continue;
                };
                let to = key.name.as_str();
                match state.get(to) {
                    Some(1) => {
                        let from = way.iter().position(|(n, _)| *n == to).unwrap_or_default();
                        let names: Vec<&str> = way[from..].iter().map(|(n, _)| *n).chain([to]).collect();
                        let message =
                            format!("services wait for each other in a circle: {}", names.join(" -> "));
                        return Err(Error::at(&key.span, message));
                    }
                    Some(_) => {}
                    None => {
                        state.insert(to, 1);
                        way.push((to, 0));
                    }
                }
            }
        }
        Ok(())
    }
}

fn list<'a>(node: &'a Node, name: &str) -> &'a [Node] {
    node.get(&[name]).map(Node::items).unwrap_or_default()
}

/// Two things at one path of the container.
fn mounts(name: &str, service: &Node) -> Result<()> {
    let mut seen: HashMap<String, &Node> = HashMap::new();
    let tmpfs = list(service, "tmpfs").iter().map(|t| {
        let text = t.as_str().unwrap_or_default();
        (text.split(':').next().unwrap_or_default().to_owned(), t)
    });
    let mounts =
        list(service, "volumes").iter().map(|m| (m.text(&["target"]).unwrap_or_default().to_owned(), m));
    for (target, node) in tmpfs.chain(mounts) {
        if let Some(first) = seen.insert(target.clone(), node) {
            let message = format!("services.{name}: two mounts have the target {target:?}");
            return Err(Error::at(&node.span, message).note("this is the other one", Some(&first.span)));
        }
    }
    for mount in list(service, "volumes") {
        if mount.text(&["type"]) == Some("bind") && mount.text(&["source"]).is_none_or(str::is_empty) {
            return Err(Error::at(
                &mount.span,
                format!("services.{name}.volumes: a bind mount needs a source"),
            ));
        }
    }
    Ok(())
}

fn others(name: &str, service: &Node) -> Result<()> {
    if let Some(build) = service.get(&["build"])
        && let (Some(inline), Some(_)) = (build.get(&["dockerfile_inline"]), build.get(&["dockerfile"]))
    {
        let message = format!("services.{name}.build: dockerfile and dockerfile_inline exclude each other");
        return Err(Error::at(&inline.span, message));
    }
    if let Some(test) = service.get(&["healthcheck", "test"]).filter(|t| !t.items().is_empty()) {
        let first = test.items()[0].as_str().unwrap_or_default();
        if !matches!(first, "CMD" | "CMD-SHELL" | "NONE") {
            let message =
                format!("services.{name}.healthcheck.test: a list begins with CMD, CMD-SHELL or NONE");
            return Err(Error::at(&test.span, message));
        }
    }
    for watch in service.get(&["develop", "watch"]).map(Node::items).unwrap_or_default() {
        let action = watch.text(&["action"]).unwrap_or_default();
        if watch.get(&["target"]).is_none() && action.starts_with("sync") {
            let message = format!("services.{name}.develop.watch: {action} needs a target");
            return Err(Error::at(&watch.span, message));
        }
    }
    let devices = service.get(&["deploy", "resources", "reservations", "devices"]);
    for device in devices.into_iter().chain(service.get(&["gpus"])).flat_map(Node::items) {
        if device.get(&["count"]).is_some() && device.get(&["device_ids"]).is_some() {
            let message = format!("services.{name}: count and device_ids of a device exclude each other");
            return Err(Error::at(&device.span, message));
        }
    }
    Ok(())
}

/// Exactly one way that the content comes from.
fn content(section: &str, key: &Key, entry: &Node, ways: &[&str]) -> Result<()> {
    let given: Vec<&str> = ways.iter().copied().filter(|w| entry.get(&[w]).is_some()).collect();
    let place = format!("{section}.{}", key.name);
    let elsewhere =
        entry.get(&["driver"]).is_some() || entry.get(&["external"]).and_then(Node::as_bool) == Some(true);
    match given.as_slice() {
        [_] => Ok(()),
        [] if elsewhere => Ok(()),
        [] => Err(Error::at(&key.span, format!("{place}: one of {} has to be given", ways.join(", ")))),
        many => Err(Error::at(&key.span, format!("{place}: {} exclude each other", many.join(" and ")))),
    }
}

/// What exists already cannot be described.
fn external(section: &str, key: &Key, entry: &Node) -> Result<()> {
    if entry.get(&["external"]).and_then(Node::as_bool) != Some(true) {
        return Ok(());
    }
    let other = entry.entries().find(|(k, v)| {
        !matches!(k.name.as_str(), "name" | "external") && !k.name.starts_with("x-") && !v.is_null()
    });
    match other {
        None => Ok(()),
        Some((other, _)) => {
            let message = format!("{section}.{}: what is external cannot have {}", key.name, other.name);
            Err(Error::at(&other.span, message))
        }
    }
}
