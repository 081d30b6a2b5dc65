//! Where two states of the same thing differ first.

use crate::node::{Node, Path, Span};
use crate::print::json;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// The first of some keys, by name, whose value is not what it was.
pub(super) fn changes(
    old: &Json,
    new: &Node,
    path: &Path,
    of: impl Fn(&str) -> bool,
) -> Option<(Path, Span)> {
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
pub(super) fn difference(old: &Json, new: &Node, path: &Path) -> (Path, Span) {
    if old.is_object()
        && new.as_map().is_some()
        && let Some(found) = changes(old, new, path, |_| true)
    {
        return found;
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
