//! Relative paths become absolute.

use crate::files::absolute;
use crate::node::{Node, Value};

/// Makes every path in a canonical model absolute with `base`; `~` is `home`.
pub fn resolve(model: &mut Node, base: &str, home: Option<&str>) {
    let fix = |node: &mut Node| {
        if let Value::String(path) = &mut node.value
            && !path.is_empty()
        {
            *path = absolute(path, base, home);
        }
    };
    let context = |node: &mut Node| {
        let remote = node.as_str().is_some_and(|p| {
            p.contains("://")
                || p.starts_with("git@")
                || p.starts_with("github.com/")
                || p.starts_with("service:")
        });
        if !remote {
            fix(node);
        }
    };
    for service in values(model, &["services"]) {
        if let Some(build) = child(service, "build") {
            if build.as_map().is_some_and(|b| !b.contains_key("context")) {
                let here = Node::string(".", &build.span);
                build.set("context", here);
            }
            child(build, "context").into_iter().for_each(context);
            values(build, &["additional_contexts"]).for_each(context);
            values(build, &["ssh"]).for_each(|node| {
                if node.as_str().is_some_and(|p| !p.is_empty()) {
                    fix(node);
                }
            });
        }
        container(service, &fix);
        for watch in items(service, "develop", "watch") {
            child(watch, "path").into_iter().for_each(fix);
        }
        if let Some(hooks) = child(service, "pre_start")
            && let Value::Seq(hooks) = &mut hooks.value
        {
            hooks.iter_mut().for_each(|hook| container(hook, &fix));
        }
        if let Some(file) = child(service, "extends").and_then(|e| child(e, "file")) {
            context(file);
        }
    }
    for section in ["configs", "secrets"] {
        for entry in values(model, &[section]) {
            child(entry, "file").into_iter().for_each(fix);
        }
    }
    for volume in values(model, &["volumes"]) {
        let local = volume.text(&["driver"]).is_none_or(|d| d == "local");
        let bind = volume.text(&["driver_opts", "o"]).is_some_and(|o| o.split(',').any(|o| o == "bind"));
        if local && bind {
            child(volume, "driver_opts").and_then(|o| child(o, "device")).into_iter().for_each(fix);
        }
    }
}

fn container(service: &mut Node, fix: &impl Fn(&mut Node)) {
    if let Some(Value::Seq(files)) = child(service, "env_file").map(|n| &mut n.value) {
        files.iter_mut().filter_map(|f| child(f, "path")).for_each(fix);
    }
    if let Some(Value::Seq(files)) = child(service, "label_file").map(|n| &mut n.value) {
        files.iter_mut().for_each(fix);
    }
    if let Some(Value::Seq(mounts)) = child(service, "volumes").map(|n| &mut n.value) {
        for mount in mounts {
            let windows =
                mount.text(&["source"]).is_some_and(|s| s.contains('\\') || s.get(1..2) == Some(":"));
            if mount.text(&["type"]) == Some("bind") && !windows {
                child(mount, "source").into_iter().for_each(fix);
            }
        }
    }
}

fn child<'a>(node: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    node.as_map_mut()?.get_mut(name)
}

/// Values of the mapping below a chain of names.
fn values<'a>(node: &'a mut Node, path: &[&str]) -> impl Iterator<Item = &'a mut Node> {
    let found = path.iter().try_fold(node, |node, name| child(node, name));
    found.and_then(Node::as_map_mut).into_iter().flat_map(|map| map.values_mut())
}

fn items<'a>(node: &'a mut Node, first: &str, second: &str) -> impl Iterator<Item = &'a mut Node> {
    let found = child(node, first).and_then(|n| child(n, second));
    let list = found.and_then(|n| match &mut n.value {
        Value::Seq(items) => Some(items),
        _ => None,
    });
    list.into_iter().flatten()
}
