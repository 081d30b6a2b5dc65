//! Records, restarts, snapshots and leases.

mod common;

use common::{Scene, at, config, names};
use gantry_image_store::{ErrorKind, ImageId, ImageStore, ImportSource, Realm};
use gantry_sys::overlay;
use gantry_testkit::fs::{describe, in_private_mounts};
use gantry_testkit::image::{Image, ImageBuilder, oci_directory, tiny};
use gantry_testkit::layer::{Compression, LayerBuilder};
use gantry_testkit::registry::Registry;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Puts an image into the store under a name.
fn import(scene: &Scene, realm: Realm, name: &str, image: &Image) -> ImageId {
    let layout = tempfile::tempdir().unwrap();
    oci_directory(layout.path(), &[("", image)]).unwrap();
    let source = ImportSource::Directory(layout.path().to_owned());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let imported = runtime.block_on(scene.store.import(realm, Some(name.into()), source)).unwrap();
    assert_eq!(imported[0].id.as_str(), image.id());
    imported[0].id.clone()
}

fn layered(parts: &[LayerBuilder]) -> Image {
    let add = |b: ImageBuilder, p: &LayerBuilder| b.layer(p.clone().build(Compression::Gzip));
    parts.iter().fold(ImageBuilder::new(), add).build()
}

#[test]
fn everything_is_there_after_a_restart() {
    let scene = Scene::new();
    let image = layered(&[
        LayerBuilder::new().file("a", 0o644, "a"),
        LayerBuilder::new().file("missing/parents/b", 0o644, "b"),
    ]);
    let id = import(&scene, Realm::Cri, "app:1", &image);
    import(&scene, Realm::Local, "other.example/app:2", &image);
    let snapshot = scene.store.prepare(Realm::Cri, "c1", &id).unwrap();
    let seen = |s: &Scene| {
        (
            s.store.list(Realm::Cri),
            s.store.list(Realm::Local),
            s.store.usage(),
            s.store.snapshots(),
            s.store.snapshot("c1"),
        )
    };
    let before = seen(&scene);
    assert_eq!(before.4, Some(snapshot));
    let (scene, damaged) = scene.reopen();
    assert!(damaged.is_empty(), "{damaged:?}");
    assert_eq!(seen(&scene), before);
    assert_eq!(scene.layers(), 2);
}

#[test]
fn a_store_belongs_to_one_process() {
    let scene = Scene::new();
    let error = ImageStore::open(config(scene.dir.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    let (_scene, damaged) = scene.reopen();
    assert!(damaged.is_empty());
}

#[test]
fn unfinished_work_is_swept_when_the_store_opens() {
    let scene = Scene::new();
    let id = import(&scene, Realm::Cri, "app:1", &tiny("f", "x"));
    let images = scene.images();
    // What a kill in the middle of a pull, of a publication and of a deletion leaves.
    std::fs::create_dir_all(images.join("staging/7/fs/deep/er")).unwrap();
    std::fs::create_dir_all(images.join("staging/trash/3/fs")).unwrap();
    std::fs::write(images.join("staging/8"), b"half a record").unwrap();
    std::fs::write(images.join("manifests").join("0".repeat(64)), b"nobody names it").unwrap();
    std::fs::write(images.join("configs").join("0".repeat(64)), b"nobody names it").unwrap();
    let orphan = images.join("layers/9");
    std::fs::create_dir(&orphan).unwrap();
    let record = std::fs::read_to_string(images.join("layers/1/layer.json")).unwrap();
    let other = format!("sha256:{}", "e".repeat(64));
    let mut value: serde_json::Value = serde_json::from_str(&record).unwrap();
    (value["diff_id"], value["chain_id"]) = (other.clone().into(), other.into());
    std::fs::write(orphan.join("layer.json"), value.to_string()).unwrap();
    let (scene, damaged) = scene.reopen();
    assert!(damaged.is_empty(), "{damaged:?}");
    scene.assert_no_garbage();
    assert_eq!(names(&images.join("layers")), ["0", "1"]);
    assert_eq!((names(&images.join("manifests")).len(), names(&images.join("configs")).len()), (1, 1));
    assert!(scene.store.get(Realm::Cri, id.as_str()).is_some());
}

#[test]
fn a_damaged_record_costs_what_it_describes_and_nothing_else() {
    type Damage = fn(&Path, &Image);
    fn overwrite(path: &Path) {
        assert!(path.exists(), "{}", path.display());
        std::fs::write(path, b"{\"version\":1,").unwrap();
    }
    let damages: [(&str, Damage); 6] = [
        ("configuration", |i, image| overwrite(&i.join("configs").join(&image.id()[7..]))),
        ("manifest", |i, image| overwrite(&i.join("manifests").join(&image.manifest.digest()[7..]))),
        ("layer record", |i, _| overwrite(&i.join("layers/2/layer.json"))),
        ("no layer record", |i, _| std::fs::remove_file(i.join("layers/2/layer.json")).unwrap()),
        ("layer of a newer version", |i, _| {
            let path = i.join("layers/2/layer.json");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        }),
        ("no layer", |i, _| gantry_sys::tree::remove(&i.join("layers/2")).unwrap()),
    ];
    for (name, damage) in damages {
        let scene = Scene::new();
        let (good, bad) = (tiny("good", "good"), tiny("bad", "bad"));
        import(&scene, Realm::Cri, "good:1", &good);
        import(&scene, Realm::Cri, "bad:1", &bad);
        damage(&scene.images(), &bad);
        let (scene, damaged) = scene.reopen();
        assert!(!damaged.is_empty(), "{name}");
        for d in &damaged {
            assert!(!d.path.exists() && d.moved_to.exists() && !d.reason.is_empty(), "{name}: {d:?}");
        }
        assert!(scene.store.get(Realm::Cri, "good:1").is_some(), "{name}");
        assert!(scene.store.get(Realm::Cri, "bad:1").is_none(), "{name}");
        // It is brought back like any image that is missing.
        import(&scene, Realm::Cri, "bad:1", &bad);
        let (scene, damaged) = scene.reopen();
        assert!(damaged.is_empty(), "{name}: {damaged:?}");
        assert_eq!(scene.store.list(Realm::Cri).len(), 2, "{name}");
    }
    // One name of several.
    let scene = Scene::new();
    let image = tiny("f", "x");
    import(&scene, Realm::Cri, "one:1", &image);
    import(&scene, Realm::Cri, "two:1", &image);
    let refs = scene.images().join("refs/cri");
    let of = |tag: &str| {
        let holds = |n: &String| std::fs::read_to_string(refs.join(n)).unwrap().contains(tag);
        names(&refs).into_iter().find(holds).unwrap()
    };
    std::fs::write(refs.join(of("one:1")), b"\0\0\0\0").unwrap();
    std::fs::copy(refs.join(of("two:1")), refs.join(format!("{}.json", "a".repeat(64)))).unwrap();
    let (scene, damaged) = scene.reopen();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    let found = scene.store.get(Realm::Cri, &image.id()).unwrap();
    assert_eq!(found.repo_tags, ["docker.io/library/two:1"]);
}

#[test]
fn a_damaged_lease_keeps_every_layer_until_its_container_is_gone() {
    let scene = Scene::new();
    let id = import(&scene, Realm::Cri, "app:1", &tiny("f", "x"));
    scene.store.prepare(Realm::Cri, "c1", &id).unwrap();
    let lease = scene.dir.path().join("containers/c1/lease.json");
    std::fs::write(&lease, b"garbage").unwrap();
    let (scene, damaged) = scene.reopen();
    assert_eq!((damaged.len(), &damaged[0].moved_to), (1, &damaged[0].path));
    assert_eq!(scene.store.snapshots(), ["c1"]);
    assert!(scene.store.snapshot("c1").is_none());
    let error = scene.store.mount("c1", scene.dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(scene.store.remove(Realm::Cri, "app:1").unwrap());
    assert_eq!(scene.layers(), 1);
    scene.store.remove_snapshot("c1").unwrap();
    scene.assert_untouched();
}

#[test]
fn removal_takes_all_names_of_a_realm_and_only_unshared_content() {
    let scene = Scene::new();
    let base = LayerBuilder::new().file("base", 0o644, "base");
    let one = layered(std::slice::from_ref(&base));
    let two = layered(&[base, LayerBuilder::new().file("top", 0o644, "top")]);
    import(&scene, Realm::Cri, "one:1", &one);
    import(&scene, Realm::Cri, "one:2", &one);
    import(&scene, Realm::Cri, "two:1", &two);
    import(&scene, Realm::Local, "two:local", &two);
    assert!(scene.store.remove(Realm::Cri, "one:1").unwrap());
    assert!(
        scene.store.get(Realm::Cri, "one:2").is_none() && scene.store.get(Realm::Cri, &one.id()).is_none()
    );
    assert!(!scene.store.remove(Realm::Cri, "one:2").unwrap());
    assert!(!scene.store.remove(Realm::Cri, "two:local").unwrap());
    assert!(!scene.store.remove(Realm::Cri, "not a name").unwrap());
    assert_eq!(scene.layers(), 2);
    assert!(scene.store.remove(Realm::Cri, &two.id()[7..19]).unwrap());
    assert_eq!(scene.layers(), 2);
    assert!(scene.store.remove(Realm::Local, "two:local").unwrap());
    scene.assert_untouched();
    assert_eq!((scene.store.usage().bytes, scene.store.usage().inodes), (0, 0));
}

#[test]
fn a_container_keeps_the_layers_of_an_image_that_was_removed() {
    let scene = Scene::new();
    let image = tiny("f", "content");
    let id = import(&scene, Realm::Cri, "app:1", &image);
    scene.store.prepare(Realm::Cri, "c1", &id).unwrap();
    assert!(scene.store.remove(Realm::Cri, "app:1").unwrap());
    assert_eq!(scene.layers(), 1);
    let error = scene.store.prepare(Realm::Cri, "c2", &id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let (scene, damaged) = scene.reopen();
    assert!(damaged.is_empty(), "{damaged:?}");
    assert_eq!(scene.layers(), 1);
    in_private_mounts(|| {
        let target = scene.dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        scene.store.mount("c1", &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("f")).unwrap(), "content");
        scene.store.unmount(&target).unwrap();
    });
    scene.store.remove_snapshot("c1").unwrap();
    scene.assert_untouched();
}

#[test]
fn snapshots_are_mounted_as_containers_must_see_them() {
    let image = layered(&[
        LayerBuilder::new()
            .owner(3, 4)
            .dir("./", 0o711)
            .owner(0, 0)
            .dir("d", 0o755)
            .file("d/hidden", 0o644, "x")
            .file("d/kept", 0o644, "kept")
            .dir("o", 0o755)
            .file("o/gone", 0o644, "x")
            .file("replaced", 0o644, "old"),
        LayerBuilder::new()
            .whiteout("d/hidden")
            .dir("o", 0o755)
            .opaque("o")
            .file("o/new", 0o644, "new")
            .dir("replaced", 0o755)
            .hard_link("d/second", "d/kept"),
    ]);
    let scene = Scene::new();
    let id = import(&scene, Realm::Cri, "app:1", &image);
    let snapshot = scene.store.prepare(Realm::Cri, "c1", &id).unwrap();
    assert_eq!(scene.store.prepare(Realm::Cri, "c1", &id).unwrap(), snapshot, "the same call again");
    assert_eq!(snapshot.lower.len(), 2);
    in_private_mounts(|| {
        let target = scene.dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        scene.store.mount("c1", &target).unwrap();
        scene.store.mount("c1", &target).unwrap();
        let root = std::fs::metadata(&target).unwrap();
        assert_eq!((root.permissions().mode() & 0o7777, root.uid(), root.gid()), (0o711, 3, 4));
        let mut paths: Vec<String> = describe(&target).into_keys().collect();
        paths.sort();
        assert_eq!(paths, [".", "./d", "./d/kept", "./d/second", "./o", "./o/new", "./replaced"]);
        let inode = |name: &str| std::fs::metadata(target.join(name)).unwrap().ino();
        assert_eq!(inode("d/kept"), inode("d/second"));
        std::fs::write(target.join("d/kept"), b"changed").unwrap();
        assert!(snapshot.upper.join("d/kept").exists());
        scene.store.unmount(&target).unwrap();
        scene.store.unmount(&target).unwrap();
        assert!(!overlay::is_mounted(&target).unwrap());
    });
    let other = import(&scene, Realm::Cri, "other:1", &tiny("f", "x"));
    assert_eq!(scene.store.prepare(Realm::Cri, "c1", &other).unwrap_err().kind(), ErrorKind::InUse);
    let error = scene.store.mount("c2", scene.dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    scene.store.remove_snapshot("c1").unwrap();
    scene.store.remove_snapshot("c1").unwrap();
    scene.assert_no_garbage();
    assert!(!snapshot.upper.exists());
}

#[test]
fn odd_stacks_are_mounted_too() {
    let twice = LayerBuilder::new().file("twice", 0o644, "x");
    let all = [
        ("without layers", ImageBuilder::new().build(), vec![]),
        (
            "a layer twice",
            layered(&[twice.clone(), LayerBuilder::new().file("between", 0o644, ""), twice.clone()]),
            vec!["./between", "./twice"],
        ),
        (
            "an opaque root",
            layered(&[twice, LayerBuilder::new().file(".wh..wh..opq", 0, "").file("new", 0o644, "")]),
            vec!["./new"],
        ),
        (
            "a hundred layers",
            layered(
                &(0..100).map(|i| LayerBuilder::new().file("same", 0o644, i.to_string())).collect::<Vec<_>>(),
            ),
            vec!["./same"],
        ),
    ];
    for (name, image, expected) in all {
        let scene = Scene::new();
        let id = import(&scene, Realm::Cri, "app:1", &image);
        scene.store.prepare(Realm::Cri, "c1", &id).unwrap();
        in_private_mounts(|| {
            let target = scene.dir.path().join("target");
            std::fs::create_dir(&target).unwrap();
            scene.store.mount("c1", &target).unwrap();
            let paths: Vec<String> = describe(&target).into_keys().filter(|p| p != ".").collect();
            assert_eq!(paths, expected, "{name}");
            assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o755, "{name}");
            if name == "a hundred layers" {
                assert_eq!(std::fs::read_to_string(target.join("same")).unwrap(), "99");
            }
            scene.store.unmount(&target).unwrap();
        });
    }
}

#[test]
fn container_ids_are_no_paths() {
    let scene = Scene::new();
    let id = import(&scene, Realm::Cri, "app:1", &tiny("f", "x"));
    let long = "c".repeat(129);
    for bad in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\0", &long] {
        for error in [
            scene.store.prepare(Realm::Cri, bad, &id).unwrap_err(),
            scene.store.remove_snapshot(bad).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidReference, "{bad:?}: {error}");
        }
    }
    scene.store.prepare(Realm::Cri, &"c".repeat(128), &id).unwrap();
    let error = scene.store.prepare(Realm::Local, "c2", &id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "names belong to realms: {error}");
}

#[test]
fn a_container_cannot_hinder_its_removal() {
    let scene = Scene::new();
    let id = import(&scene, Realm::Cri, "app:1", &tiny("f", "x"));
    let snapshot = scene.store.prepare(Realm::Cri, "c1", &id).unwrap();
    let locked = snapshot.upper.join("locked/inner");
    std::fs::create_dir_all(&locked).unwrap();
    std::fs::write(locked.join("file"), b"x").unwrap();
    for dir in [&locked, &snapshot.upper] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o000)).unwrap();
    }
    // Deeper than any path can name.
    let flags = rustix::fs::OFlags::DIRECTORY;
    let mut here = rustix::fs::open(&snapshot.upper, flags, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop(here);
    scene.store.remove_snapshot("c1").unwrap();
    scene.assert_no_garbage();
}

#[test]
fn many_callers_at_once_do_not_get_in_each_others_way() {
    let scene = Scene::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = runtime.block_on(Registry::start());
    let base = LayerBuilder::new().file("base", 0o644, "base").build(Compression::Gzip);
    let images: Vec<Image> = (0..4)
        .map(|i| {
            let top = LayerBuilder::new().file(&format!("top{i}"), 0o644, "x").build(Compression::Gzip);
            ImageBuilder::new().layer(base.clone()).layer(top).build()
        })
        .collect();
    for (i, image) in images.iter().enumerate() {
        registry.push("app", &i.to_string(), image);
    }
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (scene, runtime, registry) = (&scene, &runtime, &registry);
            scope.spawn(move || {
                for round in 0..6 {
                    let name = at(registry, &format!("app:{}", (worker + round) % 4));
                    let id = runtime.block_on(scene.pull(Realm::Cri, &name)).unwrap();
                    let container = format!("c{worker}-{round}");
                    // Another worker may have removed the image in between.
                    match scene.store.prepare(Realm::Cri, &container, &id) {
                        Ok(snapshot) => {
                            assert!(snapshot.lower.iter().all(|l| l.is_dir()));
                            scene.store.remove(Realm::Cri, &name).unwrap();
                            assert!(snapshot.lower.iter().all(|l| l.is_dir()));
                            scene.store.remove_snapshot(&container).unwrap();
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    }
                }
            });
        }
    });
    for image in &images {
        scene.store.remove(Realm::Cri, &image.id()).unwrap();
    }
    scene.assert_untouched();
}
