//! Importing archives and layouts.

mod common;

use common::Scene;
use gantry_image_store::{Error, ErrorKind, ImportSource, Imported, Realm};
use gantry_testkit::image::{
    Family, Image, ImageBuilder, architecture, docker_archive, index, oci_archive, oci_directory, tiny,
};
use gantry_testkit::layer::{Compression, Layer, LayerBuilder, sha256};
use std::fs::File;
use std::io::{Seek, Write};

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

async fn import(scene: &Scene, name: Option<&str>, archive: &[u8]) -> Result<Vec<Imported>, Error> {
    let source = ImportSource::Archive(file_with(archive));
    scene.store.import(Realm::Local, name.map(str::to_owned), source).await
}

fn plain_image() -> Image {
    let base = LayerBuilder::new().dir("d", 0o755).file("d/f", 0o644, vec![b'x'; 200_000]);
    let base = base.build(Compression::None);
    let top = LayerBuilder::new().file("missing/parent", 0o644, "x").build(Compression::None);
    // A layer that occurs twice is one file and a link in a docker-archive.
    ImageBuilder::new().layer(base.clone()).layer(top).layer(base).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_layouts_are_imported_from_tar_and_directory() {
    let (one, two) = (tiny("f", "one"), tiny("f", "two"));
    let archive = oci_archive(&[("example.com/app:1", &one), ("", &two), ("just-a-tag", &one)]);
    let compressed = [Compression::None, Compression::Gzip, Compression::Zstd];
    for compression in compressed {
        let scene = Scene::new();
        let imported = import(&scene, None, &Layer::from_bytes(&archive, compression).blob).await.unwrap();
        assert_eq!(imported.len(), 2);
        assert_eq!(
            (imported[0].id.to_string(), &imported[0].names[..]),
            (one.id(), &["example.com/app:1".to_owned()][..])
        );
        assert_eq!((imported[1].id.to_string(), imported[1].names.len()), (two.id(), 0));
        let found = scene.store.get(Realm::Local, "example.com/app:1").unwrap();
        assert_eq!(found.repo_digests, [format!("example.com/app@{}", one.manifest.digest())]);
        let unnamed = scene.store.get(Realm::Local, &two.id()).unwrap();
        assert!(unnamed.repo_tags.is_empty() && unnamed.repo_digests.is_empty());
        assert!(scene.store.list(Realm::Cri).is_empty());
        scene.assert_no_garbage();
        assert!(scene.store.remove(Realm::Local, &two.id()).unwrap());
    }
    let (scene, layout) = (Scene::new(), tempfile::tempdir().unwrap());
    oci_directory(layout.path(), &[("app:1", &one)]).unwrap();
    let source = ImportSource::Directory(layout.path().to_owned());
    let imported = scene.store.import(Realm::Cri, Some("mine:2".into()), source).await.unwrap();
    assert_eq!(imported[0].names, ["docker.io/library/mine:2"]);
    assert!(scene.store.get(Realm::Cri, "app:1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_with_an_index_gives_this_machines_image() {
    let (mine, other) = (tiny("f", "mine"), ImageBuilder::new().architecture("sparc").build());
    let index = index(Family::Oci, &[("sparc", &other), (architecture(), &mine)]);
    let outer = Image { manifest: index, ..mine.clone() };
    // The layout writer takes the index for a manifest and adds its blobs; the real one comes beside.
    let layout = tempfile::tempdir().unwrap();
    oci_directory(layout.path(), &[("", &mine)]).unwrap();
    oci_directory(layout.path(), &[("app:1", &outer)]).unwrap();
    let scene = Scene::new();
    let source = ImportSource::Directory(layout.path().to_owned());
    let imported = scene.store.import(Realm::Local, None, source).await.unwrap();
    assert_eq!((imported.len(), imported[0].id.to_string()), (1, mine.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_are_imported() {
    let image = plain_image();
    let archive = docker_archive(&image, &["app:1", "example.com/app:2"]);
    let scene = Scene::new();
    let imported = import(&scene, None, &archive).await.unwrap();
    assert_eq!(imported[0].id.as_str(), image.id());
    assert_eq!(imported[0].names, ["docker.io/library/app:1", "example.com/app:2"]);
    let found = scene.store.get(Realm::Local, "app:1").unwrap();
    assert!(found.repo_digests.is_empty(), "nobody else knows the digest of a manifest made up here");
    assert_eq!(found.layers.len(), 3);
    assert_eq!(scene.layers(), 2);
    // The same again changes nothing; a compressed one is the same image.
    import(&scene, None, &Layer::from_bytes(&archive, Compression::Gzip).blob).await.unwrap();
    assert_eq!((scene.store.list(Realm::Local).len(), scene.layers()), (1, 2));
    let scene = Scene::new();
    let untagged = docker_archive(&image, &[]);
    assert!(import(&scene, None, &untagged).await.unwrap()[0].names.is_empty());
    scene.assert_no_garbage();
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_cannot_be_imported_leave_nothing() {
    let image = tiny("f", "x");
    let good = oci_archive(&[("app:1", &image)]);
    let two = oci_archive(&[("app:1", &image), ("app:2", &tiny("f", "y"))]);
    let docker = docker_archive(&plain_image(), &["app:1"]);
    let replaced = |from: &[u8], to: &[u8], archive: &[u8]| {
        // Same length, so that the archive itself stays well-formed.
        let at = archive.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = archive.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let broken_layer = replaced(&image.layers[0].blob, &vec![0; image.layers[0].blob.len()], &good);
    let broken_config = replaced(br#""os":"linux""#, br#""os":"linuy""#, &docker);
    let hostile =
        ImageBuilder::new().layer(LayerBuilder::new().file("../x", 0o644, "").build(Compression::None));
    let hostile = docker_archive(&hostile.build(), &["app:1"]);
    let links = LayerBuilder::new().symlink("manifest.json", "manifest.json").tar();
    let gone = LayerBuilder::new()
        .file("oci-layout", 0o644, "{}")
        .file("index.json", 0o644, format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":2}}]}}"#, sha256(b"{}")))
        .tar();
    let cases: [(&str, Option<&str>, &[u8], ErrorKind); 12] = [
        ("empty", None, b"", ErrorKind::Unsupported),
        ("no archive", None, &[b'x'; 2048], ErrorKind::Corrupt),
        (
            "truncated gzip",
            None,
            &Layer::from_bytes(&good, Compression::Gzip).blob[..200],
            ErrorKind::Corrupt,
        ),
        ("something else", None, &LayerBuilder::new().file("f", 0o644, "x").tar(), ErrorKind::Unsupported),
        ("broken layer", None, &broken_layer, ErrorKind::Corrupt),
        ("other system", None, &broken_config, ErrorKind::Unsupported),
        ("hostile layer", None, &hostile, ErrorKind::Corrupt),
        ("links in a circle", None, &links, ErrorKind::Corrupt),
        ("missing blob", None, &gone, ErrorKind::Corrupt),
        ("one name for two", Some("app:1"), &two, ErrorKind::InvalidReference),
        ("a bad name", Some("Bad Name"), &good, ErrorKind::InvalidReference),
        ("a digest as name", Some(&format!("app@{}", sha256(b""))), &good, ErrorKind::InvalidReference),
    ];
    for (name, tag, archive, kind) in cases {
        let scene = Scene::new();
        let error = import(&scene, tag, archive).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        scene.assert_untouched();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_directory_is_not_left() {
    let scene = Scene::new();
    let image = tiny("f", "x");
    let layout = tempfile::tempdir().unwrap();
    oci_directory(layout.path(), &[("app:1", &image)]).unwrap();
    let blob = layout.path().join("blobs/sha256").join(&image.layers[0].digest[7..]);
    for kind in ["link", "pipe"] {
        std::fs::remove_file(&blob).unwrap();
        if kind == "link" {
            std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
        } else {
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mknodat(rustix::fs::CWD, &blob, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        let source = ImportSource::Directory(layout.path().to_owned());
        scene.store.import(Realm::Local, None, source).await.unwrap_err();
        scene.assert_untouched();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_spooled_and_imported() {
    let scene = Scene::with(|c| c.limits.layer_bytes = 1 << 20);
    let image = tiny("f", "x");
    let archive = oci_archive(&[("app:1", &image)]);
    let file = scene.store.spool(&archive[..]).await.unwrap();
    let imported = scene.store.import(Realm::Local, None, ImportSource::Archive(file)).await.unwrap();
    assert_eq!(imported[0].id.as_str(), image.id());
    scene.assert_no_garbage();
    let error = scene.store.spool(tokio::io::repeat(7)).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    scene.assert_no_garbage();
}
