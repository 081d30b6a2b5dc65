//! One form for everything: short forms become long ones, sizes and times one notation each.

use crate::error::{Error, Result};
use crate::node::{Key, Map, Node, Path, Span, Tag, Value};
use crate::{short, units};

/// Most ports of one service.
const MAX_PORTS: usize = 8192;

/// What is done with the value at a place.
#[derive(Clone, Copy)]
enum Form {
    /// A list of `name=value` becomes a mapping; a name alone has no value.
    Variables,
    /// The same, but a name alone has an empty value.
    Labels,
    /// A text becomes a list of one.
    List,
    /// Numbers become texts.
    Texts,
    /// A text is split as a shell does.
    Command,
    /// A text is a command for the container's shell.
    Test,
    /// A list of names becomes a mapping to nothing.
    Names,
    DependsOn,
    /// A text becomes a mapping with it under this name.
    Under(&'static str),
    /// The items of a list become mappings with the text under this name.
    ItemsUnder(&'static str),
    EnvFiles,
    Hosts,
    Ports,
    Mounts,
    Devices,
    Gpus,
    Bytes,
    Duration,
    /// A number becomes a text.
    Text,
    Number,
    External,
    PullPolicy,
}

/// Places and their forms; `@` stands for what describes a container (a service and its hooks).
const FORMS: [(&str, Form); 83] = [
    ("@.annotations", Form::Labels),
    ("@.build", Form::Under("context")),
    ("@.build.additional_contexts", Form::Labels),
    ("@.build.args", Form::Variables),
    ("@.build.cache_from", Form::List),
    ("@.build.cache_to", Form::List),
    ("@.build.extra_hosts", Form::Hosts),
    ("@.build.labels", Form::Labels),
    ("@.build.secrets", Form::ItemsUnder("source")),
    ("@.build.shm_size", Form::Bytes),
    ("@.build.ssh", Form::Labels),
    ("@.command", Form::Command),
    ("@.configs", Form::ItemsUnder("source")),
    ("@.cpus", Form::Number),
    ("@.depends_on", Form::DependsOn),
    ("@.deploy.labels", Form::Labels),
    ("@.deploy.resources.limits.cpus", Form::Text),
    ("@.deploy.resources.limits.memory", Form::Bytes),
    ("@.deploy.resources.reservations.cpus", Form::Text),
    ("@.deploy.resources.reservations.memory", Form::Bytes),
    ("@.deploy.restart_policy.delay", Form::Duration),
    ("@.deploy.restart_policy.window", Form::Duration),
    ("@.deploy.rollback_config.delay", Form::Duration),
    ("@.deploy.rollback_config.monitor", Form::Duration),
    ("@.deploy.update_config.delay", Form::Duration),
    ("@.deploy.update_config.monitor", Form::Duration),
    ("@.develop.watch.[].ignore", Form::List),
    ("@.develop.watch.[].include", Form::List),
    ("@.devices", Form::Devices),
    ("@.dns", Form::List),
    ("@.dns_search", Form::List),
    ("@.entrypoint", Form::Command),
    ("@.env_file", Form::EnvFiles),
    ("@.environment", Form::Variables),
    ("@.expose", Form::Texts),
    ("@.extends", Form::Under("service")),
    ("@.extra_hosts", Form::Hosts),
    ("@.gpus", Form::Gpus),
    ("@.group_add", Form::Texts),
    ("@.healthcheck.interval", Form::Duration),
    ("@.healthcheck.start_interval", Form::Duration),
    ("@.healthcheck.start_period", Form::Duration),
    ("@.healthcheck.test", Form::Test),
    ("@.healthcheck.timeout", Form::Duration),
    ("@.label_file", Form::List),
    ("@.labels", Form::Labels),
    ("@.logging.options", Form::Variables),
    ("@.mem_limit", Form::Bytes),
    ("@.mem_reservation", Form::Bytes),
    ("@.memswap_limit", Form::Bytes),
    ("@.models", Form::Names),
    ("@.networks", Form::Names),
    ("@.networks.*.driver_opts", Form::Variables),
    ("@.ports", Form::Ports),
    ("@.post_start.[].command", Form::Command),
    ("@.post_start.[].environment", Form::Variables),
    ("@.pre_stop.[].command", Form::Command),
    ("@.pre_stop.[].environment", Form::Variables),
    ("@.provider.options", Form::Names),
    ("@.pull_policy", Form::PullPolicy),
    ("@.secrets", Form::ItemsUnder("source")),
    ("@.shm_size", Form::Bytes),
    ("@.stop_grace_period", Form::Duration),
    ("@.storage_opt", Form::Variables),
    ("@.sysctls", Form::Labels),
    ("@.tmpfs", Form::List),
    ("@.volumes", Form::Mounts),
    ("@.volumes.[].tmpfs.size", Form::Bytes),
    ("@.volumes.[].volume.labels", Form::Labels),
    ("configs.*", Form::External),
    ("configs.*.labels", Form::Labels),
    ("networks.*", Form::External),
    ("networks.*.driver_opts", Form::Variables),
    ("networks.*.labels", Form::Labels),
    ("secrets.*", Form::External),
    ("secrets.*.labels", Form::Labels),
    ("volumes.*", Form::External),
    ("volumes.*.driver_opts", Form::Variables),
    ("volumes.*.labels", Form::Labels),
    ("include.[].path", Form::List),
    ("include.[].env_file", Form::List),
    ("networks.*.ipam.options", Form::Variables),
    ("@.blkio_config.weight", Form::Number),
];

fn form_of(path: &Path) -> Option<Form> {
    let found = FORMS.iter().find(|(pattern, _)| path.is_form(pattern));
    found.map(|(_, form)| *form)
}

/// Brings everything below `node` into its one form.
///
/// # Errors
/// What is of no form that its place knows, with the place.
pub fn canonical(node: &mut Node, path: &Path) -> Result<()> {
    if node.tag == Some(Tag::Reset) {
        return Ok(());
    }
    // Only where a form can apply; what users attach to the model stays as it is.
    if path.parts().last().is_some_and(|p| p.starts_with("x-")) && path.parts().len() != 2 {
        return Ok(());
    }
    if let Some(form) = form_of(path) {
        apply(form, node, path)?;
    }
    match &mut node.value {
        Value::Seq(items) => {
            let below = path.join("[]");
            items.iter_mut().try_for_each(|item| canonical(item, &below))
        }
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(key, value)| canonical(value, &path.join(&key.name)))
        }
        _ => Ok(()),
    }
}

fn fault(path: &Path, node: &Node, message: &str) -> Error {
    Error::at(&node.span, format!("{path}: {message}"))
}

fn apply(form: Form, node: &mut Node, path: &Path) -> Result<()> {
    let span = node.span.clone();
    match form {
        Form::Variables => named_values(node, path, false),
        Form::Labels => named_values(node, path, true),
        Form::List => {
            if let Some(text) = node.as_str() {
                node.value = Value::Seq(vec![Node::string(text, &span)]);
            }
            texts(node);
            Ok(())
        }
        Form::Texts => {
            texts(node);
            Ok(())
        }
        Form::Text => {
            if let (Value::Int(_) | Value::Float(_), Some(text)) = (&node.value, node.scalar()) {
                node.value = Value::String(text);
            }
            Ok(())
        }
        Form::Command => {
            if let Some(text) = node.as_str() {
                let words = units::split_command(text).map_err(|m| fault(path, node, &m))?;
                node.value = Value::Seq(words.into_iter().map(|w| Node::string(w, &span)).collect());
            }
            texts(node);
            Ok(())
        }
        Form::Test => {
            if let Some(text) = node.as_str() {
                node.value = Value::Seq(vec![Node::string("CMD-SHELL", &span), Node::string(text, &span)]);
            }
            texts(node);
            Ok(())
        }
        Form::Names => names(node, path, |_| Value::Null),
        Form::DependsOn => depends_on(node, path),
        Form::Under(name) => {
            if let Some(text) = node.as_str() {
                let text = Node::string(text, &span);
                node.value = Value::Map(Map::new());
                node.set(name, text);
            }
            Ok(())
        }
        Form::ItemsUnder(name) => {
            for item in items(node) {
                apply(Form::Under(name), item, path)?;
            }
            Ok(())
        }
        Form::EnvFiles => {
            apply(Form::List, node, path)?;
            for item in items(node) {
                let span = item.span.clone();
                apply(Form::Under("path"), item, path)?;
                if item.get(&["required"]).is_none() {
                    item.set("required", Node::new(Value::Bool(true), &span));
                }
            }
            Ok(())
        }
        Form::Hosts => hosts(node, path),
        Form::Ports => ports(node, path),
        Form::Mounts => mounts(node, path),
        Form::Devices => {
            for item in items(node) {
                if let Some(text) = item.as_str() {
                    *item = short::device(text, &item.span).map_err(|m| fault(path, item, &m))?;
                }
            }
            Ok(())
        }
        Form::Gpus => {
            if node.as_str() == Some("all") {
                let mut gpu = Node::map(&span);
                gpu.set("count", Node::new(Value::Int(-1), &span));
                node.value = Value::Seq(vec![gpu]);
            }
            Ok(())
        }
        Form::Bytes => {
            let Some(text) = node.scalar().filter(|t| !t.is_empty()) else { return Ok(()) };
            let size = units::bytes(&text).ok_or_else(|| {
                fault(path, node, &format!("{text:?} is no size; write it like 512m or 2gb"))
            })?;
            node.value = Value::String(size.to_string());
            Ok(())
        }
        Form::Duration => {
            let Some(text) = node.as_str() else { return Ok(()) };
            let time = units::duration(text).ok_or_else(|| {
                fault(path, node, &format!("{text:?} is no time; write it like 90s or 1m30s"))
            })?;
            node.value = Value::String(units::show_duration(time));
            Ok(())
        }
        Form::Number => {
            if let Some(text) = node.as_str() {
                let number = text.parse::<f64>().ok().filter(|n| n.is_finite());
                let number = number.ok_or_else(|| fault(path, node, &format!("{text:?} is no number")))?;
                node.value = Value::Float(number);
            }
            Ok(())
        }
        Form::External => external(node),
        Form::PullPolicy => {
            if node.as_str() == Some("if_not_present") {
                node.value = Value::String("missing".into());
            }
            Ok(())
        }
    }
}

fn items(node: &mut Node) -> &mut [Node] {
    match &mut node.value {
        Value::Seq(items) => items,
        _ => &mut [],
    }
}

/// Numbers and booleans in a list become texts.
fn texts(node: &mut Node) {
    for item in items(node) {
        if let (Value::Int(_) | Value::Float(_) | Value::Bool(_), Some(text)) = (&item.value, item.scalar()) {
            item.value = Value::String(text);
        }
    }
}

fn named_values(node: &mut Node, path: &Path, empty_for_none: bool) -> Result<()> {
    let none = |span: &Span| {
        if empty_for_none { Node::string("", span) } else { Node::new(Value::Null, span) }
    };
    if let Value::Seq(list) = &node.value {
        let mut map = Map::new();
        for item in list {
            let Some(text) = item.scalar() else {
                return Err(fault(path, item, &format!("an item is name=value, not {}", item.kind())));
            };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Node::string(value, &item.span)),
                None => (text.as_str(), none(&item.span)),
            };
            if name.is_empty() {
                return Err(fault(path, item, &format!("{text:?} has no name before the equals sign")));
            }
            // The last one wins, in the place of the first.
            map.insert(Key { name: name.to_owned(), span: item.span.clone() }, value);
        }
        node.value = Value::Map(map);
        return Ok(());
    }
    for (_, value) in node.as_map_mut().into_iter().flatten() {
        match (&value.value, value.scalar()) {
            (_, _) if value.tag == Some(Tag::Reset) => {}
            (Value::Null, _) => value.value = none(&value.span).value,
            (_, Some(text)) => value.value = Value::String(text),
            (_, None) => {}
        }
    }
    Ok(())
}

fn names(node: &mut Node, path: &Path, make: impl Fn(&Span) -> Value) -> Result<()> {
    let Value::Seq(list) = &node.value else { return Ok(()) };
    let mut map = Map::new();
    for item in list {
        let Some(name) = item.as_str() else {
            return Err(fault(path, item, &format!("an item is a name, not {}", item.kind())));
        };
        let node = Node::new(make(&item.span), &item.span);
        map.insert(Key { name: name.to_owned(), span: item.span.clone() }, node);
    }
    node.value = Value::Map(map);
    Ok(())
}

fn depends_on(node: &mut Node, path: &Path) -> Result<()> {
    names(node, path, |span| {
        let mut edge = Node::map(span);
        edge.set("condition", Node::string("service_started", span));
        edge.value
    })?;
    for (_, edge) in node.as_map_mut().into_iter().flatten() {
        if edge.as_map().is_some_and(|e| !e.contains_key("required")) {
            let required = Node::new(Value::Bool(true), &edge.span);
            edge.set("required", required);
        }
    }
    Ok(())
}

/// Host names and addresses become a list of `name=address`.
fn hosts(node: &mut Node, path: &Path) -> Result<()> {
    let mut found: Vec<Node> = Vec::new();
    let mut add = |name: &str, address: &str, span: &Span| {
        let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        let host = Node::string(format!("{}={address}", name.trim()), span);
        if !found.contains(&host) {
            found.push(host);
        }
    };
    match &node.value {
        Value::Seq(list) => {
            for item in list {
                let text = item.as_str().unwrap_or_default();
                let parts = text.split_once('=').or_else(|| text.split_once(':'));
                let Some((name, address)) = parts.filter(|(n, a)| !n.is_empty() && !a.is_empty()) else {
                    return Err(fault(path, item, &format!("{text:?} is no name=address")));
                };
                add(name, address, &item.span);
            }
        }
        Value::Map(map) => {
            for (key, value) in map {
                let one = std::slice::from_ref(value);
                let list = if matches!(value.value, Value::Seq(_)) { value.items() } else { one };
                for item in list {
                    let Some(address) =
                        item.scalar().filter(|a| !a.is_empty() && !key.name.trim().is_empty())
                    else {
                        return Err(fault(path, item, &format!("{:?} has no address", key.name)));
                    };
                    add(&key.name, &address, &item.span);
                }
            }
        }
        _ => return Ok(()),
    }
    node.value = Value::Seq(found);
    Ok(())
}

fn ports(node: &mut Node, path: &Path) -> Result<()> {
    let Value::Seq(list) = &node.value else { return Ok(()) };
    let mut found = Vec::new();
    for item in list {
        match &item.value {
            Value::Int(_) | Value::String(_) => {
                let text = item.scalar().unwrap_or_default();
                found.extend(short::ports(&text, &item.span).map_err(|m| fault(path, item, &m))?);
            }
            Value::Map(_) => found.push(long_port(item.clone(), path)?),
            _ => {
                return Err(fault(
                    path,
                    item,
                    &format!("a port is a text or a mapping, not {}", item.kind()),
                ));
            }
        }
        if found.len() > MAX_PORTS {
            return Err(fault(path, item, &format!("there are more than {MAX_PORTS} ports")));
        }
    }
    node.value = Value::Seq(found);
    Ok(())
}

fn long_port(mut port: Node, path: &Path) -> Result<Node> {
    let span = port.span.clone();
    if let Some(text) = port.get(&["published"]).and_then(Node::scalar) {
        if !text.is_empty() && short::range(&text).is_none() {
            return Err(fault(path, &port, &format!("published: {text:?} is no port or range of ports")));
        }
        match text.as_str() {
            "" => drop(port.take("published")),
            _ => port.set("published", Node::string(text, &span)),
        }
    }
    if let Some(address) = port.text(&["host_ip"])
        && address.parse::<std::net::IpAddr>().is_err()
    {
        return Err(fault(path, &port, &format!("host_ip: {address:?} is no IP address")));
    }
    for (name, value) in [("protocol", "tcp"), ("mode", "ingress")] {
        if port.get(&[name]).is_none() {
            port.set(name, Node::string(value, &span));
        }
    }
    Ok(port)
}

fn mounts(node: &mut Node, path: &Path) -> Result<()> {
    for item in items(node) {
        let span = item.span.clone();
        if let Some(text) = item.as_str() {
            *item = short::mount(text, &span).map_err(|m| fault(path, item, &m))?;
            continue;
        }
        if let Some(target) = item.text(&["target"]).map(crate::files::clean) {
            item.set("target", Node::string(target, &span));
        }
        if item.text(&["type"]) == Some("bind") {
            let mut bind = item.take("bind").unwrap_or_else(|| Node::map(&span));
            if bind.is_null() {
                bind = Node::map(&span);
            }
            if bind.get(&["create_host_path"]).is_none() {
                bind.set("create_host_path", Node::new(Value::Bool(true), &span));
            }
            item.set("bind", bind);
        }
    }
    Ok(())
}

/// `external: {name: x}` becomes `external: true` and `name: x`.
fn external(node: &mut Node) -> Result<()> {
    let Some(name) = node.get(&["external"]).filter(|e| e.as_map().is_some()) else { return Ok(()) };
    let span = name.span.clone();
    let inner = name.text(&["name"]).map(str::to_owned);
    if let (Some(inner), Some(outer)) = (&inner, node.text(&["name"]))
        && inner != outer
    {
        return Err(Error::at(&span, format!("external.name {inner:?} and name {outer:?} are not the same")));
    }
    node.set("external", Node::new(Value::Bool(true), &span));
    if let Some(inner) = inner {
        node.set("name", Node::string(inner, &span));
    }
    Ok(())
}
