//! Volumes that are content of images, and sources of mounts that are not there.

use super::containers::sleeper;
use gantry_e2e::{BUSYBOX, Crictl, HANDLERS, Stage, run};
use gantry_testkit::image::{Image, ImageBuilder};
use gantry_testkit::layer::{Compression, LayerBuilder};
use serde_json::{Value, json};
use std::process::Command;

/// Name of the image whose content is mounted.
const MODELS: &str = "registry.example.com/models:1";

fn models() -> Image {
    let below = LayerBuilder::new()
        .dir("data/", 0o755)
        .file("data/weights", 0o644, "of the lower layer\n")
        .file("data/run", 0o755, "#!/bin/sh\necho ran\n");
    let above = LayerBuilder::new()
        .file("data/weights", 0o600, "of the upper layer\n")
        .symlink("inside", "/data")
        .symlink("outside", "../../../../etc");
    ImageBuilder::new()
        .layer(below.build(Compression::Gzip))
        .layer(above.build(Compression::None))
        .config(json!({}))
        .build()
}

fn volume(image: &str, at: &str, sub_path: &str) -> Value {
    json!({"image": {"image": image}, "image_sub_path": sub_path, "container_path": at})
}

fn pod_id(crictl: &Crictl) -> String {
    crictl.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn content_of_an_image() {
    let stage = Stage::new();
    stage.registry().push("models:1", &models());
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    for handler in HANDLERS {
        crictl.ok(&["pull", MODELS]);
        let status = crictl.json(&["inspecti", MODELS])["status"].clone();
        let (id, digest) = (status["id"].as_str().unwrap(), status["repoDigests"][0].as_str().unwrap());
        assert!(digest.contains("@sha256:"), "{digest}");
        let over = json!({"mounts": [
            volume(MODELS, "/all", ""),
            volume(digest, "/by-digest", "data"),
            // Read-only all the same, as the CRI says.
            writable(volume(id, "/by-id", "inside")),
            volume(MODELS, "/one-file", "data/weights"),
        ]});
        let container = sleeper(&stage, &crictl, handler, json!({}), over);
        let read = "cat /all/data/weights /by-digest/weights /by-id/weights /one-file; stat -c %a /one-file";
        let text = "of the upper layer\n".repeat(4) + "600";
        assert_eq!(crictl.sh(&container, read), text, "{handler}");
        for at in ["/all/data", "/by-digest", "/by-id"] {
            let seen =
                crictl.sh(&container, &format!("touch {at}/new 2>&1 || {at}/run 2>&1 || echo neither"));
            assert!(
                seen.contains("Read-only") && seen.contains("Permission denied"),
                "{handler} {at}: {seen}"
            );
        }
        // Sub paths that are not there, also by a link that would leave the image.
        let pod = stage.pod("p", json!({}));
        for missing in ["none", "outside", "data/weights/below"] {
            let over = json!({"mounts": [volume(MODELS, "/x", missing)]});
            let refused =
                crictl.run_create(&pod_id(&crictl), &stage.container("m", "true", over), &pod).fails();
            assert!(refused.contains("ImageVolumeMountFailed") && refused.contains(missing), "{refused}");
        }
        // The image goes, its content stays while the container does; over a restart of the daemon too.
        crictl.ok(&["rmi", MODELS]);
        assert_eq!(crictl.sh(&container, read), text, "{handler}: without the image");
        daemon.kill();
        daemon.restart();
        let layers = || run(Command::new("find").arg(daemon.root()).args(["-name", "weights"])).ok();
        assert_eq!(crictl.sh(&container, read), text, "{handler}: with another daemon");
        assert!(!layers().is_empty(), "{handler}");
        crictl.remove_all();
        // With the container its leases go; the layers are deleted in the background, in the store's own time.
        crictl.ok(&["pull", MODELS]);
        crictl.ok(&["rmi", MODELS]);
    }
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    for (over, word) in [
        (volume("registry.example.com/none:1", "/x", ""), "none:1"),
        (volume(BUSYBOX, "/x", "/etc"), "relative"),
        (volume(BUSYBOX, "/x", "../etc"), "relative"),
        (json!({"host_path": "/tmp", "container_path": "/x", "image_sub_path": "a"}), "needs an image"),
        (json!({"host_path": "/tmp", "container_path": "/x", "image": {"image": BUSYBOX}}), "not both"),
    ] {
        let container = stage.container("c", "true", json!({"mounts": [over]}));
        let refused = crictl.run_create(&pod_id, &container, &pod).fails();
        assert!(refused.contains(word), "{word}: {refused}");
    }
    crictl.remove_all();
    daemon.end();
    stage.end();
}

fn writable(mut mount: Value) -> Value {
    mount["readonly"] = json!(false);
    mount
}

#[test]
fn a_missing_source_is_made_where_the_node_wants_that() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").args(&["--create-missing-mount-sources", "true"]).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let source = stage.dir().join("made/on/demand");
    let over = json!({"mounts": [{"host_path": source, "container_path": "/made"}]});
    let id = sleeper(&stage, &crictl, "", json!({}), over);
    crictl.sh(&id, "echo kept >/made/file");
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "kept\n");
    crictl.remove_all();
    daemon.end();
    stage.end();
}
