//! The layers: a crate depends on crates of lower layers only.

use serde_json::Value;

/// Layer of each product crate, by the name of its folder.
const LAYERS: [(&str, u8); 18] = [
    ("sys", 0),
    ("stage", 0),
    ("cri-api", 0),
    ("cgroup", 1),
    ("monitor-api", 1),
    ("systemd", 2),
    ("netns", 2),
    ("image-store", 2),
    ("monitor", 2),
    ("oci-runtime", 2),
    ("streaming", 2),
    ("pod-sandbox", 3),
    ("compose", 3),
    ("cri-server", 4),
    ("gantry", 5),
    ("bench", 5),
    ("testkit", 6),
    ("xtask", 6),
];

/// Programs that are run, never linked.
const PROGRAMS: [&str; 3] = ["monitor", "oci-runtime", "bench"];

/// Crates that only tests may use.
const TEST_ONLY: [&str; 3] = ["testkit", "xtask", "e2e"];

/// Breaches of the layering in the output of `cargo metadata --no-deps`; empty when there are none.
pub fn breaches(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = folder(package["name"].as_str().unwrap_or_default());
        if TEST_ONLY.contains(&name) {
            continue;
        }
        let Some(layer) = layer_of(name) else {
            found.push(format!("{name} has no layer; give it one in crates/xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Our own crates are those with a path.
            if !dependency["path"].is_string() {
                continue;
            }
            let other = folder(dependency["name"].as_str().unwrap_or_default());
            let for_tests = dependency["kind"] == "dev";
            if PROGRAMS.contains(&other) {
                found.push(format!("{name} links {other}, which is a program"));
            } else if TEST_ONLY.contains(&other) {
                if !for_tests {
                    found.push(format!("{name} depends on {other}, which is for tests only"));
                }
            } else if layer_of(other).is_none_or(|lower| lower >= layer) {
                found.push(format!("{name} (layer {layer}) depends on {other}, which is not below it"));
            }
        }
    }
    found
}

fn folder(package: &str) -> &str {
    package.strip_prefix("gantry-").unwrap_or(package)
}

fn layer_of(folder: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == folder).map(|(_, layer)| *layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> = dependencies
            .iter()
            .map(|(name, kind)| json!({"name": name, "kind": kind, "path": "/x"}))
            .collect();
        json!({"packages": [{"name": name, "dependencies": dependencies}]})
    }

    #[test]
    fn breaches_are_found() {
        for (name, dependency, kind, breach) in [
            ("gantry-cri-server", "gantry-pod-sandbox", None, false),
            ("gantry-pod-sandbox", "gantry-cri-server", None, true),
            ("gantry-netns", "gantry-image-store", None, true),
            ("gantry-cri-server", "gantry-monitor", None, true),
            ("gantry-netns", "gantry-testkit", None, true),
            ("gantry-netns", "gantry-testkit", Some("dev"), false),
            ("gantry", "gantry-cri-server", None, false),
            ("gantry-unheard-of", "gantry-sys", None, true),
        ] {
            let found = breaches(&package(name, &[(dependency, kind)]));
            assert_eq!(!found.is_empty(), breach, "{name} -> {dependency}: {found:?}");
        }
    }

    #[test]
    fn the_workspace_keeps_its_layers() {
        let output = std::process::Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(metadata["packages"].as_array().unwrap().len() > 10);
        assert_eq!(breaches(&metadata), [""; 0]);
    }
}
