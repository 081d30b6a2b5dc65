//! The names that services find each other by, ports that are reached from outside, and who may talk to whom.

use super::names::{dns_name, is_annotation};
use super::{Converter, Publish, entries, items};
use crate::node::Node;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// Most ports of one Service.
const MAX_PORTS: usize = 250;

/// Ports that a NodePort can ask for.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;

impl<'a> Converter<'a> {
    /// What makes a service found: by its name and aliases inside, on its published ports from outside.
    pub(super) fn address(
        &mut self,
        name: &'a str,
        service: &'a Node,
        selector: &Json,
        leads: bool,
        job: bool,
    ) {
        let inside = self.ports_inside(name, service);
        let outside = self.ports_outside(name, service);
        let own = self.name(name);
        let hidden = service.text(&["network_mode"]) == Some("none") || !leads || job;
        if !inside.is_empty() || !hidden {
            // Without ports it is a name alone: all ports are reached, as on a network of Compose.
            let spec = if inside.is_empty() {
                json!({"clusterIP": "None", "selector": selector})
            } else {
                json!({"type": "ClusterIP", "selector": selector, "ports": inside})
            };
            self.add("v1", "Service", &own, Some(name), json!({"spec": spec.clone()}));
            self.aliases(name, service, &spec);
        }
        if outside.is_empty() {
            return;
        }
        let kind = match self.options.publish {
            Publish::NodePort => Some("NodePort"),
            Publish::LoadBalancer => Some("LoadBalancer"),
            Publish::ClusterIp | Publish::HostPort => None,
        };
        if let Some(kind) = kind {
            let full = self.names.give("services", &format!("{name}/published"), &format!("{own}-published"));
            let spec = json!({"type": kind, "selector": selector, "ports": outside});
            self.add("v1", "Service", &full, Some(name), json!({"spec": spec}));
        }
        if self.isolated {
            // What is published is heard from everywhere.
            let mut open: Vec<Json> = Vec::new();
            for port in &outside {
                let port = json!({"port": port["targetPort"], "protocol": port["protocol"]});
                if !open.contains(&port) {
                    open.push(port);
                }
            }
            let full = self.names.give("policies", &format!("{name}/published"), &format!("{own}-published"));
            let spec = json!({
                "podSelector": {"matchLabels": selector},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": open}],
            });
            self.add("networking.k8s.io/v1", "NetworkPolicy", &full, Some(name), json!({"spec": spec}));
        }
    }

    /// Other names of a service; the cluster knows a name in one meaning only.
    fn aliases(&mut self, name: &'a str, service: &'a Node, spec: &Json) {
        let mut wanted: Vec<(&'a str, &'a Node, String)> = Vec::new();
        if let Some(node) = service.get(&["container_name"]) {
            wanted.push((node.as_str().unwrap_or_default(), node, format!("services.{name}.container_name")));
        }
        for (network, options) in entries(service, "networks") {
            for alias in items(options, "aliases") {
                let place = format!("services.{name}.networks.{}.aliases", network.name);
                wanted.push((alias.as_str().unwrap_or_default(), alias, place));
            }
        }
        for link in items(service, "links") {
            let text = link.as_str().unwrap_or_default();
            // Everybody finds a service by its name.
            if text.split_once(':').is_none_or(|(to, alias)| to == alias) {
                self.done(link);
            }
        }
        let mut known = BTreeSet::from([name.to_owned(), self.name(name)]);
        for (alias, node, place) in wanted {
            self.done(node);
            if known.contains(alias) {
                continue;
            }
            if self.names.take("services", alias) {
                known.insert(alias.to_owned());
                self.add("v1", "Service", alias, Some(name), json!({"spec": spec}));
            } else {
                let why = if dns_name(alias) == alias {
                    "it is the name of something else"
                } else {
                    "no Service can be called so"
                };
                self.lose(node, format!("{place}: {alias:?} is lost: {why}"));
            }
        }
    }

    /// Ports that others in the project use: those of the container.
    fn ports_inside(&mut self, name: &str, service: &'a Node) -> Vec<Json> {
        let (mut ports, mut seen) = (Vec::new(), BTreeSet::new());
        for port in items(service, "ports") {
            let Some(target) = self.int(port, &["target"]) else { continue };
            let protocol = self.text(port, &["protocol"]).unwrap_or("tcp").to_uppercase();
            let application = port.text(&["app_protocol"]).filter(|a| is_annotation(a));
            if application.is_some() {
                self.done_at(port, &["app_protocol"]);
            }
            if seen.insert((target, protocol.clone())) {
                ports.push(service_port(target, target, &protocol, application));
            }
        }
        for expose in items(service, "expose") {
            self.done(expose);
            let text = expose.as_str().unwrap_or_default();
            let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let protocol = protocol.to_uppercase();
            let Some((first, last)) = crate::short::range(number).filter(|(first, _)| *first > 0) else {
                self.lose(expose, format!("services.{name}.expose: {text:?} is lost: it is no port"));
                continue;
            };
            for number in i64::from(first)..=i64::from(last) {
                if seen.insert((number, protocol.clone())) {
                    ports.push(service_port(number, number, &protocol, None));
                }
            }
        }
        if ports.len() > MAX_PORTS {
            let message =
                format!("services.{name}: it has {} ports, of which {MAX_PORTS} are kept", ports.len());
            self.tell(&service.span, message);
            ports.truncate(MAX_PORTS);
        }
        ports
    }

    /// Ports that are reached from outside.
    fn ports_outside(&mut self, name: &str, service: &'a Node) -> Vec<Json> {
        let (mut ports, mut seen) = (Vec::new(), BTreeSet::new());
        let publish = self.options.publish;
        for port in items(service, "ports") {
            let Some(target) = port.get(&["target"]).and_then(Node::as_int) else { continue };
            let protocol = port.text(&["protocol"]).unwrap_or("tcp").to_uppercase();
            let outside = self.text(port, &["published"]).unwrap_or_default();
            let at = format!("services.{name}.ports: {outside}:{target}");
            let number = outside.parse::<i64>().ok().filter(|n| *n > 0);
            if publish == Publish::ClusterIp {
                self.tell(
                    &port.span,
                    format!("{at} is reached from inside of the cluster only; see --publish"),
                );
            }
            let address = port.text(&["host_ip"]).and_then(|a| a.parse::<std::net::IpAddr>().ok());
            if address.is_some_and(|a| a.is_unspecified()) {
                self.done_at(port, &["host_ip"]);
            } else if address.is_some_and(|a| a.is_loopback())
                && matches!(publish, Publish::NodePort | Publish::LoadBalancer)
            {
                // What was for the machine itself is not for the world.
                self.lose(port, format!("{at} is for the machine itself, so it is not published"));
                continue;
            }
            // A mode says how several machines share a port; here is one.
            if port.text(&["mode"]) == Some("ingress") || publish == Publish::HostPort {
                self.done_at(port, &["mode"]);
            }
            if publish == Publish::HostPort && number.is_some() {
                self.done_at(port, &["host_ip"]);
            } else if outside.contains('-') || (publish == Publish::HostPort && number.is_none()) {
                self.tell(&port.span, format!("{at}: a port out of many, which nobody chooses"));
            }
            let number = number.unwrap_or(target);
            if !seen.insert((number, protocol.clone())) {
                self.tell(&port.span, format!("{at}: {number} is published twice"));
                continue;
            }
            let mut entry = service_port(number, target, &protocol, port.text(&["app_protocol"]));
            if publish == Publish::NodePort {
                if NODE_PORTS.contains(&number) {
                    entry["nodePort"] = json!(number);
                } else {
                    let message = format!("{at} is on a port of the nodes that the cluster chooses");
                    self.tell(&port.span, message);
                }
            }
            ports.push(entry);
        }
        ports.truncate(MAX_PORTS);
        ports
    }

    /// Pods of a network hear each other; those of internal networks say nothing to anybody else.
    pub(super) fn network(&mut self, name: &'a str) {
        let Some(network) = self.project.model.get(&["networks", name]) else { return };
        if network.text(&["name"]) == Some(format!("{}_{name}", self.project.name).as_str()) {
            self.done_at(network, &["name"]);
        }
        if matches!(network.text(&["driver"]), Some("bridge" | "default" | "")) {
            self.done_at(network, &["driver"]);
        }
        if !self.isolated {
            return;
        }
        let internal = self.flag(network, &["internal"]);
        let label = json!({self.network_label(name): "true"});
        let peers = json!([{"podSelector": {"matchLabels": label}}]);
        let mut spec = json!({
            "podSelector": {"matchLabels": label},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}],
        });
        if internal {
            let dns = json!([{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]);
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
            spec["egress"] = json!([{"to": peers}, {"ports": dns}]);
        } else if self.internal {
            // Who is in an internal network too has its way out here.
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
            spec["egress"] = json!([{}]);
        }
        let annotations = self.annotations(network, &["labels"], &format!("networks.{name}"));
        let full = self.names.of("policies", name);
        self.add(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            &full,
            None,
            json!({"annotations": annotations, "spec": spec}),
        );
    }

    /// A pod without any network.
    pub(super) fn no_network(&mut self, name: &'a str, selector: &Json) {
        let wanted = format!("{}-none", self.name(name));
        let full = self.names.give("policies", &format!("{name}/none"), &wanted);
        let spec = json!({"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress", "Egress"]});
        self.add("networking.k8s.io/v1", "NetworkPolicy", &full, Some(name), json!({"spec": spec}));
    }

    /// Label of the pods in a network.
    pub(super) fn network_label(&self, name: &str) -> String {
        format!("network.compose/{}", self.names.of("policies", name))
    }

    /// Labels of a pod for the networks it is in.
    pub(super) fn network_labels(&mut self, service: &'a Node, labels: &mut Json) {
        for (key, node) in entries(service, "networks") {
            if node.entries().next().is_none() {
                self.done(node);
            }
            if self.isolated {
                labels[self.network_label(&key.name)] = json!("true");
            }
        }
    }
}

fn service_port(number: i64, target: i64, protocol: &str, application: Option<&str>) -> Json {
    let name = format!("{}-{number}", protocol.to_lowercase());
    let mut port = json!({"name": name, "port": number, "targetPort": target, "protocol": protocol});
    if let Some(application) = application.filter(|a| is_annotation(a)) {
        port["appProtocol"] = json!(application);
    }
    port
}
