//! Every key that the schema knows is converted to Kubernetes, or its loss is reported. None vanishes.

use gantry_compose::files::MemoryFiles;
use gantry_compose::kubernetes::{Conversion, Options, convert};
use gantry_compose::{ComposeFile, Project, Request};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What else has to be there for a key to mean something; the longest prefix counts.
const AROUND: &[(&str, &str)] = &[
    ("service.blkio_config.device_read_bps.[]", r#"{"path": "/dev/sda", "rate": "1mb"}"#),
    ("service.blkio_config.device_read_iops.[]", r#"{"path": "/dev/sda", "rate": 7}"#),
    ("service.blkio_config.device_write_bps.[]", r#"{"path": "/dev/sda", "rate": "1mb"}"#),
    ("service.blkio_config.device_write_iops.[]", r#"{"path": "/dev/sda", "rate": 7}"#),
    ("service.blkio_config.weight_device.[]", r#"{"path": "/dev/sda", "weight": 7}"#),
    ("service.configs.[]", r#"{"source": "other"}"#),
    ("service.secrets.[]", r#"{"source": "other"}"#),
    ("service.depends_on.*", r#"{"condition": "service_started"}"#),
    ("service.deploy.resources.reservations.devices.[]", r#"{"capabilities": ["gpu"], "driver": "nvidia"}"#),
    ("service.gpus.[]", r#"{"driver": "nvidia", "capabilities": ["gpu"]}"#),
    ("service.develop.watch.[]", r#"{"path": "./src", "action": "sync", "target": "/src"}"#),
    ("service.devices.[]", r#"{"source": "/dev/null", "target": "/dev/null"}"#),
    ("service.pre_start.[].devices.[]", r#"{"source": "/dev/null"}"#),
    ("service.pre_start.[].env_file.[]", r#"{"path": "env"}"#),
    ("service.pre_start.[].ulimits.*", r#"{"soft": 1, "hard": 2}"#),
    ("service.pre_start.[].volumes.[]", r#"{"type": "bind", "source": "/src", "target": "/dst"}"#),
    ("service.build.secrets.[]", r#"{"source": "other"}"#),
    ("service.build.ulimits.*", r#"{"soft": 1, "hard": 2}"#),
    ("service.develop.watch.[].exec", r#"{"command": "true"}"#),
    ("service.env_file.[]", r#"{"path": "env"}"#),
    ("service.extends", r#"{"service": "other"}"#),
    ("service.healthcheck", r#"{"test": ["CMD", "true"], "start_period": "9s"}"#),
    ("service.ports.[]", r#"{"target": 80, "published": "8080"}"#),
    ("service.post_start.[]", r#"{"command": ["true"]}"#),
    ("service.pre_stop.[]", r#"{"command": ["true"]}"#),
    ("service.ulimits.*", r#"{"soft": 1, "hard": 2}"#),
    ("service.deploy.placement.preferences.[]", r#"{"spread": "b"}"#),
    ("service.volumes.[]", r#"{"type": "bind", "source": "/src", "target": "/dst"}"#),
    ("service.provider", r#"{"type": "a"}"#),
    ("secret", r#"{"file": "./content"}"#),
    ("config", r#"{"file": "./content"}"#),
];

/// Values that differ from what the type alone would say.
const VALUES: &[(&str, &str)] = &[
    ("service.env_file", "env"),
    ("service.env_file.[]", "env"),
    ("service.env_file.[].path", "env"),
    ("service.env_file.[].format", "raw"),
    ("service.label_file", "env"),
    ("service.label_file.[]", "env"),
    ("config.environment", "V"),
    ("secret.environment", "V"),
    ("secret.file", "./env"),
    ("config.file", "./env"),
    ("service.extends", "other"),
    ("service.extends.file", "other.yaml"),
    ("service.extends.service", "other"),
    ("service.healthcheck.test.[]", "CMD"),
];

/// Keys of which neither manifests nor report show anything, and why that is right.
const SILENT: &[(&str, &str)] = &[
    ("service.depends_on.*.required", "the line about the edge says that all of it is lost"),
    ("service.depends_on.*.restart", "the line about the edge says that all of it is lost"),
    ("service.env_file.[].format", "the file was read"),
    ("service.env_file.[].required", "the file was read"),
    ("service.extends", "what it brings is in the model like everything else"),
    ("service.profiles", "the caller chose which services are on"),
];

const OTHER: &str = "services: {other: {image: busybox, read_only: true}}";

/// Booleans that mean something when they are false.
const ON: &[&str] = &[
    "service.attach",
    "service.volumes.[].bind.create_host_path",
    "service.pre_start.[].volumes.[].bind.create_host_path",
    "network.enable_ipv4",
];

fn main_schema() -> Value {
    serde_json::from_str(include_str!("../schema/compose-spec.json")).unwrap()
}

/// Paths of all scalars below a definition.
fn leaves(
    root: &Value,
    schema: &Value,
    path: &str,
    seen: &[&str],
    out: &mut BTreeSet<(String, String, String)>,
) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        if !seen.contains(&name) {
            leaves(root, &root["$defs"][name], path, &[seen, &[name]].concat(), out);
        }
    }
    for choice in ["oneOf", "anyOf", "allOf"].iter().flat_map(|c| schema[c].as_array().into_iter().flatten())
    {
        leaves(root, choice, path, seen, out);
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        leaves(root, inner, &format!("{path}.{key}"), seen, out);
    }
    for (pattern, inner) in schema["patternProperties"].as_object().into_iter().flatten() {
        if pattern != "^x-" {
            leaves(root, inner, &format!("{path}.*"), seen, out);
        }
    }
    if schema["items"].is_object() {
        leaves(root, &schema["items"], &format!("{path}.[]"), seen, out);
    }
    let types = match &schema["type"] {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    };
    for kind in types.iter().filter_map(Value::as_str) {
        if !["object", "array", "null"].contains(&kind) {
            let choice = schema["enum"].as_array().and_then(|e| e.last()).and_then(Value::as_str);
            out.insert((path.to_owned(), kind.to_owned(), choice.unwrap_or_default().to_owned()));
        }
    }
}

/// Values to try; the first that the loader takes counts.
fn samples(path: &str, kind: &str, choice: &str) -> Vec<Value> {
    if let Some((_, value)) = VALUES.iter().find(|(p, _)| *p == path) {
        return vec![json!(value)];
    }
    match kind {
        "boolean" => vec![json!(!ON.contains(&path))],
        "integer" | "number" => vec![json!(7)],
        _ if ON.contains(&path) => vec![json!("false")],
        _ if !choice.is_empty() => vec![json!(choice)],
        _ => ["a", "name", "other", "true", "7", "7s", "7m", "a=1.2.3.4", "/a", "10.0.0.7", "always"]
            .map(|v| json!(v))
            .into(),
    }
}

/// A value with `leaf` at a path, amid what has to be around it; without a leaf only what is around.
fn build(parts: &[&str], path: &str, leaf: Option<&Value>) -> Option<Value> {
    let around =
        AROUND.iter().find(|(p, _)| *p == path).map(|(_, v)| serde_json::from_str::<Value>(v).unwrap());
    let Some((first, rest)) = parts.split_first() else { return leaf.cloned() };
    let inner = build(rest, &format!("{path}.{first}"), leaf);
    if *first == "[]" {
        return inner.map(|i| json!([i]));
    }
    let name = if *first == "*" { "other" } else { first };
    let mut whole = match around {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    match inner {
        Some(inner) => whole.insert(name.to_owned(), inner),
        None => whole.remove(name),
    };
    Some(Value::Object(whole)).filter(|w| leaf.is_some() || w.as_object().is_some_and(|w| !w.is_empty()))
}

/// A project with a service, network, volume, secret and config that all use each other.
fn project(definition: &str, value: Value) -> Value {
    let mut model = json!({
        "services": {
            "web": {"image": "nginx", "restart": "always"},
            "other": {"image": "nginx", "restart": "always"},
        },
        "secrets": {"other": {"file": "./content"}},
        "configs": {"other": {"file": "./content"}},
        "networks": {"other": {}, "default": {}},
        "volumes": {"other": {"x-size": "1Gi"}},
        "models": {"other": {"model": "m"}},
    });
    let merge = |slot: &mut Value, value: Value| {
        for (key, value) in value.as_object().cloned().unwrap_or_default() {
            slot[key] = value;
        }
    };
    match definition {
        "service" => merge(&mut model["services"]["web"], value),
        "network" => {
            model["services"]["web"]["networks"] = json!({"other": {}, "default": {}});
            merge(&mut model["networks"]["other"], value);
        }
        "volume" => {
            model["services"]["web"]["volumes"] = json!(["other:/data"]);
            merge(&mut model["volumes"]["other"], value);
        }
        "secret" | "config" => {
            let section = format!("{definition}s");
            model["services"]["web"][&section] = json!(["other"]);
            model[&section]["other"] = value;
            let entry = model[&section]["other"].as_object_mut().unwrap();
            // Only one of these may say where the content is from.
            if ["environment", "content", "external"].iter().any(|k| entry.contains_key(*k)) {
                entry.remove("file");
            }
        }
        _ => unreachable!(),
    }
    model
}

fn converted(model: &Value) -> Result<Conversion, String> {
    let mut request = Request::new("/p", BTreeMap::from([("V".to_owned(), "v".to_owned())]));
    let text = model.to_string().replace('$', "$$");
    request.files.push(ComposeFile { path: "c.yaml".into(), text: Some(text) });
    request.profiles.push("*".into());
    let files = MemoryFiles::new([("/p/content", "text"), ("/p/env", "A=1\n"), ("/p/other.yaml", OTHER)]);
    let project = Project::load(&request, &files).map_err(|e| e.to_string())?;
    Ok(convert(&project, &files, &Options::default()))
}

fn messages(conversion: &Conversion) -> BTreeSet<String> {
    conversion.losses.iter().map(|l| l.message.clone()).collect()
}

#[test]
fn every_key_is_converted_or_reported() {
    let root = main_schema();
    let (mut count, mut wrong, mut silent) = (0, Vec::new(), BTreeSet::new());
    for definition in ["service", "network", "volume", "secret", "config"] {
        let mut found = BTreeSet::new();
        leaves(&root, &root["$defs"][definition], definition, &[definition], &mut found);
        for (path, kind, choice) in found {
            count += 1;
            let parts: Vec<&str> = path.split('.').skip(1).collect();
            let with = samples(&path, &kind, &choice).into_iter().map(|value| {
                converted(&project(definition, build(&parts, definition, Some(&value)).unwrap()))
            });
            let with = with.reduce(|first, next| if first.is_ok() { first } else { next }).unwrap();
            let without = project(definition, build(&parts, definition, None).unwrap_or_else(|| json!({})));
            let (with, without) = match (with, converted(&without)) {
                (Ok(with), Ok(without)) => (with, without),
                // What is around the key needs it.
                (Ok(with), Err(_)) => (with, converted(&project("service", json!({}))).unwrap()),
                (Err(error), _) => {
                    wrong.push(format!("{path} ({kind}): {error}"));
                    continue;
                }
            };
            let (told, before) = (messages(&with), messages(&without));
            let place = format!("services.web.{}", parts.join("."));
            let covered = told.iter().filter_map(|m| m.split_once(" is lost")).any(|(lost, _)| {
                let lost = lost.replace(".other", ".*").replace("[0]", "[]");
                place.starts_with(&lost) && lost.split('.').count() > 2
            });
            if with.manifests == without.manifests && told.is_subset(&before) && !covered {
                silent.insert(path.clone());
                if !SILENT.iter().any(|(p, _)| path.starts_with(p)) {
                    wrong.push(format!("{path} ({kind}): neither converted nor reported"));
                }
            }
        }
    }
    for (path, _) in SILENT {
        assert!(silent.iter().any(|s| s.starts_with(path)), "{path} is not silent");
    }
    assert!(count > 450, "{count} keys");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}
