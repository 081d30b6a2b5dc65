//! Workloads: the pods of services, and what keeps them running.

use super::names::label_value;
use super::{Converter, entries, items, seconds};
use crate::node::Node;
use serde_json::{Value as Json, json};

/// Kernel settings that every kubelet allows.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Most name servers and most search domains of a pod.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// When a container is started again.
struct Restart {
    always: bool,
    on_failure: bool,
    attempts: Option<i64>,
}

impl<'a> Converter<'a> {
    /// The workload of a service, the first of `members`, and of those in its network namespace.
    pub(super) fn workload(&mut self, members: &[(&'a str, &'a Node)]) {
        let Some((name, service)) = members.first().copied() else { return };
        let mut volumes: Vec<Json> = Vec::new();
        let containers: Vec<Json> = members.iter().map(|(n, s)| self.container(n, s, &mut volumes)).collect();
        let mut job = false;
        for (member, node) in members {
            if self.awaited.contains(member) {
                job = members.len() == 1;
                if !job {
                    let message =
                        format!("services.{member}: its end is not seen, it shares a pod with others");
                    self.tell(&node.span, message);
                }
            }
        }
        let claims = volumes.iter().any(|v| v.get("persistentVolumeClaim").is_some());
        let mut pod = json!({"containers": containers, "automountServiceAccountToken": false});
        if !volumes.is_empty() {
            pod["volumes"] = Json::Array(volumes);
        }
        self.pod(name, service, &mut pod);
        for (_, member) in members.iter().skip(1) {
            self.done_at(member, &["network_mode"]);
        }
        let selector = json!({
            "app.kubernetes.io/name": self.name(name),
            "app.kubernetes.io/part-of": label_value(&self.project.name),
        });
        let mut labels = selector.clone();
        self.network_labels(service, &mut labels);
        let mut metadata = json!({"labels": labels});
        let annotations = self.annotations(service, &["labels", "annotations"], &format!("services.{name}"));
        if annotations.as_object().is_some_and(|a| !a.is_empty()) {
            metadata["annotations"] = annotations;
        }
        let template = json!({"metadata": metadata, "spec": pod});
        let replicas = self.replicas(service);
        for (volume, count) in self.claims_of(members) {
            *self.mounted.entry(volume).or_default() += count.saturating_mul(replicas);
        }
        let own = self.name(name);
        let policy = service.text(&["network_mode"]) == Some("none");
        if job {
            let body = self.job(name, service, replicas, template);
            self.add("batch/v1", "Job", &own, Some(name), json!({"spec": body}));
        } else {
            self.restart(name, service);
            let mut spec =
                json!({"replicas": replicas, "selector": {"matchLabels": selector}, "template": template});
            self.update(name, service, claims, &mut spec);
            if claims {
                spec["serviceName"] = json!(own);
                self.add("apps/v1", "StatefulSet", &own, Some(name), json!({"spec": spec}));
            } else {
                self.add("apps/v1", "Deployment", &own, Some(name), json!({"spec": spec}));
            }
        }
        if policy {
            self.no_network(name, &selector);
        }
        for (i, (member, node)) in members.iter().enumerate() {
            // A StatefulSet is found below its own name, whatever its network.
            let hidden = job || (policy && !claims);
            self.address(member, node, &selector, i == 0, hidden);
        }
    }

    /// Volumes that a pod mounts, each once.
    fn claims_of(&self, members: &[(&'a str, &'a Node)]) -> Vec<(&'a str, i64)> {
        let mut found: Vec<(&'a str, i64)> = Vec::new();
        for mount in members.iter().flat_map(|(_, s)| items(s, "volumes")) {
            if let (Some("volume"), Some(source)) = (mount.text(&["type"]), mount.text(&["source"]))
                && !found.iter().any(|(n, _)| *n == source)
            {
                found.push((source, 1));
            }
        }
        found
    }

    fn replicas(&mut self, service: &'a Node) -> i64 {
        let (scale, replicas) = (self.int(service, &["scale"]), self.int(service, &["deploy", "replicas"]));
        if service.text(&["deploy", "mode"]) == Some("replicated") {
            self.done_at(service, &["deploy", "mode"]);
        }
        scale.or(replicas).unwrap_or(1).clamp(0, i64::from(i32::MAX))
    }

    fn restart_of(&mut self, name: &str, service: &'a Node) -> Restart {
        let place = format!("services.{name}");
        self.done_at(service, &["restart"]);
        let policy = ["deploy", "restart_policy"];
        if let Some(condition) = self.text(service, &[policy[0], policy[1], "condition"]) {
            let attempts = self.int(service, &[policy[0], policy[1], "max_attempts"]);
            let on_failure = condition == "on-failure";
            if !["none", "on-failure", "any", ""].contains(&condition) {
                let message =
                    format!("{place}.deploy.restart_policy.condition: {condition:?} is lost; any is meant");
                self.tell(&service.span, message);
            }
            return Restart { always: !on_failure && condition != "none", on_failure, attempts };
        }
        let text = service.text(&["restart"]).unwrap_or("no");
        let (word, attempts) = text.split_once(':').map_or((text, None), |(w, n)| (w, n.parse().ok()));
        Restart {
            always: matches!(word, "always" | "unless-stopped"),
            on_failure: word == "on-failure",
            attempts,
        }
    }

    /// Pods of a workload are always started again.
    fn restart(&mut self, name: &str, service: &'a Node) {
        let restart = self.restart_of(name, service);
        let node =
            service.get(&["deploy", "restart_policy", "condition"]).or_else(|| service.get(&["restart"]));
        let span = node.map_or(&service.span, |n| &n.span);
        if !restart.always {
            self.tell(span, format!("services.{name}.restart: its pods are always started again"));
        } else if restart.attempts.is_some() {
            self.tell(span, format!("services.{name}.restart: its pods are started again without end"));
        }
    }

    /// A pod that others wait for the end of.
    fn job(&mut self, name: &str, service: &'a Node, replicas: i64, mut template: Json) -> Json {
        let restart = self.restart_of(name, service);
        template["spec"]["restartPolicy"] = json!(if restart.on_failure { "OnFailure" } else { "Never" });
        if restart.always {
            self.tell(
                &service.span,
                format!("services.{name}.restart: it runs once, others wait for its end"),
            );
        }
        // Without a limit Docker tries for ever, and the cluster at most that often.
        let limit = if restart.on_failure { restart.attempts.unwrap_or(i64::from(i32::MAX)) } else { 0 };
        let mut spec = json!({"template": template, "backoffLimit": limit.clamp(0, i64::from(i32::MAX))});
        if replicas != 1 {
            spec["parallelism"] = json!(replicas);
            spec["completions"] = json!(replicas);
        }
        spec
    }

    /// How pods of an older kind are replaced.
    fn update(&mut self, name: &str, service: &'a Node, claims: bool, spec: &mut Json) {
        let Some(update) = service.get(&["deploy", "update_config"]) else {
            if !claims {
                spec["strategy"] = json!({"type": "Recreate"});
            }
            return;
        };
        let place = format!("services.{name}.deploy.update_config");
        // None at once means all at once.
        let parallelism = update.get(&["parallelism"]).and_then(Node::as_int).unwrap_or(1);
        let at_once =
            if parallelism <= 0 { json!("100%") } else { json!(parallelism.min(i64::from(i32::MAX))) };
        if claims {
            if parallelism == 1 {
                self.done_at(update, &["parallelism"]);
            }
            if update.text(&["order"]) == Some("stop-first") {
                self.done_at(update, &["order"]);
            }
        } else {
            let order = self.text(update, &["order"]).unwrap_or("stop-first");
            self.done_at(update, &["parallelism"]);
            let rolling = if order == "start-first" {
                json!({"maxSurge": at_once, "maxUnavailable": 0})
            } else {
                json!({"maxSurge": 0, "maxUnavailable": at_once})
            };
            spec["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
        }
        if let Some(delay) = self.text(update, &["delay"]) {
            let ready = seconds(delay).min(i64::from(i32::MAX) - 1);
            if ready > 0 {
                spec["minReadySeconds"] = json!(ready);
            }
            // The deadline, ten minutes unless said otherwise, has to be later.
            if !claims && ready >= 600 {
                spec["progressDeadlineSeconds"] = json!(ready.saturating_add(600).min(i64::from(i32::MAX)));
            }
        }
        if !claims && update.text(&["failure_action"]) == Some("pause") {
            self.done_at(update, &["failure_action"]);
        }
        if update.entries().next().is_none() {
            self.lose(update, format!("{place} says nothing"));
        }
    }

    /// What belongs to the pod as a whole.
    fn pod(&mut self, name: &str, service: &'a Node, pod: &mut Json) {
        for (key, field) in [("network_mode", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")] {
            match (service.text(&[key]), key) {
                (Some("host"), _) => pod[field] = json!(true),
                // A policy without rules keeps everything away.
                (Some("none"), "network_mode") => {}
                (Some("private"), "ipc") => {}
                _ => continue,
            }
            self.done_at(service, &[key]);
        }
        if pod["hostNetwork"] == true {
            pod["dnsPolicy"] = json!("ClusterFirstWithHostNet");
        }
        if service.text(&["userns_mode"]) == Some("host") {
            pod["hostUsers"] = json!(true);
            self.done_at(service, &["userns_mode"]);
        }
        if let Some(node) = service.get(&["hostname"]) {
            let host = self.text(service, &["hostname"]).unwrap_or_default();
            let label = super::names::dns_name(host.split('.').next().unwrap_or_default());
            if label != host {
                self.lose(node, format!("services.{name}.hostname: its pods call themselves {label:?}"));
            }
            pod["hostname"] = json!(label);
        }
        if let Some(time) = self.text(service, &["stop_grace_period"]) {
            pod["terminationGracePeriodSeconds"] = json!(seconds(time));
        }
        if let Some(platform) = service.text(&["platform"]) {
            let parts: Vec<&str> = platform.split('/').collect();
            if let [system, machine] = parts.as_slice()
                && !system.is_empty()
                && !machine.is_empty()
                && [system, machine].iter().all(|p| label_value(p) == **p)
            {
                pod["nodeSelector"] = json!({"kubernetes.io/os": system, "kubernetes.io/arch": machine});
                self.done_at(service, &["platform"]);
            }
        }
        self.hosts(name, service, pod);
        self.dns(name, service, pod);
        let mut security = json!({});
        let privileged = service.get(&["privileged"]).and_then(Node::as_bool) == Some(true);
        if !privileged {
            security["seccompProfile"] = json!({"type": "RuntimeDefault"});
        }
        let mut sysctls = Vec::new();
        for (key, value) in entries(service, "sysctls") {
            self.done(value);
            if !SAFE_SYSCTLS.contains(&key.name.as_str()) {
                let message = format!("services.{name}.sysctls.{}: the kubelet has to allow it", key.name);
                self.tell(&key.span, message);
            }
            sysctls.push(json!({"name": key.name, "value": value.scalar().unwrap_or_default()}));
        }
        if !sysctls.is_empty() {
            security["sysctls"] = Json::Array(sysctls);
        }
        let mut groups = Vec::new();
        for group in items(service, "group_add") {
            let text = group.scalar().unwrap_or_default();
            match text.parse::<i64>() {
                Ok(number) if (0..=i64::from(i32::MAX)).contains(&number) => groups.push(number),
                _ => self.lose(group, format!("services.{name}.group_add: {text:?} has to be a number")),
            }
            self.done(group);
        }
        if !groups.is_empty() {
            security["supplementalGroups"] = json!(groups);
        }
        if security.as_object().is_some_and(|s| !s.is_empty()) {
            pod["securityContext"] = security;
        }
    }

    fn hosts(&mut self, name: &str, service: &'a Node, pod: &mut Json) {
        let mut aliases = Vec::new();
        for host in items(service, "extra_hosts") {
            self.done(host);
            let (alias, address) = host.as_str().unwrap_or_default().split_once('=').unwrap_or_default();
            if address.parse::<std::net::IpAddr>().is_err() {
                let message = format!("services.{name}.extra_hosts: {address} is known on one machine only");
                self.lose(host, message);
            } else if !alias.split('.').all(|l| label_value(&l.to_lowercase()) == l && !l.contains('_')) {
                self.lose(host, format!("services.{name}.extra_hosts: no pod can know the name {alias:?}"));
            } else {
                aliases.push(json!({"ip": address, "hostnames": [alias]}));
            }
        }
        if !aliases.is_empty() {
            pod["hostAliases"] = Json::Array(aliases);
        }
    }

    fn dns(&mut self, name: &str, service: &'a Node, pod: &mut Json) {
        let mut config = json!({});
        for (key, field, most) in
            [("dns", "nameservers", MAX_SERVERS), ("dns_search", "searches", MAX_SEARCHES)]
        {
            let mut kept = Vec::new();
            for node in items(service, key) {
                self.done(node);
                let text = node.as_str().unwrap_or_default();
                let good = if key == "dns" {
                    text.parse::<std::net::IpAddr>().is_ok()
                } else {
                    !text.is_empty() && text.split('.').all(|l| label_value(&l.to_lowercase()) == l)
                };
                if good && kept.len() < most {
                    kept.push(text);
                } else {
                    self.lose(
                        node,
                        format!("services.{name}.{key}: {text:?} is lost: a pod takes {most}, and no such"),
                    );
                }
            }
            if !kept.is_empty() {
                config[field] = json!(kept);
            }
        }
        let options: Vec<Json> = self
            .texts(service, "dns_opt")
            .into_iter()
            .map(|option| match option.split_once(':') {
                Some((name, value)) => json!({"name": name, "value": value}),
                None => json!({"name": option}),
            })
            .collect();
        if !options.is_empty() {
            config["options"] = Json::Array(options);
        }
        if config.as_object().is_some_and(|c| !c.is_empty()) {
            pod["dnsConfig"] = config;
        }
    }
}
