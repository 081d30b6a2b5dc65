//! How a later file meets an earlier one, and a service the one that it extends.
//!
//! Both sides are in canonical form. Mappings meet name by name, lists are appended to, everything else is
//! replaced; some places have rules of their own. In lists whose items have an identity (a port, a mount's
//! target) the later item of the same identity takes the place of the earlier one.

use crate::error::{Error, Result};
use crate::node::{Node, Path, Tag, Value};
use std::collections::HashMap;

/// Replaced as a whole.
const REPLACED: [&str; 6] = [
    "services.*.command",
    "services.*.entrypoint",
    "services.*.healthcheck.test",
    "services.*.post_start.[].command",
    "services.*.pre_stop.[].command",
    "services.*.pre_start.[].command",
];

/// Mappings of values where nothing is a value too: it takes away the earlier one.
const VARIABLES: [&str; 3] =
    ["services.*.environment", "services.*.build.args", "services.*.provider.options"];

/// What makes two items of a list the same.
#[derive(Clone, Copy)]
enum Identity {
    /// The whole text.
    Text,
    /// Text before an equals sign.
    Name,
    /// Text before a colon.
    Target,
    /// The value under this name.
    Under(&'static str),
    /// The target, or the source below this folder.
    Placed(&'static str),
    Port,
}

const IDENTITIES: [(&str, Identity); 20] = [
    ("services.*.build.platforms", Identity::Text),
    ("services.*.build.tags", Identity::Text),
    ("services.*.cap_add", Identity::Text),
    ("services.*.cap_drop", Identity::Text),
    ("services.*.configs", Identity::Placed("")),
    ("services.*.devices", Identity::Under("target")),
    ("services.*.dns", Identity::Text),
    ("services.*.dns_opt", Identity::Text),
    ("services.*.dns_search", Identity::Text),
    ("services.*.env_file", Identity::Under("path")),
    ("services.*.expose", Identity::Text),
    ("services.*.links", Identity::Name),
    ("services.*.networks.*.aliases", Identity::Text),
    ("services.*.networks.*.link_local_ips", Identity::Text),
    ("services.*.ports", Identity::Port),
    ("services.*.profiles", Identity::Text),
    ("services.*.secrets", Identity::Placed("/run/secrets")),
    ("services.*.tmpfs", Identity::Target),
    ("services.*.volumes", Identity::Under("target")),
    ("services.*.build.secrets", Identity::Placed("/run/secrets")),
];

/// The later value on top of the earlier one.
///
/// # Errors
/// Two kinds of values that cannot meet, with both places.
pub fn merge(base: Node, over: Node, path: &Path) -> Result<Node> {
    // Marks stay: they may be meant for an earlier file too.
    if over.tag.is_some() || REPLACED.iter().any(|p| path.is(p)) {
        return Ok(over);
    }
    if over.is_null() && !VARIABLES.iter().any(|p| below(path, p)) {
        return Ok(base);
    }
    if path.is("services.*.logging") && !same_driver(&base, &over) {
        return Ok(over);
    }
    if path.is("networks.*.ipam.config") {
        return by_name(base, over, "subnet", path);
    }
    match (base.value, over.value) {
        (Value::Map(base_map), Value::Map(over_map)) => {
            let mut map = base_map;
            for (key, value) in over_map {
                match map.get_mut(key.name.as_str()) {
                    Some(slot) => {
                        let old = std::mem::replace(slot, Node::new(Value::Null, &key.span));
                        *slot = merge(old, value, &path.join(&key.name))?;
                    }
                    None => {
                        map.insert(key, value);
                    }
                }
            }
            Ok(Node { value: Value::Map(map), span: over.span, tag: base.tag })
        }
        (Value::Seq(mut list), Value::Seq(more)) => {
            for item in more {
                // Two that are the same mean no more than one.
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            Ok(Node { value: Value::Seq(list), span: over.span, tag: base.tag })
        }
        (old @ (Value::Map(_) | Value::Seq(_)), new) => {
            // Scalar and mapping of a limit replace each other.
            if path.is("services.*.ulimits.*") {
                return Ok(Node { value: new, span: over.span, tag: base.tag });
            }
            let (old, new) = (Node::new(old, &base.span), Node::new(new, &over.span));
            let message = format!("{path}: {} cannot be merged onto {}", new.kind(), old.kind());
            Err(Error::at(&over.span, message)
                .note("this is what it would be merged onto; !override replaces it", Some(&base.span)))
        }
        (_, new) => Ok(Node { value: new, span: over.span, tag: base.tag }),
    }
}

/// Whether a path is one step below a pattern.
fn below(path: &Path, pattern: &str) -> bool {
    path.is(&format!("{pattern}.*"))
}

fn same_driver(base: &Node, over: &Node) -> bool {
    match (base.text(&["driver"]), over.text(&["driver"])) {
        (Some(base), Some(over)) => base == over,
        _ => true,
    }
}

/// Lists of mappings that meet where the value under `name` is the same.
fn by_name(base: Node, over: Node, name: &str, path: &Path) -> Result<Node> {
    let (Value::Seq(mut list), Value::Seq(more)) = (base.value, over.value) else {
        return Err(Error::at(&over.span, format!("{path}: only lists can be merged here")));
    };
    for item in more {
        let key = item.text(&[name]).map(str::to_owned);
        match list.iter_mut().find(|old| old.text(&[name]) == key.as_deref()) {
            Some(old) => {
                let before = old.clone();
                *old = merge(before, item, &path.join("[]"))?;
            }
            None => list.push(item),
        }
    }
    Ok(Node { value: Value::Seq(list), span: over.span, tag: base.tag })
}

/// Carries out `!reset` and takes all marks away: what is marked and still here has met nothing.
pub fn settle(node: &mut Node) {
    node.tag = None;
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, value| value.tag != Some(Tag::Reset));
            map.values_mut().for_each(settle);
        }
        Value::Seq(items) => {
            items.retain(|item| item.tag != Some(Tag::Reset));
            items.iter_mut().for_each(settle);
        }
        _ => {}
    }
}

/// Leaves one item of each identity in every list that has identities: the last, where the first stood.
///
/// # Errors
/// An item without what its identity is made of.
pub fn unique(node: &mut Node, path: &Path) -> Result<()> {
    if let Value::Map(map) = &mut node.value {
        return map.iter_mut().try_for_each(|(key, value)| unique(value, &path.join(&key.name)));
    }
    let Some((_, identity)) = IDENTITIES.iter().find(|(pattern, _)| path.is(pattern)) else { return Ok(()) };
    let Value::Seq(items) = &mut node.value else { return Ok(()) };
    let mut found: Vec<Node> = Vec::with_capacity(items.len());
    let mut places = HashMap::new();
    for item in std::mem::take(items) {
        if item.tag == Some(Tag::Reset) {
            found.push(item);
            continue;
        }
        let name = identity_of(*identity, &item)
            .ok_or_else(|| Error::at(&item.span, format!("{path}: an item needs {}", needed(*identity))))?;
        match places.get(&name) {
            Some(place) => found[*place] = item,
            None => {
                places.insert(name, found.len());
                found.push(item);
            }
        }
    }
    *items = found;
    Ok(())
}

fn needed(identity: Identity) -> &'static str {
    match identity {
        Identity::Under(name) => name,
        Identity::Placed(_) => "a source or a target",
        Identity::Port => "a target",
        Identity::Text | Identity::Name | Identity::Target => "to be a text",
    }
}

fn identity_of(identity: Identity, item: &Node) -> Option<String> {
    match identity {
        Identity::Text => item.scalar(),
        Identity::Name => item.scalar().map(|t| t.split('=').next().unwrap_or_default().to_owned()),
        Identity::Target => item.scalar().map(|t| t.split(':').next().unwrap_or_default().to_owned()),
        Identity::Under(name) => item.text(&[name]).map(str::to_owned),
        Identity::Placed(folder) => match (item.text(&["target"]), item.text(&["source"])) {
            (Some(target), _) if target.starts_with('/') || folder.is_empty() => Some(target.to_owned()),
            (Some(name), _) | (None, Some(name)) => Some(format!("{folder}/{name}")),
            (None, None) => None,
        },
        Identity::Port => {
            let target = item.get(&["target"])?.scalar()?;
            let host = item.text(&["host_ip"]).unwrap_or("0.0.0.0");
            let published = item.text(&["published"]).unwrap_or_default();
            Some(format!("{host}:{published}:{target}/{}", item.text(&["protocol"]).unwrap_or("tcp")))
        }
    }
}

/// Two documents of one file, or two files, in their order.
///
/// # Errors
/// What [`merge`] and [`unique`] refuse.
pub fn files(base: Node, over: Node) -> Result<Node> {
    let mut merged = merge(base, over, &Path::default())?;
    settle(&mut merged);
    unique(&mut merged, &Path::default())?;
    Ok(merged)
}

/// A service on top of the one it extends; marks stay, for the earlier file they are also meant for.
///
/// # Errors
/// What [`merge`] and [`unique`] refuse.
pub fn extend(mut base: Node, over: Node, name: &str) -> Result<Node> {
    // Marks of the extended service are about its own earlier files.
    settle(&mut base);
    let path = Path::default().join("services").join(name);
    let tag = over.tag;
    let mut merged = merge(base, Node { tag: None, ..over }, &path)?;
    merged.tag = tag;
    unique(&mut merged, &path)?;
    Ok(merged)
}
