//! Manifests of the realistic files: they fit the Kubernetes API's pinned schema, what they refer to is there,
//! names and labels are such as the API server takes, pods are restricted where the file allows, and the same
//! project gives the same bytes. After a wanted change: `GANTRY_BLESS=1`, then read the difference.

use crate::common::{files, golden, load, texts};
use gantry_compose::kubernetes::{Conversion, Options, Publish, convert};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

const PUBLISH: [Publish; 4] =
    [Publish::ClusterIp, Publish::NodePort, Publish::LoadBalancer, Publish::HostPort];

fn schema() -> Value {
    serde_json::from_str(include_str!("../kubernetes/schema.json")).unwrap()
}

fn conversions(publish: Publish) -> impl Iterator<Item = (String, Conversion)> {
    let options = Options { publish, volume_size: None };
    texts("files").into_iter().map(move |(name, text)| {
        let project = load(&name, &text).unwrap_or_else(|e| panic!("{}", e.render()));
        (name, convert(&project, &files(), &options))
    })
}

#[test]
fn schemas_are_the_pinned_ones() {
    let table = include_str!("../../schema/README.md");
    for (name, text) in [
        ("schema/compose-spec.json", include_str!("../../schema/compose-spec.json")),
        ("tests/kubernetes/schema.json", include_str!("../kubernetes/schema.json")),
    ] {
        let digest: String = Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        let row = table.lines().find(|l| l.starts_with(&format!("| `{name}` |"))).unwrap();
        assert!(row.contains(&digest), "{name} has the digest {digest}");
    }
}

#[test]
fn manifests_fit_the_kubernetes_api() {
    let (schema, mut wrong, mut count) = (schema(), Vec::new(), 0);
    for publish in PUBLISH {
        for (name, conversion) in conversions(publish) {
            for manifest in &conversion.manifests {
                count += 1;
                let kind = manifest["kind"].as_str().unwrap();
                let version = manifest["apiVersion"].as_str().unwrap();
                let group = match version.split_once('/') {
                    None => format!("core.{version}"),
                    Some((group, version)) => format!("{}.{version}", group.trim_end_matches(".k8s.io")),
                };
                let definition = format!("io.k8s.api.{group}.{kind}");
                let top = schema["definitions"].get(&definition).unwrap_or_else(|| panic!("{definition}"));
                let place = format!("{name}: {kind} {}", manifest["metadata"]["name"]);
                fits(&schema, top, manifest, &place, &mut wrong);
            }
            Cluster { name: &name, manifests: &conversion.manifests }.check(&mut wrong);
            if publish == Publish::NodePort {
                let losses: String = conversion.losses.iter().map(|l| format!("# {l}\n")).collect();
                let text = format!("{losses}{}", conversion.yaml());
                golden("golden", &format!("{name}.kubernetes.yaml"), &text, &mut wrong);
            }
        }
    }
    assert!(count > 600, "{count} manifests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Unknown fields, wrong types and missing fields.
fn fits(root: &Value, schema: &Value, value: &Value, place: &str, wrong: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = &root["definitions"][name.rsplit('/').next().unwrap()];
        assert!(target.is_object(), "{name}");
        return fits(root, target, value, place, wrong);
    }
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        // Quantities, and what may be a number or a name.
        Some("string") => value.is_string() || (schema["format"] == "int-or-string" && value.is_i64()),
        _ => true,
    };
    if !right {
        wrong.push(format!("{place}: {value} is no {}", schema["type"]));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            wrong.push(format!("{place}: {name} is missing"));
        }
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{key}");
        match schema["properties"].get(key) {
            Some(schema) => fits(root, schema, inner, &place, wrong),
            None if schema["additionalProperties"].is_object() => {
                fits(root, &schema["additionalProperties"], inner, &place, wrong);
            }
            None if schema["properties"].is_object() => wrong.push(format!("{place} is unknown")),
            None => {}
        }
    }
    for inner in value.as_array().into_iter().flatten() {
        fits(root, &schema["items"], inner, place, wrong);
    }
}

/// All manifests of one project, as a cluster would have them.
struct Cluster<'a> {
    name: &'a str,
    manifests: &'a [Value],
}

impl Cluster<'_> {
    fn has(&self, kind: &str, name: &Value) -> bool {
        self.manifests.iter().any(|m| m["kind"] == kind && m["metadata"]["name"] == *name)
    }

    fn check(&self, wrong: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        for manifest in self.manifests {
            let (kind, meta) = (manifest["kind"].as_str().unwrap(), &manifest["metadata"]);
            let name = meta["name"].as_str().unwrap();
            let place = format!("{}: {kind} {name}", self.name);
            let mut must = |right: bool, what: &str| {
                if !right {
                    wrong.push(format!("{place}: {what}"));
                }
            };
            must(seen.insert((kind, name)), "the name is taken");
            must(is_dns_name(name), "the name is no DNS name");
            labels(&meta["labels"], &mut must);
            match kind {
                "Service" => self.service(manifest, &mut must),
                "NetworkPolicy" => {
                    must(self.selects(&manifest["spec"]["podSelector"]["matchLabels"]), "selects no pod");
                }
                "Deployment" | "StatefulSet" | "Job" => self.workload(manifest, &mut must),
                _ => {}
            }
        }
    }

    /// Whether some pod has these labels.
    fn selects(&self, labels: &Value) -> bool {
        let labels = labels.as_object().unwrap();
        let of_pod = |m: &&Value| m["spec"]["template"].is_object();
        self.manifests.iter().filter(of_pod).any(|m| {
            let own = &m["spec"]["template"]["metadata"]["labels"];
            labels.iter().all(|(key, value)| own[key] == *value)
        })
    }

    fn service(&self, manifest: &Value, must: &mut impl FnMut(bool, &str)) {
        let spec = &manifest["spec"];
        must(self.selects(&spec["selector"]), "selects no pod");
        let ports = spec["ports"].as_array().cloned().unwrap_or_default();
        must(!ports.is_empty() || spec["clusterIP"] == "None", "has neither ports nor is headless");
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for port in ports {
            must(names.insert(port["name"].to_string()), "a port's name is taken");
            must(numbers.insert(format!("{}{}", port["port"], port["protocol"])), "a port is there twice");
            must((1..=65535).contains(&port["port"].as_i64().unwrap()), "a port is none");
        }
    }

    fn workload(&self, manifest: &Value, must: &mut impl FnMut(bool, &str)) {
        let (spec, template) = (&manifest["spec"], &manifest["spec"]["template"]);
        labels(&template["metadata"]["labels"], must);
        if manifest["kind"] != "Job" {
            let own = &template["metadata"]["labels"];
            let selector = spec["selector"]["matchLabels"].as_object().unwrap();
            must(selector.iter().all(|(k, v)| own[k] == *v), "does not select its own pods");
        }
        if manifest["kind"] == "StatefulSet" {
            must(self.has("Service", &spec["serviceName"]), "its Service is missing");
        }
        let pod = &template["spec"];
        let mut volumes = BTreeSet::new();
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().unwrap();
            must(volumes.insert(name.to_owned()), "a volume's name is taken");
            must(is_dns_name(name), "a volume's name is no DNS name");
            for (kind, reference) in [
                ("PersistentVolumeClaim", &volume["persistentVolumeClaim"]["claimName"]),
                ("ConfigMap", &volume["configMap"]["name"]),
                ("Secret", &volume["secret"]["secretName"]),
            ] {
                must(reference.is_null() || self.has(kind, reference), &format!("no {kind} {reference}"));
            }
        }
        let (mut used, mut names) = (BTreeSet::new(), BTreeSet::new());
        for container in pod["containers"].as_array().unwrap() {
            must(names.insert(container["name"].to_string()), "a container's name is taken");
            let mut paths = BTreeSet::new();
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let name = mount["name"].as_str().unwrap();
                must(volumes.contains(name), &format!("there is no volume {name}"));
                used.insert(name.to_owned());
                must(paths.insert(mount["mountPath"].to_string()), "two mounts at one path");
            }
        }
        must(used == volumes, "a volume is not mounted");
    }
}

fn is_dns_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn labels(labels: &Value, must: &mut impl FnMut(bool, &str)) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap();
        let name = key.rsplit('/').next().unwrap();
        let good =
            |t: &str| t.len() <= 63 && t.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        must(good(name) && good(text), &format!("label {key}={text}"));
    }
}

/// Why the restricted pod security profile refuses a pod; nothing if it does not.
fn not_restricted(pod: &Value) -> Option<String> {
    let host = ["hostNetwork", "hostPID", "hostIPC"].iter().find(|k| pod[**k] == true);
    if let Some(host) = host {
        return Some((*host).to_owned());
    }
    if pod["securityContext"]["seccompProfile"]["type"] != "RuntimeDefault" {
        return Some("seccomp".into());
    }
    let kinds = ["configMap", "emptyDir", "secret", "persistentVolumeClaim", "image"];
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        if !kinds.iter().any(|k| volume.get(*k).is_some()) {
            return Some(format!("volume {volume}"));
        }
    }
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        let added = security["capabilities"]["add"].as_array().cloned().unwrap_or_default();
        let ports = container["ports"].as_array().cloned().unwrap_or_default();
        for (right, what) in [
            (security["runAsNonRoot"] == true && security["runAsUser"] != 0, "runAsNonRoot"),
            (security["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation"),
            (security["capabilities"]["drop"] == serde_json::json!(["ALL"]), "capabilities.drop"),
            (added.iter().all(|c| c == "NET_BIND_SERVICE"), "capabilities.add"),
            (security.get("seccompProfile").is_none(), "seccompProfile"),
            (ports.iter().all(|p| p.get("hostPort").is_none()), "hostPort"),
        ] {
            if !right {
                return Some(what.to_owned());
            }
        }
    }
    None
}

#[test]
fn pods_are_restricted_where_the_file_allows() {
    for (body, refused) in [
        ("user: '1000'", None),
        (
            "user: '1000:1000', cap_add: [NET_BIND_SERVICE], read_only: true, tmpfs: /tmp, volumes: [d:/d]",
            None,
        ),
        ("user: '1000', ports: ['80:80'], expose: [81], secrets: [s]", None),
        ("user: '1000', cap_add: [CAP_NET_BIND_SERVICE], cap_drop: [all]", None),
        // A root user, or one that only the image knows, is what the file asks for.
        ("read_only: true", Some("runAsNonRoot")),
        ("user: '0'", Some("runAsNonRoot")),
        ("user: postgres", Some("runAsNonRoot")),
        ("user: '1000', cap_add: [SYS_ADMIN]", Some("runAsNonRoot")),
        ("user: '1000', network_mode: host", Some("hostNetwork")),
        ("user: '1000', privileged: true", Some("seccomp")),
        ("user: '1000', volumes: ['/etc:/etc']", Some("volume")),
        ("user: '1000', security_opt: [seccomp=unconfined]", Some("seccompProfile")),
    ] {
        let text = format!(
            "services: {{web: {{image: a, {body}}}}}\nvolumes: {{d: }}\nsecrets: {{s: {{environment: TOKEN}}}}\n"
        );
        let project = load("c", &text).unwrap_or_else(|e| panic!("{}", e.render()));
        let conversion = convert(&project, &files(), &Options::default());
        let pod =
            conversion.manifests.iter().find_map(|m| m["spec"]["template"]["spec"].as_object()).unwrap();
        let found = not_restricted(&Value::Object(pod.clone()));
        match refused {
            None => assert_eq!(found, None, "{body}"),
            Some(why) => assert!(found.as_ref().is_some_and(|f| f.starts_with(why)), "{body}: {found:?}"),
        }
    }
}

#[test]
fn the_same_project_gives_the_same_bytes() {
    for (once, again) in conversions(Publish::NodePort).zip(conversions(Publish::NodePort)) {
        assert_eq!(once.1.yaml(), again.1.yaml());
        assert_eq!(once.1.report(), again.1.report());
    }
    // The order in the file says nothing.
    let yaml = |text: &str| {
        let project = load("c", text).unwrap_or_else(|e| panic!("{}", e.render()));
        convert(&project, &files(), &Options::default()).yaml()
    };
    let one = "services:\n  a: {image: x, volumes: ['v:/v'], environment: {A: 1, B: 2}}\n  b: {image: y}\nvolumes: {v: , w: }\n";
    let two = "volumes: {w: , v: }\nservices:\n  b: {image: y}\n  a: {environment: {B: 2, A: 1}, volumes: ['v:/v'], image: x}\n";
    assert_eq!(yaml(one), yaml(two));
}
