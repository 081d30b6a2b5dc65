//! Plans: what is done when one thing of a project changed. Each file of `tests/plans` has the project as it was
//! brought up, a line `=====`, and the project as it is wanted; the plan is golden beside it. Comment lines
//! `# stopped: web-1`, `# image: web`, `# content: configs.c` and `# profile: p` say what else is different.

use gantry_compose::files::MemoryFiles;
use gantry_compose::plan::{Action, Observed, ObservedContainer, plan};
use gantry_compose::{ComposeFile, Project, Request, print};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn load(text: &str) -> Project {
    let mut request = Request::new("/p", BTreeMap::new());
    request.files.push(ComposeFile { path: "c.yaml".into(), text: Some(text.into()) });
    request.profiles = said(text, "profile");
    Project::load(&request, &MemoryFiles::default()).unwrap_or_else(|e| panic!("{}", e.render()))
}

/// What comments of a file say about one thing.
fn said(text: &str, what: &str) -> Vec<String> {
    let front = format!("# {what}: ");
    text.lines().filter_map(|l| l.strip_prefix(&front)).map(str::to_owned).collect()
}

/// What would be there had a project been brought up.
fn observed(project: &Project) -> Observed {
    let made = |section| -> BTreeMap<String, Value> {
        let entries = project.section(section).into_values();
        entries.map(|n| (n.text(&["name"]).unwrap().to_owned(), print::json(n, false))).collect()
    };
    let names =
        |section: &'static str| project.section(section).into_keys().map(move |n| format!("{section}.{n}"));
    let contents: BTreeMap<String, String> =
        names("secrets").chain(names("configs")).map(|n| (n, "digest".to_owned())).collect();
    let mut containers = Vec::new();
    for (name, service) in project.services() {
        let scale = service.get(&["scale"]).and_then(|n| n.as_int()).unwrap_or(1);
        for number in 1..=u32::try_from(scale).unwrap() {
            containers.push(ObservedContainer {
                service: name.to_owned(),
                number,
                made_from: print::json(service, false),
                image: "sha256:1".into(),
                contents: contents.clone(),
                running: true,
            });
        }
    }
    Observed {
        containers,
        networks: made("networks"),
        volumes: made("volumes"),
        contents,
        images: BTreeMap::new(),
    }
}

fn scenario(text: &str) -> (Project, Observed) {
    let (before, after) = text.split_once("=====\n").unwrap();
    let mut there = if before.trim().is_empty() { Observed::default() } else { observed(&load(before)) };
    for name in said(after, "stopped") {
        let found = there.containers.iter_mut().find(|c| format!("{}-{}", c.service, c.number) == name);
        found.unwrap().running = false;
    }
    there.images.extend(said(after, "image").into_iter().map(|name| (name, "sha256:2".to_owned())));
    there.contents.extend(said(after, "content").into_iter().map(|name| (name, "other".to_owned())));
    (load(after), there)
}

fn steps(project: &Project, there: &Observed) -> String {
    plan(project, there).unwrap().iter().map(|s| format!("{s}\n")).collect()
}

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let files = folder.read_dir().unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    found.sort();
    assert!(found.len() >= 20, "{}", found.len());
    found
}

#[test]
fn plans_are_golden() {
    let mut wrong = Vec::new();
    for path in scenarios() {
        let (project, there) = scenario(&std::fs::read_to_string(&path).unwrap());
        let text = steps(&project, &there);
        let golden = path.with_extension("txt");
        if std::env::var_os("GANTRY_BLESS").is_some() {
            std::fs::write(&golden, text).unwrap();
        } else if std::fs::read_to_string(&golden).ok().as_deref() != Some(&text) {
            wrong.push(format!("{}:\n{text}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plan_does_not_depend_on_the_order_of_what_is_observed() {
    for path in scenarios() {
        let (project, mut there) = scenario(&std::fs::read_to_string(&path).unwrap());
        let text = steps(&project, &there);
        there.containers.reverse();
        assert_eq!(steps(&project, &there), text, "{}", path.display());
        let middle = there.containers.len() / 2;
        there.containers.rotate_left(middle);
        assert_eq!(steps(&project, &there), text, "{}", path.display());
    }
}

#[test]
fn what_is_wanted_needs_nothing_afterwards() {
    for path in scenarios() {
        let (project, _) = scenario(&std::fs::read_to_string(&path).unwrap());
        assert_eq!(steps(&project, &observed(&project)), "", "{}", path.display());
    }
}

#[test]
fn every_step_has_a_place_unless_its_cause_is_no_file() {
    for path in scenarios() {
        let (project, there) = scenario(&std::fs::read_to_string(&path).unwrap());
        for step in plan(&project, &there).unwrap() {
            let elsewhere = step.action == Action::Start || step.cause.starts_with("no file");
            assert!(elsewhere || step.at.is_some(), "{}: {step}", path.display());
        }
    }
}

#[test]
fn what_one_machine_cannot_do_is_refused() {
    for (text, message) in [
        ("services: {a: {provider: {type: x}}}", "services.a.provider is not supported"),
        ("services: {a: {image: i}}\nnetworks: {n: {driver: overlay}}", "networks.n.driver is not supported"),
        ("services: {a: {image: i, models: [m]}}\nmodels: {m: {model: x}}", "models.m is not supported"),
        ("services: {a: {image: i, scale: 10001}}", "services.a: 10001 replicas; there can be 0 to 10000"),
    ] {
        let error = plan(&load(text), &Observed::default()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.span().is_some(), "{error}");
    }
}
