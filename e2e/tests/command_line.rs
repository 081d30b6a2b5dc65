//! The `gantry` program against a daemon.

use gantry_e2e::{BUSYBOX, Stage, busybox, free_port};
use gantry_testkit::image::oci_archive;
use serde_json::{Value, json};

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
