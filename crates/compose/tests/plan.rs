//! Plans: what is done when one thing of a project changed.

use gantry_compose::files::MemoryFiles;
use gantry_compose::plan::{Observed, ObservedContainer, plan};
use gantry_compose::{ComposeFile, Project, Request, print};
use std::collections::BTreeMap;

const BASE: &str = "\
services:
  db:
    image: postgres:16
  web:
    image: nginx:1.27
    ports: ['80:80']
    depends_on:
      db: {condition: service_started, restart: true}
  side:
    image: busybox
    network_mode: service:web
";

fn load(text: &str) -> Project {
    let mut request = Request::new("/p", BTreeMap::new());
    request.files.push(ComposeFile { path: "c.yaml".into(), text: Some(text.into()) });
    Project::load(&request, &MemoryFiles::default()).unwrap_or_else(|e| panic!("{}", e.render()))
}

fn observed(project: &Project) -> Observed {
    let made = |section| {
        let entries = project.section(section).into_values();
        entries.map(|n| (n.text(&["name"]).unwrap().to_owned(), print::json(n, false))).collect()
    };
    let container = |(name, service): (&str, &gantry_compose::node::Node)| ObservedContainer {
        service: name.to_owned(),
        number: 1,
        made_from: print::json(service, false),
        image: String::new(),
        running: true,
    };
    Observed {
        containers: project.services().into_iter().map(container).collect(),
        networks: made("networks"),
        volumes: made("volumes"),
        images: BTreeMap::new(),
    }
}

fn steps(before: &str, after: &str) -> Vec<String> {
    let there = observed(&load(before));
    plan(&load(after), &there).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn each_change_has_its_steps_and_its_cause() {
    let nothing: [&str; 0] = [];
    assert_eq!(steps(BASE, BASE), nothing);
    let fresh = plan(&load(BASE), &Observed::default()).unwrap();
    let fresh: Vec<String> = fresh.iter().map(ToString::to_string).collect();
    assert_eq!(
        fresh,
        [
            "create network p_default: it is not there (c.yaml:1:1)",
            "create pod db-1: it is not there (c.yaml:3:5)",
            "create pod web-1: it is not there (c.yaml:5:5) after db",
            "create pod side-1: it is not there (c.yaml:10:5) after web",
        ]
    );
    // Only the container: address and ports stay.
    assert_eq!(
        steps(BASE, &BASE.replace("nginx:1.27", "nginx:1.28")),
        [
            "recreate container web-1: services.web.image changed (c.yaml:5:12) after db",
            "recreate container side-1: web is replaced, and it restarts with it (c.yaml:11:19) after web",
        ]
    );
    // The sandbox, and with it all that are in it.
    assert_eq!(
        steps(BASE, &BASE.replace("80:80", "81:80")),
        [
            "recreate pod web-1: services.web.ports[0].published changed (c.yaml:6:13) after db",
            "recreate pod side-1: the pod of web, which it is in, is made anew (c.yaml:11:19) after web",
        ]
    );
    // The order of keys and the form that things are written in are no change.
    assert_eq!(steps(BASE, &BASE.replace("['80:80']", "[{published: 80, target: 80}]")), nothing);
    assert_eq!(
        steps(BASE, &format!("{BASE}    environment: {{A: 1}}\n")),
        ["recreate container side-1: services.side.environment changed (c.yaml:12:18) after web"]
    );
}

#[test]
fn what_is_no_longer_wanted_goes_in_reverse() {
    let only = "services:\n  db:\n    image: postgres:16\n";
    assert_eq!(
        steps(BASE, only),
        [
            "remove pod web-1: no service that is on has this name after side",
            "remove pod side-1: no service that is on has this name",
        ]
        .map(str::to_owned)
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
}
