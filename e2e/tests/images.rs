//! Images: names, digests, archives, and pulls that are cut short.

use gantry_e2e::{BUSYBOX, Stage, Watch, busybox};
use gantry_testkit::image::{ImageBuilder, docker_archive, oci_directory};
use gantry_testkit::layer::{Compression, LayerBuilder};
use serde_json::json;

#[test]
fn by_tag_by_digest_and_by_id() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    let digest = busybox().manifest.digest();
    let by_digest = format!("registry.example.com/library/busybox@{digest}");
    crictl.ok(&["pull", &by_digest]);
    let image = crictl.json(&["inspecti", &by_digest])["status"].clone();
    assert_eq!((&image["repoTags"], &image["repoDigests"]), (&json!([]), &json!([by_digest])));
    assert_eq!(image["id"], json!(busybox().id()));
    crictl.ok(&["pull", BUSYBOX]);
    let list = crictl.json(&["images", "-o", "json"])["images"].clone();
    assert_eq!(list.as_array().unwrap().len(), 1, "one image with two names: {list}");
    assert_eq!(list[0]["repoTags"], json!([BUSYBOX]));

    let wrong = format!("registry.example.com/library/busybox@sha256:{}", "0".repeat(64));
    let missing = crictl.run(&["pull", &wrong]).fails();
    assert!(missing.contains("NotFound"), "{missing}");
    let missing = crictl.run(&["pull", "registry.example.com/library/nonesuch:1"]).fails();
    assert!(missing.contains("NotFound") && missing.contains("nonesuch"), "{missing}");
    // By id all names go.
    crictl.ok(&["rmi", image["id"].as_str().unwrap()]);
    assert_eq!(crictl.json(&["images", "-o", "json"])["images"], json!([]));
    daemon.end();
    stage.end();
}

#[test]
fn a_host_without_root_certificates_is_told_so() {
    let stage = Stage::new();
    let (file, dir) = ("SSL_CERT_FILE", "SSL_CERT_DIR");
    let daemon = stage.daemon("d").env(file, "/no/such/file").env(dir, "/no/such/directory").start();
    let refused = daemon.crictl().run(&["pull", BUSYBOX]).fails();
    assert!(refused.contains("Unavailable") && refused.contains("install ca-certificates"), "{refused}");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.end();
    stage.end();
}

#[test]
fn archives_of_both_kinds_and_a_directory_are_imported() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let layer = LayerBuilder::new().file("hello", 0o644, "from an archive\n").build(Compression::None);
    let image = ImageBuilder::new().layer(layer).build();
    let archive = stage.dir().join("docker.tar");
    std::fs::write(&archive, docker_archive(&image, &["example.com/saved:2"])).unwrap();
    daemon.gantry(&["import", archive.to_str().unwrap()]).ok();
    let layout = stage.dir().join("layout");
    oci_directory(&layout, &[("", &image)]).unwrap();
    daemon.gantry(&["import", "--name", "example.com/laid-out:3", layout.to_str().unwrap()]).ok();

    let images = daemon.local_crictl().json(&["images", "-o", "json"])["images"].clone();
    assert_eq!(images.as_array().unwrap().len(), 1, "the same image by two names: {images}");
    let names = images[0]["repoTags"].to_string();
    assert!(names.contains("example.com/saved:2") && names.contains("example.com/laid-out:3"), "{names}");
    std::fs::write(&archive, "not a tar archive").unwrap();
    let refused = daemon.gantry(&["import", archive.to_str().unwrap()]).fails();
    assert!(!refused.is_empty());
    // All names of the image go with it.
    daemon.gantry(&["rmi", "example.com/saved:2"]).ok();
    assert!(!daemon.gantry(&["images"]).ok().contains("example.com"));
    daemon.end();
    stage.end();
}

#[test]
fn a_pull_that_a_kill_cut_short_leaves_no_half_image() {
    let stage = Stage::new();
    // Big enough to be under way for a while; does not compress.
    let mut random = vec![0; 24 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    let layers = random.chunks(6 << 20).enumerate().map(|(n, part)| {
        LayerBuilder::new().file(&format!("part-{n}"), 0o644, part).build(Compression::Gzip)
    });
    let image = layers.fold(ImageBuilder::new(), ImageBuilder::layer).build();
    stage.registry().push("library/big:1", &image);
    let name = "registry.example.com/library/big:1";

    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    let staging = daemon.root().join("images/staging");
    for entries in 1..=3 {
        let watch = Watch::new(&[&staging]);
        std::thread::scope(|scope| {
            let pull = scope.spawn(|| crictl.run(&["pull", name]));
            let begun = || (std::fs::read_dir(&staging).unwrap().count() > entries).then_some(());
            watch.until("the pull is under way", begun);
            daemon.kill();
            pull.join().unwrap();
        });
        daemon.restart();
        let images = crictl.json(&["images", "-o", "json"])["images"].clone();
        for image in images.as_array().unwrap() {
            crictl.ok(&["inspecti", image["id"].as_str().unwrap()]);
        }
        // Fails where the pull had not come that far.
        crictl.run(&["rmi", name]);
        assert_eq!(crictl.json(&["images", "-o", "json"])["images"], json!([]));
    }
    crictl.ok(&["pull", name]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let container = json!({"image": {"image": name}, "command": ["/part-0"]});
    let id = crictl.create(&pod_id, &stage.container("c", "", container), &pod);
    let rootfs = crictl.json(&["inspect", &id])["info"]["rootfs"].as_str().unwrap().to_owned();
    let whole: Vec<u8> = (0..4).flat_map(|n| std::fs::read(format!("{rootfs}/part-{n}")).unwrap()).collect();
    assert!(whole == random, "the image is what was pushed");
    crictl.remove_all();
    crictl.ok(&["rmi", name]);
    daemon.end();
    let left: Vec<_> = walk(&stage.dir().join("d/root/images"));
    assert!(left.iter().all(|(_, size)| *size < 1 << 20), "layers are left: {left:?}");
    stage.end();
}

fn walk(dir: &std::path::Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk(&entry.path()));
        } else {
            files.push((entry.path().display().to_string(), entry.metadata().unwrap().len()));
        }
    }
    files
}
