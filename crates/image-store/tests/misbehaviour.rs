//! Registries, images and disks that misbehave: the store stays as it was, and says why.

mod common;

use common::{Scene, at, config, names, pull_program};
use gantry_image_store::{Error, ErrorKind, ImageStore, ProgressSender, Realm};
use gantry_testkit::fs::{disk_dir, in_private_mounts, small_disk};
use gantry_testkit::image::{Document, Family, Image, ImageBuilder, index, tiny};
use gantry_testkit::layer::{Compression, LayerBuilder, sha256};
use gantry_testkit::registry::{Fault, Gate, Registry};
use std::time::Duration;

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

/// An image whose layer takes several reads.
fn sizable() -> Image {
    let layer = LayerBuilder::new().file("noise", 0o644, noise(300_000)).build(Compression::Gzip);
    ImageBuilder::new().layer(layer).build()
}

async fn pull_with(registry: &Registry, scene: &Scene) -> Error {
    let error = scene.pull(Realm::Cri, &at(registry, "app:1")).await.unwrap_err();
    scene.assert_untouched();
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_found_out() {
    let image = sizable();
    let other = tiny("other", "x");
    let layer = image.layers[0].digest.clone();
    let cases: [(&str, &str, Fault); 7] = [
        ("layer", &layer, Fault::WrongBytes),
        ("configuration", &image.config.digest(), Fault::WrongBytes),
        ("manifest", "/manifests/", Fault::WrongBytes),
        ("shorter layer", &layer, Fault::ContentLength(-100)),
        ("longer layer", &layer, Fault::ContentLength(100)),
        ("endless layer", &layer, Fault::Endless(200)),
        ("endless manifest", "/manifests/", Fault::Endless(200)),
    ];
    for (name, part, fault) in cases {
        let (registry, scene) = (Registry::start().await, Scene::new());
        registry.push("app", "1", &image);
        registry.fault(part, fault);
        let error = pull_with(&registry, &scene).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        // Nothing of the failure sticks.
        registry.heal();
        scene.pull(Realm::Cri, &at(&registry, "app:1")).await.unwrap();
    }
    // Another manifest under the digest that was asked for.
    let (registry, scene) = (Registry::start().await, Scene::new());
    registry.push("app", "1", &image);
    let asked = sha256(b"asked for");
    registry.put_manifest("app", &asked, &other.manifest);
    let error = scene.pull(Realm::Cri, &at(&registry, &format!("app@{asked}"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&asked), "{error}");
    scene.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_lie_about_themselves_are_refused() {
    let layer = || LayerBuilder::new().file("f", 0o644, "x").build(Compression::Gzip);
    let other = LayerBuilder::new().file("g", 0o644, "y").build(Compression::Gzip);
    let other_id = other.diff_id.clone();
    let image = || ImageBuilder::new().layer(layer());
    let cases = [
        ("size of a layer", image().tweak_manifest(|m| m["layers"][0]["size"] = 7.into()).build()),
        ("size of the configuration", image().tweak_manifest(|m| m["config"]["size"] = 7.into()).build()),
        (
            "size far too large",
            image().tweak_manifest(|m| m["layers"][0]["size"] = (1_u64 << 50).into()).build(),
        ),
        (
            "configuration too large",
            image().tweak_manifest(|m| m["config"]["size"] = (1_u64 << 40).into()).build(),
        ),
        ("diff id", image().tweak_config(move |c| c["rootfs"]["diff_ids"][0] = other_id.into()).build()),
        (
            "too many diff ids",
            image()
                .tweak_config(|c| {
                    let id = c["rootfs"]["diff_ids"][0].clone();
                    c["rootfs"]["diff_ids"].as_array_mut().unwrap().push(id);
                })
                .build(),
        ),
        ("no configuration", image().tweak_config(|c| *c = "no object".into()).build()),
    ];
    for (name, image) in cases {
        let (registry, scene) = (Registry::start().await, Scene::new());
        registry.push("app", "1", &image);
        let error = pull_with(&registry, &scene).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
    }
    // Indexes that lead to each other could go on for ever.
    let (registry, scene) = (Registry::start().await, Scene::new());
    let mut document = tiny("f", "x").manifest;
    for _ in 0..5 {
        registry.put_manifest("app", "1", &document);
        let inner = Image { manifest: document, ..tiny("f", "x") };
        document = index(Family::Oci, &[(gantry_testkit::image::architecture(), &inner)]);
    }
    registry.put_manifest("app", "1", &document);
    let error = pull_with(&registry, &scene).await;
    assert!(error.to_string().contains("nested"), "{error}");
    let artifact = Document { bytes: br#"{"schemaVersion":1}"#.to_vec(), media_type: "text/plain".into() };
    registry.put_manifest("app", "1", &artifact);
    assert_eq!(pull_with(&registry, &scene).await.kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_are_refused_and_leave_nothing() {
    let victim = disk_dir();
    let target = victim.path().join("victim");
    std::fs::write(&target, b"untouched").unwrap();
    let up = format!("{}{}", "../".repeat(40), target.strip_prefix("/").unwrap().display());
    let absolute = target.display().to_string();
    let layers = [
        LayerBuilder::new().file(&up, 0o644, "evil"),
        LayerBuilder::new().symlink("l", &up).file("l/../../x", 0o644, "evil"),
        LayerBuilder::new().hard_link("h", &absolute).file("h", 0o644, "evil"),
        LayerBuilder::new().hard_link("h", &up).file("h", 0o644, "evil"),
        LayerBuilder::new().file(&format!("a/{up}/.wh.victim"), 0o644, ""),
    ];
    for layer in layers {
        let (registry, scene) = (Registry::start().await, Scene::new());
        let image = ImageBuilder::new().layer(layer.build(Compression::Gzip)).build();
        registry.push("app", "1", &image);
        assert_eq!(pull_with(&registry, &scene).await.kind(), ErrorKind::Corrupt);
    }
    // These are odd, and stay inside.
    let scene = Scene::new();
    let registry = Registry::start().await;
    let layer = LayerBuilder::new()
        .file(&absolute, 0o644, "evil")
        .symlink("link", &absolute)
        .file("link", 0o644, "evil")
        .symlink("dir", victim.path().to_str().unwrap())
        .file("dir/victim", 0o644, "evil")
        .device("null", 0o666, 1, 3);
    let image = ImageBuilder::new().layer(layer.build(Compression::Gzip)).build();
    registry.push("app", "1", &image);
    scene.pull(Realm::Cri, &at(&registry, "app:1")).await.unwrap();
    let inside = scene.images().join("layers/1/fs").join(target.strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(inside).unwrap(), b"evil");
    assert_eq!(std::fs::read(&target).unwrap(), b"untouched");
    assert_eq!(names(victim.path()), ["victim"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_are_overcome_without_starting_anew() {
    let image = sizable();
    let layer = image.layers[0].digest.clone();
    let cases = [
        ("cut off", Fault::Truncate(100_000, 2), 3),
        ("cut off without ranges", Fault::TruncateNoRanges(100_000, 2), 3),
        ("server errors", Fault::Status(503, 2), 3),
    ];
    for (name, fault, at_least) in cases {
        let (registry, scene) = (Registry::start().await, Scene::new());
        registry.push("app", "1", &image);
        registry.fault(&layer, fault);
        scene.pull(Realm::Cri, &at(&registry, "app:1")).await.unwrap();
        assert!(registry.requests(&layer) >= at_least, "{name}: {:?}", registry.all_requests());
        scene.assert_no_garbage();
    }
    let (registry, scene) = (Registry::start().await, Scene::new());
    registry.push("app", "1", &image);
    registry.fault("/manifests/", Fault::Status(500, 3));
    scene.pull(Realm::Cri, &at(&registry, "app:1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_do_not_serve_are_unavailable() {
    let image = sizable();
    let layer = image.layers[0].digest.clone();
    let always = usize::MAX;
    let cases: [(&str, Fault, ErrorKind); 8] = [
        ("/manifests/", Fault::Status(500, always), ErrorKind::Unavailable),
        ("/manifests/", Fault::Status(429, always), ErrorKind::Unavailable),
        ("/manifests/", Fault::Status(403, always), ErrorKind::Unauthorized),
        ("/manifests/", Fault::Endless(500), ErrorKind::Unavailable),
        (&layer, Fault::Status(500, always), ErrorKind::Unavailable),
        (&layer, Fault::Status(404, always), ErrorKind::NotFound),
        (&layer, Fault::Endless(500), ErrorKind::Unavailable),
        (&layer, Fault::Truncate(1000, always), ErrorKind::Unavailable),
    ];
    for (part, fault, kind) in cases {
        let (registry, scene) = (Registry::start().await, Scene::new());
        registry.push("app", "1", &image);
        registry.fault(part, fault.clone());
        let error = pull_with(&registry, &scene).await;
        assert_eq!(error.kind(), kind, "{part} {fault:?}: {error}");
        assert!(error.to_string().contains(&registry.host()), "{error}");
    }
    let (registry, scene) = (Registry::start().await, Scene::new());
    assert_eq!(pull_with(&registry, &scene).await.kind(), ErrorKind::NotFound);
    let host = registry.host();
    drop(registry);
    // Nobody listens there any more.
    let error = scene.pull(Realm::Cri, &format!("{host}/app:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    scene.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_not_waited_for() {
    let image = sizable();
    let layer = image.layers[0].digest.clone();
    for part in ["/manifests/", &image.config.digest(), &layer] {
        let scene = Scene::with(|c| {
            c.limits.stall = Duration::from_millis(200);
            c.limits.retries = 1;
        });
        let registry = Registry::start().await;
        registry.push("app", "1", &image);
        let gate = Gate::new();
        registry.fault(part, Fault::Stall(10, gate.clone()));
        let error = pull_with(&registry, &scene).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{part}: {error}");
        gate.open();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_layer_ends_the_others() {
    let good = LayerBuilder::new().file("good", 0o644, vec![b'g'; 100_000]).build(Compression::None);
    let bad = LayerBuilder::new().file("../bad", 0o644, "").build(Compression::None);
    let image = ImageBuilder::new().layer(good.clone()).layer(bad).build();
    let (registry, scene) = (Registry::start().await, Scene::new());
    registry.push("app", "1", &image);
    // Never opened: only being given up ends this download.
    registry.fault(&good.digest, Fault::Stall(50_000, Gate::new()));
    assert_eq!(pull_with(&registry, &scene).await.kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let scene = Scene::with(|c| {
        c.limits.layers = 3;
        c.limits.manifest_bytes = 4096;
        c.limits.layer_bytes = 64 << 10;
    });
    let registry = Registry::start().await;
    let layer = |i: usize| LayerBuilder::new().file(&format!("f{i}"), 0o644, "").build(Compression::Gzip);
    let many = (0..4).fold(ImageBuilder::new(), |b, i| b.layer(layer(i))).build();
    registry.push("app", "1", &many);
    assert!(pull_with(&registry, &scene).await.to_string().contains("more than 3 layers"));
    let wide = (0..40).fold(ImageBuilder::new(), |b, i| b.layer(layer(i))).build();
    registry.push("app", "1", &wide);
    assert!(pull_with(&registry, &scene).await.to_string().contains("more than 4096 bytes"));
    let bomb = LayerBuilder::new().file("zeros", 0o644, vec![0; 1 << 20]).build(Compression::Gzip);
    registry.push("app", "1", &ImageBuilder::new().layer(bomb).build());
    assert!(pull_with(&registry, &scene).await.to_string().contains("larger than the limit"));
}

#[test]
fn a_full_disk_fails_pulls_and_nothing_else() {
    let dir = disk_dir();
    in_private_mounts(|| {
        small_disk(dir.path(), 4 << 20);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (store, _) = ImageStore::open(config(dir.path())).unwrap();
        let staging = dir.path().join("images/staging");
        runtime.block_on(async {
            let registry = Registry::start().await;
            let small = tiny("small", "x");
            registry.push("small", "1", &small);
            let layers = [1, 6].map(|megabytes: usize| {
                let content = vec![b'x'; megabytes << 20];
                LayerBuilder::new().file(&format!("big{megabytes}"), 0o644, content).build(Compression::Gzip)
            });
            let [one, six] = layers;
            registry.push("big", "1", &ImageBuilder::new().layer(one).layer(six).build());
            let pull = |name: &'static str| {
                let (store, name) = (store.clone(), at(&registry, name));
                async move { store.pull(Realm::Cri, &name, None, ProgressSender::none()).await }
            };
            let id = pull("small:1").await.unwrap();
            let snapshot = store.prepare(Realm::Cri, "c1", &id).unwrap();
            let error = pull("big:1").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            store.settle();
            assert_eq!(names(&staging), ["trash"]);
            assert_eq!(store.list(Realm::Cri).len(), 1);
            // Fill what is left, to the last block.
            let mut filler = std::fs::File::create(snapshot.upper.join("filler")).unwrap();
            let full = std::io::copy(&mut std::io::repeat(7), &mut filler).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            assert_eq!(pull("small:1").await.unwrap_err().kind(), ErrorKind::NoSpace);
            let error = store.prepare(Realm::Cri, "c2", &id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            assert_eq!(store.snapshots(), ["c1"]);
            assert!(store.remove(Realm::Cri, id.as_str()).unwrap());
            store.remove_snapshot("c1").unwrap();
            store.settle();
            assert!(store.list(Realm::Cri).is_empty() && store.snapshots().is_empty());
            assert_eq!(names(&dir.path().join("images/layers")), ["0"]);
            assert_eq!(pull("small:1").await.unwrap(), id);
        });
        drop(store);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_nothing_half_there() {
    let first = LayerBuilder::new().file("first", 0o644, noise(200_000)).build(Compression::Gzip);
    let second = LayerBuilder::new().file("second", 0o644, noise(200_000)).build(Compression::Gzip);
    let image = ImageBuilder::new().layer(first).layer(second.clone()).build();
    for stalled in [&image.manifest.digest(), &image.config.digest(), &second.digest] {
        let (registry, dir) = (Registry::start().await, disk_dir());
        registry.push("app", "1", &image);
        let gate = Gate::new();
        registry.fault(stalled, Fault::Stall(100, gate.clone()));
        let name = at(&registry, &format!("app@{}", image.manifest.digest()));
        let none = dir.path().join("none.conf");
        let mut child = pull_program().arg(dir.path()).arg(&name).arg(none).spawn().unwrap();
        gate.reached(1).await;
        child.kill().unwrap();
        child.wait().unwrap();
        gate.open();
        registry.heal();
        let (store, damaged) = ImageStore::open(config(dir.path())).unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        let scene = Scene { dir, store };
        scene.assert_untouched();
        let id = scene.pull(Realm::Cri, &name).await.unwrap();
        assert_eq!(id.as_str(), image.id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_layer() {
    let registry = Registry::start().await;
    for (name, compression) in [("plain", Compression::None), ("gzip", Compression::Gzip)] {
        let layer = LayerBuilder::new().file("noise", 0o644, noise(96 << 20)).build(compression);
        registry.push(name, "1", &ImageBuilder::new().layer(layer).build());
        let dir = disk_dir();
        let mut program = pull_program();
        program.arg(dir.path()).arg(at(&registry, &format!("{name}:1"))).arg(dir.path().join("none.conf"));
        let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // "... VmHWM: 20000 kB"
        let peak: u64 = text.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
        assert!(peak < 48 << 10, "{name}: {text}");
    }
}
