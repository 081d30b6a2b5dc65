//! `gantry compose` as scripts use it: without a daemon, results on standard output, remarks on standard error.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const FILE: &str = "\
name: shop
services:
  web:
    image: nginx:${TAG:-1.27}
    ports: ['8080:80']
    volumes: ['data:/data']
    restart: always
  tool:
    build: .
    profiles: [tools]
    environment: {WHO: \"${WHO:?say who}\"}
networks:
  default: {}
volumes:
  data: {}
";

fn run(folder: &Path, args: &[&str], input: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.arg("compose").args(args).current_dir(folder).env_clear().env("WHO", "ann").env("HOME", "/h");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.unwrap_or_default().as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn project(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
    folder
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn views_of_a_project() {
    let folder = project(FILE);
    std::fs::write(folder.path().join(".env"), "TAG=1.28\n").unwrap();
    let config = |args: &[&str]| out(&run(folder.path(), &[&["config"], args].concat(), None));
    assert_eq!(config(&["--services"]), "web\n");
    assert_eq!(config(&["--images"]), "nginx:1.28\n");
    assert_eq!(config(&["--volumes"]), "data\n");
    assert_eq!(config(&["--networks"]), "default\n");
    assert_eq!(config(&["--profiles"]), "tools\n");
    let variables = config(&["--variables"]);
    let rows: Vec<Vec<&str>> = variables.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [vec!["NAME", "REQUIRED", "DEFAULT", "ALTERNATE"], vec!["TAG", "false", "1.27"], vec!["WHO", "true"]]
    );
    assert_eq!(config(&["--environment"]), "COMPOSE_PROJECT_NAME=shop\nHOME=/h\nTAG=1.28\nWHO=ann\n");
    let hash = config(&["--hash", "*"]);
    let (name, digest) = hash.trim().split_once(' ').unwrap();
    assert!(name == "web" && digest.len() == 64, "{hash}");
    assert_eq!(config(&["--hash", "web"]), hash);
    assert_eq!(config(&["--quiet"]), "");
    let all = out(&run(folder.path(), &["--profile", "*", "config", "--services", "--format", "json"], None));
    assert_eq!(serde_json::from_str::<Vec<String>>(&all).unwrap(), ["tool", "web"]);
    let raw = config(&["--no-interpolate"]);
    assert!(raw.contains("image: nginx:${TAG:-1.27}") || raw.contains("\"nginx:${TAG:-1.27}\""), "{raw}");
}

#[test]
fn config_of_config_is_the_same() {
    let folder = project(FILE);
    for format in ["yaml", "json"] {
        let once = out(&run(folder.path(), &["config", "--format", format], None));
        let again = out(&run(folder.path(), &["-f", "-", "config", "--format", format], Some(&once)));
        assert_eq!(again, once);
    }
}

#[test]
fn a_fault_is_shown_with_its_place_and_line() {
    let folder = project("services:\n  web:\n    image: nginx\n    prots: ['80:80']\n");
    for command in ["config", "convert"] {
        let output = run(folder.path(), &[command], None);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let wanted = "gantry: compose.yaml:4:5: services.web: unknown key \"prots\"; did you mean \"ports\"?\n   |\n 4 |     prots: ['80:80']\n   |     ^\n";
        assert_eq!(err(&output), wanted);
    }
    let empty = tempfile::tempdir().unwrap();
    let output = run(empty.path(), &["config"], None);
    assert!(err(&output).contains("no Compose file") && err(&output).contains("-f"), "{output:?}");
    let output = run(folder.path(), &["-f", "absent.yaml", "config"], None);
    assert!(err(&output).contains("cannot read absent.yaml"), "{output:?}");
}

#[test]
fn conversion_reports_and_is_strict() {
    let folder = project(FILE);
    let output = run(folder.path(), &["convert"], None);
    let manifests = out(&output);
    assert!(manifests.starts_with("---\napiVersion: v1\nkind: PersistentVolumeClaim\n"), "{manifests}");
    let told = err(&output);
    assert!(told.contains("compose.yaml:5:13: services.web.ports: 8080:80 is reached from inside"), "{told}");
    assert!(told.contains("volumes.data: its size is assumed to be 1Gi"), "{told}");

    let strict = run(folder.path(), &["convert", "--strict"], None);
    assert_eq!(strict.status.code(), Some(1));
    assert!(strict.stdout.is_empty(), "{strict:?}");
    assert!(err(&strict).ends_with("3 of these lines, and --strict allows none\n"), "{}", err(&strict));

    let args = ["convert", "--publish", "load-balancer", "--volume-size", "5Gi", "--report", "report.json"];
    let output = run(folder.path(), &args, None);
    assert!(out(&output).contains("type: LoadBalancer") && out(&output).contains("storage: \"5Gi\""));
    let report = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    let report: Vec<serde_json::Value> = serde_json::from_str(&report).unwrap();
    assert_eq!(report.len(), 1, "{report:?}");
    assert_eq!(
        (&report[0]["file"], &report[0]["line"], &report[0]["column"]),
        (&"compose.yaml".into(), &6.into(), &15.into())
    );

    let plain = project("services: {web: {image: nginx, restart: always, user: '101', expose: [8080]}}\n");
    let strict = run(plain.path(), &["convert", "--strict"], None);
    assert!(out(&strict).contains("runAsNonRoot: true"), "{strict:?}");
    assert_eq!(err(&strict), "");
    let wrong = run(folder.path(), &["convert", "--volume-size", "big"], None);
    assert!(err(&wrong).contains("\"big\" is no size; write it like 10Gi"), "{wrong:?}");
}

#[test]
fn what_one_machine_cannot_do_is_said() {
    let folder = project(
        "services: {web: {image: i, deploy: {placement: {constraints: [a == b]}}, provider: {type: x}}}\n\
         networks: {n: {driver: overlay}}\n",
    );
    let told = err(&run(folder.path(), &["config"], None));
    for line in [
        "services.web.provider is not supported",
        "services.web.deploy.placement has no effect",
        "networks.n.driver is not supported",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
}
