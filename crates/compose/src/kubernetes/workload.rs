//! Workloads, and the services in front of them.

use super::{Converter, Publish, dns_name, is_true, network_label};
use crate::finish::nanoseconds;
use crate::node::Node;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

const SECOND: i64 = 1_000_000_000;

impl Converter<'_> {
    /// The workload of a service and of those in its network namespace.
    pub(super) fn workload(&mut self, name: &str, service: &Node, members: &[(&str, &Node)]) {
        let all: Vec<(&str, &Node)> = [(name, service)].into_iter().chain(members.iter().copied()).collect();
        let mut volumes: Vec<Json> = Vec::new();
        let containers: Vec<Json> = all.iter().map(|(n, s)| self.container(n, s, &mut volumes)).collect();
        let job = self.awaited.contains(name);
        let claims = all.iter().any(|(_, s)| {
            let mounts = s.get(&["volumes"]).map(Node::items).unwrap_or_default();
            mounts.iter().any(|m| m.text(&["type"]) == Some("volume") && m.get(&["source"]).is_some())
        });
        let mut pod = json!({"containers": containers, "automountServiceAccountToken": false});
        if !volumes.is_empty() {
            pod["volumes"] = Json::Array(volumes);
        }
        self.pod(name, service, &mut pod);
        let restart = service.text(&["restart"]).unwrap_or("no");
        if job {
            let policy = if restart.starts_with("on-failure") { "OnFailure" } else { "Never" };
            pod["restartPolicy"] = json!(policy);
        } else if restart == "no" || restart.starts_with("on-failure") {
            let span = service.get(&["restart"]).map_or(&service.span, |n| &n.span);
            self.lose(span, format!("services.{name}.restart: its pods are always started again"));
        }
        let selector = json!({"app.kubernetes.io/name": self.name(name), "app.kubernetes.io/part-of": self.project.name});
        let mut labels = selector.clone();
        if self.isolated {
            for (key, _) in service.get(&["networks"]).into_iter().flat_map(Node::entries) {
                labels[network_label(&key.name)] = json!("true");
            }
        }
        let mut metadata = json!({"labels": labels});
        let annotations = self.annotations(service);
        if annotations.as_object().is_some_and(|a| !a.is_empty()) {
            metadata["annotations"] = annotations;
        }
        let template = json!({"metadata": metadata, "spec": pod});
        let replicas = service.get(&["scale"]).or_else(|| service.get(&["deploy", "replicas"]));
        let replicas = replicas.and_then(Node::as_int).unwrap_or(1);
        let own = self.name(name);
        if job {
            self.add("batch/v1", "Job", &own, Some(name), json!({"spec": {"template": template}}));
        } else if claims {
            let spec = json!({"replicas": replicas, "serviceName": own, "selector": {"matchLabels": selector}, "template": template});
            self.add("apps/v1", "StatefulSet", &own, Some(name), json!({"spec": spec}));
        } else {
            let mut spec =
                json!({"replicas": replicas, "selector": {"matchLabels": selector}, "template": template});
            if service.text(&["deploy", "update_config", "order"]) != Some("start-first") {
                spec["strategy"] = json!({"type": "Recreate"});
            }
            self.add("apps/v1", "Deployment", &own, Some(name), json!({"spec": spec}));
        }
        for (member, node) in &all {
            self.service(member, node, &selector);
        }
    }

    fn annotations(&self, service: &Node) -> Json {
        let mut found = json!({});
        for key in ["labels", "annotations"] {
            for (name, value) in service.get(&[key]).into_iter().flat_map(Node::entries) {
                if is_annotation(&name.name) {
                    found[&name.name] = json!(value.scalar().unwrap_or_default());
                }
            }
        }
        found
    }

    /// What belongs to the pod as a whole.
    fn pod(&mut self, name: &str, service: &Node, pod: &mut Json) {
        for key in ["labels", "annotations"] {
            for (label, _) in service.get(&[key]).into_iter().flat_map(Node::entries) {
                if !is_annotation(&label.name) {
                    self.lose(
                        &label.span,
                        format!("services.{name}.{key}.{}: no annotation can have this name", label.name),
                    );
                }
            }
        }
        for (key, field, value) in
            [("network_mode", "hostNetwork", "host"), ("pid", "hostPID", "host"), ("ipc", "hostIPC", "host")]
        {
            let Some(node) = service.get(&[key]) else { continue };
            match node.as_str() {
                Some(text) if text == value => pod[field] = json!(true),
                Some(text) if text.starts_with("service:") && key == "network_mode" => {}
                _ => self.lose(&node.span, format!("services.{name}.{key} has no like in a cluster")),
            }
        }
        if let Some(host) = service.text(&["hostname"]) {
            pod["hostname"] = json!(dns_name(host));
        }
        if let Some(time) = service.text(&["stop_grace_period"]) {
            pod["terminationGracePeriodSeconds"] = json!((nanoseconds(time) + SECOND - 1) / SECOND);
        }
        let hosts = service.get(&["extra_hosts"]).map(Node::items).unwrap_or_default();
        let mut aliases = Vec::new();
        for host in hosts {
            let (alias, address) = host.as_str().unwrap_or_default().split_once('=').unwrap_or_default();
            if address.parse::<std::net::IpAddr>().is_ok() {
                aliases.push(json!({"ip": address, "hostnames": [alias]}));
            } else {
                self.lose(
                    &host.span,
                    format!("services.{name}.extra_hosts: {address} is known on one machine only"),
                );
            }
        }
        if !aliases.is_empty() {
            pod["hostAliases"] = Json::Array(aliases);
        }
        let texts = |key: &str| -> Vec<&str> {
            service.get(&[key]).map(Node::items).unwrap_or_default().iter().filter_map(Node::as_str).collect()
        };
        let (servers, searches) = (texts("dns"), texts("dns_search"));
        if !servers.is_empty() || !searches.is_empty() {
            pod["dnsConfig"] = json!({"nameservers": servers, "searches": searches});
        }
        let sysctls: Vec<Json> = service
            .get(&["sysctls"])
            .into_iter()
            .flat_map(Node::entries)
            .map(|(k, v)| json!({"name": k.name, "value": v.scalar().unwrap_or_default()}))
            .collect();
        let mut security = json!({});
        if !is_true(service, "privileged") {
            security["seccompProfile"] = json!({"type": "RuntimeDefault"});
        }
        if !sysctls.is_empty() {
            security["sysctls"] = Json::Array(sysctls);
        }
        let groups = texts("group_add");
        let numbers: Vec<i64> = groups.iter().filter_map(|g| g.parse().ok()).collect();
        if numbers.len() < groups.len() {
            let span = service.get(&["group_add"]).map_or(&service.span, |n| &n.span);
            self.lose(span, format!("services.{name}.group_add: groups have to be numbers"));
        }
        if !numbers.is_empty() {
            security["supplementalGroups"] = json!(numbers);
        }
        pod["securityContext"] = security;
    }

    /// The address that others find a service at.
    fn service(&mut self, name: &str, service: &Node, selector: &Json) {
        let mut ports: Vec<Json> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut published = false;
        for port in service.get(&["ports"]).map(Node::items).unwrap_or_default() {
            let Some(target) = port.get(&["target"]).and_then(Node::as_int) else { continue };
            let protocol = port.text(&["protocol"]).unwrap_or("tcp").to_uppercase();
            let outside = port.text(&["published"]).unwrap_or_default();
            let number = outside.parse::<i64>().unwrap_or(target);
            published = true;
            let at = format!("services.{name}.ports: {outside}:{target}");
            if self.publish == Publish::ClusterIp {
                self.lose(
                    &port.span,
                    format!("{at} is reached from inside of the cluster only; see --publish"),
                );
            }
            if port.get(&["host_ip"]).is_some() || outside.contains('-') {
                self.lose(&port.span, format!("{at}: its host address or range is lost"));
            }
            // Others in the project use the container's own port.
            for number in BTreeSet::from([target, number]) {
                if seen.insert((number, protocol.clone())) {
                    ports.push(service_port(number, target, &protocol));
                }
            }
        }
        for port in service.get(&["expose"]).map(Node::items).unwrap_or_default() {
            let text = port.as_str().unwrap_or_default();
            let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let Some((first, last)) = crate::short::range(number) else { continue };
            for number in (first..=last).map(i64::from) {
                if seen.insert((number, protocol.to_uppercase())) {
                    ports.push(service_port(number, number, &protocol.to_uppercase()));
                }
            }
        }
        if ports.is_empty() {
            return;
        }
        let mut spec = json!({"selector": selector, "ports": ports});
        spec["type"] = match (self.publish, published) {
            (Publish::NodePort, true) => json!("NodePort"),
            (Publish::LoadBalancer, true) => json!("LoadBalancer"),
            _ => json!("ClusterIP"),
        };
        let own = self.name(name);
        self.add("v1", "Service", &own, Some(name), json!({"spec": spec}));
        if self.isolated && published {
            // What is published is heard from everywhere.
            let open: Vec<Json> =
                ports.iter().map(|p| json!({"port": p["targetPort"], "protocol": p["protocol"]})).collect();
            let spec = json!({"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress"], "ingress": [{"ports": open}]});
            self.add(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                &format!("{own}-published"),
                Some(name),
                json!({"spec": spec}),
            );
        }
    }
}

fn service_port(number: i64, target: i64, protocol: &str) -> Json {
    let name = format!("{}-{number}", protocol.to_lowercase());
    json!({"name": name, "port": number, "targetPort": target, "protocol": protocol})
}

/// Whether the cluster takes a text as the name of an annotation.
fn is_annotation(name: &str) -> bool {
    let (prefix, name) = name.split_once('/').map_or((None, name), |(p, n)| (Some(p), n));
    let edge = |c: char| c.is_ascii_alphanumeric();
    let part = |text: &str, also: &str| {
        !text.is_empty()
            && text.starts_with(edge)
            && text.ends_with(edge)
            && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    name.len() <= 63
        && part(name, "._-")
        && prefix.is_none_or(|p| p.len() <= 253 && part(p, ".-") && p == p.to_lowercase())
}
