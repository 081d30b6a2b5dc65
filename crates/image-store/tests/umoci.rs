//! An unpacked image beside what umoci makes of the same layout, file by file.

mod common;

use common::Scene;
use gantry_image_store::{ImageStore, ImportSource, Realm};
use gantry_testkit::fs::{describe, differences, disk_dir, in_private_mounts};
use gantry_testkit::image::{Image, ImageBuilder, oci_directory};
use gantry_testkit::layer::{Compression, LayerBuilder};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// An image with everything that a layer can hold.
fn sample() -> Image {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("etc/{}", "l".repeat(180));
    let base = LayerBuilder::new()
        .dir("./", 0o755)
        .mtime(1_500_000_000)
        .dir("bin/", 0o755)
        .file("bin/tool", 0o755, vec![b'#'; 70_000])
        .hard_link("bin/alias", "bin/tool")
        .file("bin/setuid", 0o4755, "suid")
        .file("bin/setgid", 0o2755, "sgid")
        .pax("SCHILY.xattr.security.capability", &capability)
        .file("bin/ping", 0o755, "ping")
        .owner(1000, 2000)
        .dir("home/", 0o750)
        .pax("mtime", b"1600000000.123456789")
        .pax("SCHILY.xattr.user.note", b"two\nlines\0")
        .file("home/file", 0o640, "mine")
        .symlink("home/link", "../bin/tool")
        .symlink("home/dangling", "/nowhere")
        .owner(0, 0)
        .dir("etc/", 0o755)
        .file(&long, 0o644, "long name")
        .symlink("etc/long", &"t/".repeat(90))
        .dir("dev/", 0o755)
        .device("dev/null", 0o666, 1, 3)
        .fifo("dev/pipe", 0o600)
        .dir("tmp/", 0o1777)
        .dir("gone/", 0o755)
        .file("gone/a", 0o644, "a")
        .dir("opaque/", 0o755)
        .file("opaque/old", 0o644, "old")
        .dir("swap-to-file/", 0o755)
        .file("swap-to-file/x", 0o644, "x")
        .file("swap-to-dir", 0o644, "x")
        .symlink("lib", "usr/lib")
        .dir("usr/", 0o755)
        .dir("usr/lib/", 0o755)
        .file("usr/lib/libc", 0o644, "libc")
        .file("empty", 0o000, "");
    let middle = LayerBuilder::new()
        .mtime(1_550_000_000)
        .whiteout("gone")
        .dir("opaque/", 0o700)
        .opaque("opaque")
        .file("opaque/new", 0o644, "new")
        .file("swap-to-file", 0o644, "a file now")
        .dir("swap-to-dir/", 0o711)
        .file("swap-to-dir/inside", 0o644, "y")
        .dir("bin/", 0o755)
        .file("bin/tool", 0o755, "replaced: the alias keeps the old content");
    // Through a lower link, into a directory that the layer does not describe, linked to a lower file.
    let top = LayerBuilder::new()
        .mtime(1_560_000_000)
        .file("lib/libm", 0o644, "libm")
        .hard_link("usr/lib/libc.6", "usr/lib/libc")
        .dir("usr/lib/", 0o755)
        .dir("home/", 0o700);
    ImageBuilder::new()
        .layer(base.build(Compression::Gzip))
        .layer(middle.build(Compression::Gzip))
        .layer(top.build(Compression::None))
        .build()
}

fn umoci_unpack(layout: &Path, bundle: &Path) -> BTreeMap<String, String> {
    let output = Command::new("umoci")
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:latest", layout.display()))
        .arg(bundle)
        .output()
        .unwrap_or_else(|e| panic!("umoci is needed for this test (apt-get install umoci): {e}"));
    assert!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
    describe(&bundle.join("rootfs"))
}

fn gantry_unpack(store: &ImageStore, layout: &Path, target: &Path) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = ImportSource::Directory(layout.to_owned());
    let imported = runtime.block_on(store.import(Realm::Local, Some("app:1".into()), source)).unwrap();
    store.prepare(Realm::Local, "c1", &imported[0].id).unwrap();
    std::fs::create_dir(target).unwrap();
    store.mount("c1", target).unwrap();
    let seen = describe(target);
    store.unmount(target).unwrap();
    seen
}

#[test]
fn an_image_is_unpacked_as_umoci_does() {
    let (scene, dir) = (Scene::new(), disk_dir());
    let layout = dir.path().join("layout");
    // umoci finds images by the tag in their annotation.
    oci_directory(&layout, &[("latest", &sample())]).unwrap();
    let theirs = umoci_unpack(&layout, &dir.path().join("bundle"));
    let ours = in_private_mounts(|| gantry_unpack(&scene.store, &layout, &dir.path().join("target")));
    assert!(ours.len() >= 30, "{ours:#?}");
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "gantry | umoci\n{}", differences.join("\n"));
}
