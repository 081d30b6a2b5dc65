//! The `gantry` program against a daemon.

use gantry_e2e::{BUSYBOX, Stage, Watch, busybox, dist, free_port};
use gantry_testkit::image::oci_archive;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"))
}

#[test]
fn the_life_of_a_container() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let gantry = |args: &[&str]| daemon.gantry(args);
    assert!(gantry(&["version"]).ok().contains("0.1.0"));
    // It also tells of runtimes that are installed and do not work here; then it says so by its exit status.
    let doctor = gantry(&["doctor"]).stdout;
    assert!(doctor.contains("embedded") && doctor.contains("runc"), "{doctor}");

    gantry(&["pull", BUSYBOX]).ok();
    assert!(gantry(&["images"]).ok().contains("registry.example.com/library/busybox"));
    let images = parse(&gantry(&["images", "--output", "json"]).ok());
    assert!(images.to_string().contains(BUSYBOX), "{images}");

    let port = free_port();
    let script = "httpd -h /www -p 80; echo listening; exec sleep 100000";
    let publish = format!("{port}:80");
    gantry(&["run", "--name", "web", "--publish", &publish, "--env", "A=b", BUSYBOX, "sh", "-c", script])
        .ok();
    assert!(gantry(&["ps"]).ok().contains("web"));
    assert!(gantry(&["pods"]).ok().contains("web"));
    let seen = gantry(&["exec", "web", "sh", "-c", "echo $A; exit 4"]);
    assert_eq!((seen.code, seen.stdout.trim()), (Some(4), "b"), "{seen:?}");
    let inspected = parse(&gantry(&["inspect", "web"]).ok());
    let text = inspected.to_string();
    for word in ["pid", "namespaces", "cgroup", "layers"] {
        assert!(text.contains(word), "{word} is in {text}");
    }
    // A second container of the same pod reaches the first one by loopback.
    let fetch = "wget -q -O - http://127.0.0.1/";
    let fetched =
        gantry(&["run", "--pod", "web", "--name", "visitor", "--wait", "--rm", BUSYBOX, "sh", "-c", fetch]);
    assert_eq!(fetched.ok(), "a page from a pod");
    assert_eq!(gantry(&["logs", "web"]).ok(), "listening");

    let failed = gantry(&["run", "--name", "fails", "--wait", "--rm", BUSYBOX, "sh", "-c", "exit 9"]);
    assert_eq!(failed.code, Some(9), "{failed:?}");
    assert_eq!(gantry(&["logs", "nonesuch"]).code, Some(3));

    gantry(&["stop", "--timeout", "1", "web"]).ok();
    assert!(gantry(&["ps", "--all"]).ok().contains("web"));
    // The pod was made for its container and has the same name: it goes, too.
    gantry(&["rm", "--force", "web"]).ok();
    assert_eq!(parse(&gantry(&["pods", "--output", "json"]).ok()).to_string().matches("web").count(), 0);
    gantry(&["rmi", BUSYBOX]).ok();
    daemon.end();
    stage.end();
}

#[test]
fn an_archive_is_imported_and_run() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let archive = stage.dir().join("image.tar");
    std::fs::write(&archive, oci_archive(&[("", &busybox())])).unwrap();
    let name = "localhost/imported:1";
    daemon.gantry(&["import", "--name", name, &archive.display().to_string()]).ok();
    let run =
        ["run", "--network", "host", "--wait", "--rm", "--pull", "never", name, "echo", "imported and run"];
    assert_eq!(daemon.gantry(&run).ok(), "imported and run");
    assert_eq!(
        daemon.crictl().json(&["images", "-o", "json"])["images"],
        json!([]),
        "the kubelet has no such image"
    );
    daemon.end();
    stage.end();
}

#[test]
fn both_realms_are_read_and_only_the_local_one_is_written() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let (crictl, gantry) = (daemon.crictl(), |args: &[&str]| daemon.gantry(args));
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("theirs", json!({}));
    let pod_id = crictl.runp("", &pod);
    let container = stage.container("kubelet-made", "echo hello; exec sleep 100000", json!({}));
    let id = crictl.start(&pod_id, &container, &pod);
    gantry(&["pull", BUSYBOX]).ok();
    gantry(&["run", "--network", "host", "--name", "ours", BUSYBOX, "sleep", "100000"]).ok();

    // Each row names its realm, and a filter leaves one.
    for (list, name) in [("ps", "kubelet-made"), ("pods", "theirs"), ("images", "busybox")] {
        let row = |text: &str, realm: &str| {
            let mut lines = text.lines().skip(1).filter(|l| l.split_whitespace().any(|w| w == realm));
            lines.next().map(str::to_owned)
        };
        let all = gantry(&[list]).ok();
        assert!(all.lines().next().unwrap().contains("REALM"), "{all}");
        assert!(row(&all, "cri").unwrap().contains(name) && row(&all, "local").is_some(), "{all}");
        let theirs = gantry(&[list, "--realm", "cri"]).ok();
        assert!(row(&theirs, "cri").is_some() && row(&theirs, "local").is_none(), "{theirs}");
    }

    // Documents have the fields that crictl prints, and the realm.
    let ours = parse(&gantry(&["ps", "--realm", "cri", "-o", "json"]).ok())["containers"][0].clone();
    let theirs = crictl.json(&["ps", "-o", "json"])["containers"][0].clone();
    for (field, value) in theirs.as_object().unwrap() {
        assert_eq!(&ours[field], value, "{field}");
    }
    assert_eq!(ours["realm"], "cri");
    let yaml = gantry(&["pods", "--realm", "local", "-o", "yaml"]).ok();
    assert!(yaml.contains("realm: local") && yaml.contains("state: SANDBOX_READY"), "{yaml}");
    let status = parse(&gantry(&["inspect", &id]).ok());
    assert_eq!((&status["realm"], &status["kind"]), (&json!("cri"), &json!("container")));
    assert_eq!(status["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(status["status"]["metadata"]["name"], "kubelet-made");
    assert!(gantry(&["inspect", "ours", "-o", "table"]).ok().contains("status.metadata.name"));
    let info = parse(&gantry(&["info", "-o", "json"]).ok());
    assert_eq!(info["realms"]["cri"], json!({"pods": 1, "containers": 1, "images": 1}));
    assert_eq!(info["version"]["runtimeName"], "gantry");
    assert!(gantry(&["info"]).ok().contains("NetworkReady"));

    // Looking into them is reading, too.
    assert_eq!(gantry(&["logs", "kubelet-made"]).ok(), "hello");
    assert_eq!(gantry(&["exec", "kubelet-made", "echo", "inside"]).ok(), "inside");

    // Ending them is the kubelet's, and nothing is made among them.
    for args in [&["stop", "theirs"][..], &["rm", "--force", "kubelet-made"], &["stop", &pod_id[..12]]] {
        let refused = gantry(args).fails();
        assert!(refused.contains("belongs to the kubelet") && refused.contains("--realm cri"), "{refused}");
    }
    let refused = gantry(&["run", "--pod", "theirs", BUSYBOX, "true"]).fails();
    assert!(refused.contains("belongs to the kubelet"), "{refused}");
    gantry(&["rmi", BUSYBOX]).ok();
    let refused = gantry(&["rmi", BUSYBOX]).fails();
    assert!(refused.contains("belongs to the kubelet"), "{refused}");
    assert_eq!(gantry(&["stop", "--realm", "local", "theirs"]).code, Some(3));
    assert_eq!(crictl.json(&["ps", "-o", "json"])["containers"].as_array().unwrap().len(), 1);
    // crictl on the local socket names no realm and sees the local one, as before.
    assert_eq!(daemon.local_crictl().json(&["pods", "-o", "json"])["items"].as_array().unwrap().len(), 1);

    gantry(&["stop", "--realm", "cri", "--timeout", "0", "theirs"]).ok();
    gantry(&["rm", "--realm", "cri", "theirs"]).ok();
    gantry(&["rmi", "--realm", "cri", BUSYBOX]).ok();
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
    gantry(&["rm", "--force", "ours"]).ok();
    daemon.end();
    stage.end();
}

#[test]
fn what_run_made_goes_again_when_it_fails() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let gantry = |args: &[&str]| daemon.gantry(args);
    gantry(&["run", "--network", "host", "--name", "base", BUSYBOX, "sleep", "100000"]).ok();
    let containers = || parse(&gantry(&["ps", "--all", "-o", "json"]).ok())["containers"].clone();
    let before = containers();

    let failed = gantry(&["run", "--pod", "base", "--name", "broken", BUSYBOX, "/no/such/program"]).fails();
    assert!(failed.contains("/no/such/program"), "{failed}");
    assert_eq!(containers(), before, "the container that could not be started is gone");

    // Nobody can take the log: what is left is still taken away.
    let socket = format!("unix://{}", daemon.dir().join("local.sock").display());
    let mut command = Command::new(dist().join("gantry"));
    command.args(["--socket", &socket, "run", "--network", "host", "--wait", "--rm", BUSYBOX, "echo", "x"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("print the log"), "{output:?}");
    assert_eq!(containers(), before);
    assert_eq!(parse(&gantry(&["pods", "-o", "json"]).ok())["items"].as_array().unwrap().len(), 1);
    gantry(&["rm", "--force", "base"]).ok();
    daemon.end();
    stage.end();
}

#[test]
fn a_followed_log_ends_with_its_container() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let gantry = |args: &[&str]| daemon.gantry(args);
    let gate = stage.dir().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let watch = Watch::new(&[&gate]);
    let volume = format!("{}:/gate", gate.display());
    let script = "echo one; echo two; mkfifo /gate/pipe; read -r line </gate/pipe; echo $line";
    let run = ["run", "--network", "host", "--name", "c", "--volume", &volume, BUSYBOX, "sh", "-c", script];
    gantry(&run).ok();
    let socket = format!("unix://{}", daemon.dir().join("local.sock").display());
    let mut command = Command::new(dist().join("gantry"));
    command.args(["--socket", &socket, "logs", "--follow", "--tail", "1", "c"]);
    watch.until("the pipe", || gate.join("pipe").exists().then_some(()));
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    std::fs::write(gate.join("pipe"), "three\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    assert!(lines.next().is_none(), "it ends with the container");
    assert!(follower.wait().unwrap().success());
    assert_eq!(gantry(&["logs", "--tail", "2", "c"]).ok(), "two\nthree");
    assert_eq!(gantry(&["logs", "c"]).ok(), "one\ntwo\nthree");
    gantry(&["rm", "c"]).ok();
    daemon.end();
    stage.end();
}
