//! Files as people write them for Docker: `config` twice is the same, both results are golden, and the
//! manifests fit the Kubernetes API. After a wanted change: `GANTRY_BLESS=1`, then read the difference.

use gantry_compose::files::MemoryFiles;
use gantry_compose::kubernetes::{Options, Publish, convert};
use gantry_compose::{ComposeFile, Project, Request, print};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn texts(name: &str) -> BTreeMap<String, String> {
    let files = folder(name).read_dir().unwrap().map(|e| e.unwrap().path());
    let yaml = files.filter(|p| p.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(p).unwrap()))
        .collect()
}

fn files() -> MemoryFiles {
    MemoryFiles::new([
        ("/srv/app/cert.pem", "certificate\n"),
        ("/srv/app/Caddyfile", ":80\n"),
        ("/srv/app/prometheus.yml", "global: {}\n"),
    ])
}

fn load(name: &str, text: &str) -> Result<Project, gantry_compose::Error> {
    let environment = [("HOME", "/home/ann"), ("DB_PASSWORD", "pa$s"), ("TOKEN", "t0k3n")];
    let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mut request = Request::new("/srv/app", environment);
    request.files.push(ComposeFile { path: format!("{name}.yaml"), text: Some(text.to_owned()) });
    request.profiles.push("*".into());
    Project::load(&request, &files())
}

fn golden(folder_name: &str, name: &str, text: &str, wrong: &mut Vec<String>) {
    let path = folder(folder_name).join(name);
    if std::env::var_os("GANTRY_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    } else if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
        wrong.push(format!("{}:\n{text}", path.display()));
    }
}

#[test]
fn config_of_config_is_the_same() {
    let (texts, mut wrong) = (texts("files"), Vec::new());
    assert!(texts.len() >= 40, "{} files", texts.len());
    for (name, text) in texts {
        let project = load(&name, &text).unwrap_or_else(|e| panic!("{}", e.render()));
        let once = print::yaml(&project.model, true);
        let again = load(&name, &once).unwrap_or_else(|e| panic!("{}\n{once}", e.render()));
        if print::yaml(&again.model, true) != once {
            wrong.push(format!("{name}:\n{once}\n->\n{}", print::yaml(&again.model, true)));
        }
        let json = print::json(&project.model, true).to_string();
        let from_json = load(&name, &json).unwrap_or_else(|e| panic!("{}\n{json}", e.render()));
        assert_eq!(print::json(&from_json.model, true).to_string(), json, "{name}");
        golden("golden", &format!("{name}.config.yaml"), &once, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn manifests_fit_the_kubernetes_api() {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(folder("kubernetes").join("schema.json")).unwrap())
            .unwrap();
    let options = Options { publish: Publish::NodePort, volume_size: None };
    let mut wrong = Vec::new();
    for (name, text) in texts("files") {
        let project = load(&name, &text).unwrap_or_else(|e| panic!("{}", e.render()));
        let conversion = convert(&project, &files(), &options);
        for manifest in &conversion.manifests {
            let kind = manifest["kind"].as_str().unwrap();
            let version = manifest["apiVersion"].as_str().unwrap();
            let group = match version.split_once('/') {
                None => format!("core.{version}"),
                Some((group, version)) => format!("{}.{version}", group.trim_end_matches(".k8s.io")),
            };
            let definition = format!("io.k8s.api.{group}.{kind}");
            let top = schema["definitions"].get(&definition).unwrap_or_else(|| panic!("{definition}"));
            fits(
                &schema,
                top,
                manifest,
                &format!("{name}: {kind} {}", manifest["metadata"]["name"]),
                &mut wrong,
            );
        }
        let losses: String = conversion.losses.iter().map(|l| format!("# {l}\n")).collect();
        golden(
            "golden",
            &format!("{name}.kubernetes.yaml"),
            &format!("{losses}{}", conversion.yaml()),
            &mut wrong,
        );
    }
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

#[test]
fn wrong_files_get_their_message() {
    let (texts, mut wrong) = (texts("wrong"), Vec::new());
    assert!(texts.len() >= 5);
    for (name, text) in texts {
        let error = load(&name, &text).err().unwrap_or_else(|| panic!("{name} is right"));
        golden("wrong", &format!("{name}.txt"), &error.render(), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
