//! One container of a pod.

use super::{Converter, Publish, entries, items};
use crate::node::{Node, Value};
use serde_json::{Value as Json, json};

impl<'a> Converter<'a> {
    /// A container, and the volumes of the pod that it mounts.
    pub(super) fn container(&mut self, name: &'a str, service: &'a Node, volumes: &mut Vec<Json>) -> Json {
        let image = match self.text(service, &["image"]) {
            Some(image) => image.to_owned(),
            None => format!("{}-{name}", self.project.name),
        };
        let mut container = json!({"name": self.name(name), "image": image});
        self.command(name, service, &mut container);
        let variables = self.variables(name, service);
        if !variables.is_empty() {
            container["env"] = Json::Array(variables);
        }
        let ports = self.container_ports(service);
        if !ports.is_empty() {
            container["ports"] = Json::Array(ports);
        }
        if let Some(directory) = self.text(service, &["working_dir"]) {
            container["workingDir"] = json!(directory);
        }
        for (key, field) in [("tty", "tty"), ("stdin_open", "stdin")] {
            if self.flag(service, &[key]) {
                container[field] = json!(true);
            }
        }
        let policy = match service.text(&["pull_policy"]) {
            Some("always") => Some("Always"),
            Some("never") => Some("Never"),
            Some("missing") => Some("IfNotPresent"),
            _ => None,
        };
        if let Some(policy) = policy {
            self.done_at(service, &["pull_policy"]);
            container["imagePullPolicy"] = json!(policy);
        }
        self.probes(name, service, &mut container);
        let lifecycle = self.lifecycle(name, service);
        if lifecycle.as_object().is_some_and(|l| !l.is_empty()) {
            container["lifecycle"] = lifecycle;
        }
        let resources = self.resources(name, service);
        if resources.as_object().is_some_and(|r| !r.is_empty()) {
            container["resources"] = resources;
        }
        let security = self.security(name, service);
        if security.as_object().is_some_and(|s| !s.is_empty()) {
            container["securityContext"] = security;
        }
        let mounts = self.mounts(name, service, volumes);
        if !mounts.is_empty() {
            container["volumeMounts"] = Json::Array(mounts);
        }
        container
    }

    fn command(&mut self, name: &str, service: &'a Node, container: &mut Json) {
        for (key, field) in [("entrypoint", "command"), ("command", "args")] {
            let Some(list) = service.get(&[key]).filter(|n| matches!(n.value, Value::Seq(_))) else {
                continue;
            };
            self.done(list);
            let words: Vec<String> =
                list.items().iter().map(|w| literal(w.as_str().unwrap_or_default())).collect();
            if words.is_empty() {
                // An own entry point already takes the image's command away.
                if key == "entrypoint" || service.get(&["entrypoint"]).is_none_or(Node::is_null) {
                    let message = format!("services.{name}.{key} is lost: it cannot take the image's away");
                    self.lose(list, message);
                }
                continue;
            }
            container[field] = json!(words);
        }
    }

    fn variables(&mut self, name: &str, service: &'a Node) -> Vec<Json> {
        let mut found = Vec::new();
        for (key, value) in entries(service, "environment") {
            self.done(value);
            let full = format!("services.{name}.environment.{}", key.name);
            if value.is_null() {
                self.tell(&key.span, format!("{full} is lost: it has no value here to take along"));
            } else if !key.name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
                || key.name.is_empty()
            {
                self.tell(&key.span, format!("{full} is lost: no variable of a pod can have this name"));
            } else {
                found.push(json!({"name": key.name, "value": literal(&value.scalar().unwrap_or_default())}));
            }
        }
        found
    }

    fn container_ports(&mut self, service: &'a Node) -> Vec<Json> {
        let mut found: Vec<Json> = Vec::new();
        for port in items(service, "ports") {
            let Some(target) = self.int(port, &["target"]) else { continue };
            let protocol = port.text(&["protocol"]).unwrap_or("tcp").to_uppercase();
            let mut entry = json!({"containerPort": target, "protocol": protocol});
            if self.options.publish == Publish::HostPort
                && let Some(number) = port.text(&["published"]).and_then(|p| p.parse::<i64>().ok())
            {
                entry["hostPort"] = json!(number);
                if let Some(address) = port.text(&["host_ip"]) {
                    entry["hostIP"] = json!(address);
                }
            }
            if !found.contains(&entry) {
                found.push(entry);
            }
        }
        found
    }

    /// Hooks: the cluster runs one command at each end of a container's life.
    fn lifecycle(&mut self, name: &str, service: &'a Node) -> Json {
        let mut found = json!({});
        for (key, field) in [("post_start", "postStart"), ("pre_stop", "preStop")] {
            let mut hooks = items(service, key).iter();
            if let Some(first) = hooks.next() {
                let words = self.texts(first, "command");
                found[field] = json!({"exec": {"command": words}});
            }
            for more in hooks {
                self.lose(more, format!("services.{name}.{key}: there is room for one command only"));
            }
        }
        found
    }
}

/// The cluster replaces `$(NAME)`; a doubled dollar sign stays itself.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}
