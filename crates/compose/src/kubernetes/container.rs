//! One container of a pod.

use super::{Converter, is_true};
use crate::finish::nanoseconds;
use crate::node::{Node, Value};
use serde_json::{Value as Json, json};

/// Keys of a service that the manifests carry out; every other key is a loss.
const DONE: [&str; 47] = [
    "image",
    "environment",
    "volumes",
    "ports",
    "expose",
    "restart",
    "depends_on",
    "user",
    "container_name",
    "stop_grace_period",
    "command",
    "entrypoint",
    "healthcheck",
    "hostname",
    "init",
    "networks",
    "network_mode",
    "pid",
    "ipc",
    "cap_add",
    "cap_drop",
    "security_opt",
    "privileged",
    "read_only",
    "shm_size",
    "labels",
    "annotations",
    "extra_hosts",
    "secrets",
    "configs",
    "tmpfs",
    "links",
    "working_dir",
    "deploy",
    "tty",
    "stdin_open",
    "sysctls",
    "dns",
    "dns_search",
    "mem_limit",
    "mem_reservation",
    "cpus",
    "pull_policy",
    "group_add",
    "profiles",
    "scale",
    "attach",
];

const SECOND: i64 = 1_000_000_000;

impl Converter<'_> {
    /// A container, and the volumes of the pod that it mounts.
    pub(super) fn container(&mut self, name: &str, service: &Node, volumes: &mut Vec<Json>) -> Json {
        for (key, node) in service.entries() {
            if !DONE.contains(&key.name.as_str()) && !key.name.starts_with("x-") && !node.is_null() {
                self.lose(&key.span, format!("services.{name}.{} is lost", key.name));
            }
        }
        for path in [&["update_config", "parallelism"][..], &["placement"], &["restart_policy"], &["mode"]] {
            let path: Vec<&str> = ["deploy"].iter().chain(path).copied().collect();
            if let Some(node) = service.get(&path) {
                self.lose(&node.span, format!("services.{name}.{} is lost", path.join(".")));
            }
        }
        let own = self.name(name);
        let image =
            service.text(&["image"]).map_or_else(|| format!("{}-{name}", self.project.name), str::to_owned);
        let mut container = json!({"name": own, "image": image});
        for (key, field) in [("entrypoint", "command"), ("command", "args")] {
            if let Some(list) = service.get(&[key]).filter(|n| matches!(n.value, Value::Seq(_))) {
                let words: Vec<String> =
                    list.items().iter().map(|w| literal(w.as_str().unwrap_or_default())).collect();
                container[field] = json!(words);
            }
        }
        let variables: Vec<Json> = service
            .get(&["environment"])
            .into_iter()
            .flat_map(Node::entries)
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| json!({"name": key.name, "value": literal(&value.scalar().unwrap_or_default())}))
            .collect();
        if !variables.is_empty() {
            container["env"] = Json::Array(variables);
        }
        let mut ports: Vec<Json> = Vec::new();
        for port in service.get(&["ports"]).map(Node::items).unwrap_or_default() {
            let Some(target) = port.get(&["target"]).and_then(Node::as_int) else { continue };
            let protocol = port.text(&["protocol"]).unwrap_or("tcp").to_uppercase();
            let port = json!({"containerPort": target, "protocol": protocol});
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        if !ports.is_empty() {
            container["ports"] = Json::Array(ports);
        }
        if let Some(directory) = service.text(&["working_dir"]) {
            container["workingDir"] = json!(directory);
        }
        for (key, field) in [("tty", "tty"), ("stdin_open", "stdin")] {
            if is_true(service, key) {
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
            container["imagePullPolicy"] = json!(policy);
        }
        self.probes(name, service, &mut container);
        resources(service, &mut container);
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

    fn probes(&mut self, name: &str, service: &Node, container: &mut Json) {
        let Some(check) = service.get(&["healthcheck"]) else { return };
        let test = check.get(&["test"]).map(Node::items).unwrap_or_default();
        let words: Vec<String> =
            test.iter().skip(1).map(|w| w.as_str().unwrap_or_default().to_owned()).collect();
        let command = match test.first().and_then(Node::as_str) {
            _ if is_true(check, "disable") => return,
            Some("NONE") => return,
            Some("CMD") => words,
            Some("CMD-SHELL") => vec!["/bin/sh".into(), "-c".into(), words.join(" ")],
            _ => {
                self.lose(
                    &check.span,
                    format!("services.{name}.healthcheck: the test of the image is not known"),
                );
                return;
            }
        };
        let seconds = |key: &str, default: i64| {
            check.text(&[key]).map_or(default, |t| ((nanoseconds(t) + SECOND - 1) / SECOND).max(1))
        };
        let period = seconds("interval", 30);
        let retries = check.get(&["retries"]).and_then(Node::as_int).unwrap_or(3).max(1);
        let probe = json!({
            "exec": {"command": command},
            "periodSeconds": period,
            "timeoutSeconds": seconds("timeout", 30),
            "failureThreshold": retries,
        });
        if check.get(&["start_period"]).is_some() {
            let often = seconds("start_interval", 5);
            let mut startup = probe.clone();
            startup["periodSeconds"] = json!(often);
            startup["failureThreshold"] = json!(seconds("start_period", 1) / often + retries);
            container["startupProbe"] = startup;
        }
        container["readinessProbe"] = probe;
    }

    fn security(&mut self, name: &str, service: &Node) -> Json {
        let mut security = json!({});
        let list = |key: &str| -> Vec<String> {
            let items = service.get(&[key]).map(Node::items).unwrap_or_default();
            items
                .iter()
                .filter_map(Node::as_str)
                .map(|c| c.trim_start_matches("CAP_").to_uppercase())
                .collect()
        };
        let (add, mut drop) = (list("cap_add"), list("cap_drop"));
        let mut root = true;
        if let Some(user) = service.get(&["user"]) {
            let text = user.scalar().unwrap_or_default();
            let (who, group) = text.split_once(':').map_or((text.as_str(), None), |(w, g)| (w, Some(g)));
            match (who.parse::<i64>(), group.map(str::parse::<i64>)) {
                (Ok(number), group) => {
                    root = number == 0;
                    security["runAsUser"] = json!(number);
                    if let Some(Ok(group)) = group {
                        security["runAsGroup"] = json!(group);
                    } else if group.is_some() {
                        self.lose(&user.span, format!("services.{name}.user: the group has to be a number"));
                    }
                }
                (Err(_), _) => {
                    self.lose(&user.span, format!("services.{name}.user: {text:?} has to be a number"));
                }
            }
        }
        for option in service.get(&["security_opt"]).map(Node::items).unwrap_or_default() {
            match option.as_str().unwrap_or_default() {
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
                    security["allowPrivilegeEscalation"] = json!(false);
                }
                "seccomp=unconfined" | "seccomp:unconfined" => {
                    security["seccompProfile"] = json!({"type": "Unconfined"});
                }
                "apparmor=unconfined" | "apparmor:unconfined" => {
                    security["appArmorProfile"] = json!({"type": "Unconfined"});
                }
                other => {
                    self.lose(&option.span, format!("services.{name}.security_opt: {other:?} is lost"));
                }
            }
        }
        if is_true(service, "privileged") {
            security["privileged"] = json!(true);
            return security;
        }
        if is_true(service, "read_only") {
            security["readOnlyRootFilesystem"] = json!(true);
        }
        // The restricted profile, where the file says that no more is needed.
        if !root && add.iter().all(|c| c == "NET_BIND_SERVICE") {
            security["runAsNonRoot"] = json!(true);
            security["allowPrivilegeEscalation"] = json!(false);
            drop = vec!["ALL".to_owned()];
        }
        if !add.is_empty() || !drop.is_empty() {
            security["capabilities"] = json!({});
            for (field, names) in [("add", add), ("drop", drop)] {
                if !names.is_empty() {
                    security["capabilities"][field] = json!(names);
                }
            }
        }
        security
    }
}

/// The cluster replaces `$(NAME)`; a doubled dollar sign stays itself.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn resources(service: &Node, container: &mut Json) {
    let mut found = json!({});
    for (kind, field, memory, cpus) in
        [("limits", "limits", "mem_limit", "cpus"), ("reservations", "requests", "mem_reservation", "-")]
    {
        let long = |name: &str| service.get(&["deploy", "resources", kind, name]);
        for (name, short) in [("memory", memory), ("cpu", cpus)] {
            let long = long(if name == "cpu" { "cpus" } else { name });
            let value = long.or_else(|| service.get(&[short])).and_then(Node::scalar);
            if let Some(value) = value.filter(|v| v != "0" && !v.is_empty()) {
                found[field][name] = json!(value);
            }
        }
    }
    if found.as_object().is_some_and(|f| !f.is_empty()) {
        container["resources"] = found;
    }
}
