//! The realistic files of `tests/files` and how they are loaded.

use gantry_compose::files::MemoryFiles;
use gantry_compose::{ComposeFile, Project, Request};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder beside the tests.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The YAML files of a folder by name.
pub(crate) fn texts(name: &str) -> BTreeMap<String, String> {
    let files = folder(name).read_dir().unwrap().map(|e| e.unwrap().path());
    let yaml = files.filter(|p| p.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(p).unwrap()))
        .collect()
}

/// The files that the realistic ones refer to.
pub(crate) fn files() -> MemoryFiles {
    MemoryFiles::new([
        ("/srv/app/cert.pem", "certificate\n"),
        ("/srv/app/Caddyfile", ":80\n"),
        ("/srv/app/prometheus.yml", "global: {}\n"),
    ])
}

/// A text as a project in `/srv/app`, with all profiles on.
pub(crate) fn load(name: &str, text: &str) -> Result<Project, gantry_compose::Error> {
    let environment = [("HOME", "/home/ann"), ("DB_PASSWORD", "pa$s"), ("TOKEN", "t0k3n")];
    let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mut request = Request::new("/srv/app", environment);
    request.files.push(ComposeFile { path: format!("{name}.yaml"), text: Some(text.to_owned()) });
    request.profiles.push("*".into());
    Project::load(&request, &files())
}

/// Compares with a golden file, or writes it.
pub(crate) fn golden(folder_name: &str, name: &str, text: &str, wrong: &mut Vec<String>) {
    let path = folder(folder_name).join(name);
    if std::env::var_os("GANTRY_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    } else if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
        wrong.push(format!("{}:\n{text}", path.display()));
    }
}
