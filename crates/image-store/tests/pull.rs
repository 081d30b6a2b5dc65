//! Pulling from registries that behave.

mod common;

use common::{Scene, at};
use gantry_image_store::{Credentials, ErrorKind, LayerState, ProgressSender, Realm};
use gantry_testkit::image::{Family, ImageBuilder, architecture, index, tiny};
use gantry_testkit::layer::{Compression, LayerBuilder};
use gantry_testkit::registry::{BEARER_TOKEN, Fault, Gate, IDENTITY_TOKEN, Registry};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let registry = Registry::start().await;
    let layer =
        LayerBuilder::new().dir("etc", 0o755).file("etc/motd", 0o600, "hello").build(Compression::Gzip);
    let config = json!({
        "User": "7:8", "Env": ["A=1", "B=2"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "WorkingDir": "/w",
        "StopSignal": "SIGINT", "Labels": {"k": "v"}, "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
    });
    let image = ImageBuilder::new().layer(layer).config(config).build();
    registry.push("team/app", "1", &image);
    let scene = Scene::new();

    let id = scene.pull(Realm::Cri, &at(&registry, "team/app:1")).await.unwrap();
    assert_eq!(id.as_str(), image.id());
    let by_digest = at(&registry, &format!("team/app@{}", image.manifest.digest()));
    assert_eq!(scene.pull(Realm::Cri, &by_digest).await.unwrap(), id);
    for name in [&at(&registry, "team/app:1"), &by_digest, id.as_str(), &id.as_str()[7..20]] {
        assert_eq!(scene.store.get(Realm::Cri, name).unwrap().id, id, "{name}");
    }
    let found = scene.store.get(Realm::Cri, id.as_str()).unwrap();
    assert_eq!(found.repo_tags, [at(&registry, "team/app:1")]);
    assert_eq!(found.repo_digests, [by_digest]);
    assert_eq!(found.layers, [image.layers[0].diff_id.clone()]);
    assert_eq!(found.created.as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!((found.size, found.pinned), (8192, false));
    let c = &found.config;
    assert_eq!(
        (c.user.as_str(), c.working_dir.as_str(), c.stop_signal.as_deref()),
        ("7:8", "/w", Some("SIGINT"))
    );
    assert_eq!((c.env.len(), c.entrypoint.len(), c.cmd.len()), (2, 1, 2));
    assert_eq!(
        (&c.volumes[..], &c.exposed_ports[..]),
        (&["/data".to_owned()][..], &["80/tcp".to_owned()][..])
    );
    assert_eq!(c.labels["k"], "v");
    assert_eq!(scene.store.list(Realm::Cri).len(), 1);
    let usage = scene.store.usage();
    assert_eq!((usage.bytes, usage.inodes), (8192, 2));
    assert!(usage.mountpoint.is_dir());
    let motd = scene.images().join("layers/1/fs/etc/motd");
    assert_eq!(std::fs::read_to_string(motd).unwrap(), "hello");
    scene.assert_no_garbage();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_image_is_understood() {
    let registry = Registry::start().await;
    let scene = Scene::new();
    for family in [Family::Oci, Family::Docker] {
        let mut builder = ImageBuilder::new().family(family).config(json!({"User": format!("{family:?}")}));
        for (i, compression) in
            [Compression::None, Compression::Gzip, Compression::Zstd].into_iter().enumerate()
        {
            let layer = LayerBuilder::new().file(&format!("file{i}"), 0o644, format!("{family:?}"));
            builder = builder.layer(layer.build(compression));
        }
        let image = builder.build();
        let other = ImageBuilder::new().family(family).architecture("sparc").build();
        registry.push("app", "plain", &image);
        registry.push("app", "other", &other);
        let index = index(family, &[("sparc", &other), (architecture(), &image)]);
        registry.put_manifest("app", "index", &index);

        let id = scene.pull(Realm::Cri, &at(&registry, "app:index")).await.unwrap();
        assert_eq!(id.as_str(), image.id());
        let found = scene.store.get(Realm::Cri, id.as_str()).unwrap();
        for digest in [index.digest(), image.manifest.digest()] {
            let name = at(&registry, &format!("app@{digest}"));
            assert!(found.repo_digests.contains(&name), "{:?}", found.repo_digests);
            assert_eq!(scene.pull(Realm::Cri, &name).await.unwrap(), id);
        }
        let lonely = gantry_testkit::image::index(family, &[("sparc", &other)]);
        registry.put_manifest("app", "lonely", &lonely);
        let error = scene.pull(Realm::Cri, &at(&registry, "app:lonely")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_fetched_again() {
    let registry = Registry::start().await;
    let base = LayerBuilder::new().dir("d", 0o755).file("d/base", 0o644, "base").build(Compression::Gzip);
    let top = LayerBuilder::new().file("top", 0o644, "top").build(Compression::Gzip);
    let one = ImageBuilder::new().layer(base.clone()).build();
    // The base lies elsewhere in this one's stack; it is self-contained.
    let two = ImageBuilder::new().layer(top).layer(base.clone()).build();
    registry.push("one", "1", &one);
    registry.push("two", "1", &two);
    let scene = Scene::new();
    scene.pull(Realm::Cri, &at(&registry, "one:1")).await.unwrap();
    let before = registry.all_requests().len();
    scene.pull(Realm::Cri, &at(&registry, "one:1")).await.unwrap();
    assert_eq!(registry.all_requests()[before..], ["GET /v2/one/manifests/1"]);
    let (progress, seen) = ProgressSender::channel();
    scene.store.pull(Realm::Cri, &at(&registry, "two:1"), None, progress).await.unwrap();
    assert_eq!(registry.requests(&base.digest), 1);
    assert_eq!(scene.layers(), 2);
    let states: Vec<LayerState> = seen.borrow().layers.iter().map(|l| l.state).collect();
    assert_eq!(states, [LayerState::Done, LayerState::Present]);

    // A tag that moves leaves the image to its digest.
    let moved = tiny("moved", "x");
    registry.push("one", "1", &moved);
    let id = scene.pull(Realm::Cri, &at(&registry, "one:1")).await.unwrap();
    assert_eq!(id.as_str(), moved.id());
    let old = scene.store.get(Realm::Cri, &one.id()).unwrap();
    assert_eq!((old.repo_tags.len(), old.repo_digests.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_share_their_work() {
    let registry = Registry::start().await;
    let base = LayerBuilder::new().file("base", 0o644, vec![b'b'; 50_000]).build(Compression::None);
    let with = |name: &str| {
        let top = LayerBuilder::new().file(name, 0o644, name).build(Compression::Gzip);
        ImageBuilder::new().layer(base.clone()).layer(top).build()
    };
    let (a, b) = (with("a"), with("b"));
    registry.push("a", "1", &a);
    registry.push("b", "1", &b);
    let gate = Gate::new();
    registry.fault(&base.digest, Fault::Stall(10_000, gate.clone()));
    let scene = Scene::new();
    let pulls = [(Realm::Cri, "a:1"), (Realm::Cri, "a:1"), (Realm::Local, "a:1"), (Realm::Cri, "b:1")];
    let (names, store) = (pulls.map(|(_, name)| at(&registry, name)), scene.store.clone());
    let tasks: Vec<_> = pulls
        .iter()
        .zip(names)
        .map(|((realm, _), name)| {
            let (store, realm) = (store.clone(), *realm);
            tokio::spawn(async move { store.pull(realm, &name, None, ProgressSender::none()).await })
        })
        .collect();
    gate.reached(1).await;
    gate.open();
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await.unwrap().unwrap().to_string());
    }
    assert_eq!(ids, [a.id(), a.id(), a.id(), b.id()]);
    for layer in a.layers.iter().chain(&b.layers) {
        assert_eq!(registry.requests(&layer.digest), 1, "{:?}", registry.all_requests());
    }
    assert_eq!((scene.store.list(Realm::Cri).len(), scene.store.list(Realm::Local).len()), (2, 1));
    assert_eq!(scene.layers(), 3);
    scene.assert_no_garbage();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_outlives_the_client_that_asked_for_it() {
    let registry = Registry::start().await;
    let image = tiny("file", "content");
    registry.push("app", "1", &image);
    let gate = Gate::new();
    registry.fault("/blobs/", Fault::Stall(5, gate.clone()));
    let scene = Scene::new();
    let (store, name) = (scene.store.clone(), at(&registry, "app:1"));
    let client = {
        let name = name.clone();
        tokio::spawn(async move { store.pull(Realm::Cri, &name, None, ProgressSender::none()).await })
    };
    gate.reached(1).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.open();
    let id = scene.pull(Realm::Cri, &name).await.unwrap();
    assert_eq!(id.as_str(), image.id());
    assert_eq!(registry.requests(&image.layers[0].digest), 1);
    scene.assert_no_garbage();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_the_one_that_began_does_not_spread() {
    let (bad, good) = (Registry::start().await, Registry::start().await);
    let image = tiny("file", "content");
    for registry in [&bad, &good] {
        registry.push("app", "1", &image);
    }
    let gate = Gate::new();
    bad.fault(&image.config.digest(), Fault::Stall(5, gate.clone()));
    let scene = Scene::with(|c| c.limits.retries = 0);
    let (store, name) = (scene.store.clone(), at(&bad, "app:1"));
    let first =
        tokio::spawn(async move { store.pull(Realm::Cri, &name, None, ProgressSender::none()).await });
    gate.reached(1).await;
    let (store, name) = (scene.store.clone(), at(&good, "app:1"));
    let (progress, _seen) = ProgressSender::channel();
    let second = tokio::spawn(async move { store.pull(Realm::Cri, &name, None, progress).await });
    // From here on the first registry has nothing to give.
    bad.fault("/blobs/", Fault::Status(404, usize::MAX));
    gate.open();
    assert_eq!(second.await.unwrap().unwrap().as_str(), image.id());
    // The first may have joined what the second began, which is as well.
    let _ = first.await.unwrap();
    scene.assert_no_garbage();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_belong_to_realms_and_permission_to_callers() {
    let registry = Registry::start().await;
    let image = tiny("secret", "content");
    registry.push("app", "1", &image);
    registry.require_basic("user", "password");
    let scene = Scene::new();
    let name = at(&registry, "app:1");
    let login = Credentials {
        username: Some("user".into()),
        password: Some("password".into()),
        ..Credentials::default()
    };
    let pulled = scene.store.pull(Realm::Local, &name, Some(login.clone()), ProgressSender::none()).await;
    assert_eq!(pulled.unwrap().as_str(), image.id());
    assert!(
        scene.store.get(Realm::Cri, &name).is_none() && scene.store.get(Realm::Cri, &image.id()).is_none()
    );
    // The content is there, but who asks may not have it.
    let error = scene.pull(Realm::Cri, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let by_digest = at(&registry, &format!("app@{}", image.manifest.digest()));
    assert_eq!(scene.pull(Realm::Cri, &by_digest).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    let blobs = registry.requests("/blobs/");
    scene.store.pull(Realm::Cri, &name, Some(login), ProgressSender::none()).await.unwrap();
    assert_eq!(registry.requests("/blobs/"), blobs);

    assert!(scene.store.remove(Realm::Local, &name).unwrap());
    assert!(scene.store.get(Realm::Cri, &name).is_some());
    assert_eq!(scene.layers(), 1);
    assert!(scene.store.remove(Realm::Cri, &image.id()).unwrap());
    assert!(!scene.store.remove(Realm::Cri, &image.id()).unwrap());
    scene.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_every_kind_are_used_and_never_shown() {
    let registry = Registry::start().await;
    registry.push("app", "1", &tiny("file", "x"));
    let scene = Scene::new();
    let name = at(&registry, "app:1");
    let none = Credentials::default;
    let encoded = "dXNlcjpzM2NyZXQ="; // user:s3cret
    let password = Credentials { username: Some("user".into()), password: Some("s3cret".into()), ..none() };
    let auth = Credentials { auth: Some(encoded.into()), ..none() };
    let identity = Credentials { identity_token: Some(IDENTITY_TOKEN.into()), ..none() };
    let token = Credentials { registry_token: Some(BEARER_TOKEN.into()), ..none() };
    let wrong = Credentials { username: Some("user".into()), password: Some("s3cret-not".into()), ..none() };
    let elsewhere =
        Credentials { server_address: Some("https://other.example/v1/".into()), ..password.clone() };
    let here =
        Credentials { server_address: Some(format!("http://{}/v2/", registry.host())), ..auth.clone() };
    let cases = [
        ("basic", password.clone(), true),
        ("basic", auth.clone(), true),
        ("basic", here.clone(), true),
        ("basic", token.clone(), false),
        ("basic", wrong.clone(), false),
        ("basic", elsewhere.clone(), false),
        ("token", password, true),
        ("token", auth, true),
        ("token", here, true),
        ("token", identity, true),
        ("token", token, true),
        ("token", wrong, false),
        ("token", elsewhere, false),
        ("token", none(), false),
    ];
    for (kind, credentials, allowed) in cases {
        match kind {
            "basic" => registry.require_basic("user", "s3cret"),
            _ => registry.require_token("user", "s3cret"),
        }
        let shown = format!("{credentials:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains(encoded) && !shown.contains("of-the-test"),
            "{shown}"
        );
        let result = scene.store.pull(Realm::Cri, &name, Some(credentials), ProgressSender::none()).await;
        match result {
            Ok(_) => assert!(allowed, "{kind} {shown}"),
            Err(error) => {
                assert!(!allowed, "{kind} {shown}: {error}");
                assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
                let text = format!("{error} {error:?}");
                assert!(!text.contains("s3cret") && !text.contains("of-the-test"), "{text}");
            }
        }
        scene.store.remove(Realm::Cri, &name).unwrap();
    }
    scene.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_conf_redirects_names() {
    let (mirror, origin) = (Registry::start().await, Registry::start().await);
    let image = tiny("file", "x");
    origin.push("hub/library/busybox", "latest", &image);
    let scene = Scene::new();
    scene.registries_conf(&format!(
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}/hub\"\n[[registry.mirror]]\nlocation = \"{}\"\n\
         [[registry]]\nlocation = \"blocked.example\"\nblocked = true\n",
        origin.host(),
        mirror.host()
    ));
    let id = scene.pull(Realm::Cri, "busybox").await.unwrap();
    let found = scene.store.get(Realm::Cri, "docker.io/library/busybox:latest").unwrap();
    assert_eq!((found.id, &found.repo_tags[0][..]), (id, "docker.io/library/busybox:latest"));
    assert!(scene.store.get(Realm::Cri, "busybox").is_some());
    assert_eq!(mirror.all_requests(), ["GET /v2/library/busybox/manifests/latest"]);

    // The mirror has it now: the origin is not asked, and no credentials go to the mirror.
    let other = tiny("file", "y");
    mirror.push("library/busybox", "latest", &other);
    let before = origin.all_requests().len();
    assert_eq!(scene.pull(Realm::Cri, "busybox").await.unwrap().as_str(), other.id());
    assert_eq!(origin.all_requests().len(), before);
    mirror.require_basic("user", "password");
    let login = Credentials {
        username: Some("user".into()),
        password: Some("password".into()),
        ..Credentials::default()
    };
    let from_origin =
        scene.store.pull(Realm::Cri, "busybox", Some(login), ProgressSender::none()).await.unwrap();
    assert_eq!(from_origin.as_str(), image.id());

    let error = scene.pull(Realm::Cri, "absent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    for endpoint in [mirror.host(), origin.host()] {
        assert!(error.to_string().contains(&endpoint), "{error}");
    }
    let error = scene.pull(Realm::Cri, "blocked.example/x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    scene.registries_conf("broken");
    let error = scene.pull(Realm::Cri, "busybox").await.unwrap_err();
    assert!(error.to_string().contains("registries.conf"), "{error}");
    let error = scene.pull(Realm::Cri, "Not a reference").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "the broken file comes first: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_names_are_looked_for_where_registries_conf_says() {
    let (one, two) = (Registry::start().await, Registry::start().await);
    let image = tiny("file", "x");
    two.push("app", "1", &image);
    let scene = Scene::new();
    let search = format!("unqualified-search-registries = [\"{}\", \"{}\"]\n", one.host(), two.host());
    scene.registries_conf(&search);
    let id = scene.pull(Realm::Cri, "app:1").await.unwrap();
    let found = scene.store.get(Realm::Cri, "app:1").unwrap();
    assert_eq!((found.id, found.repo_tags), (id, vec![at(&two, "app:1")]));
    let error = scene.pull(Realm::Cri, "absent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&one.host()) && error.to_string().contains(&two.host()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_need_what_is_below_are_kept_per_stack() {
    let registry = Registry::start().await;
    let base = |mode| {
        let base = LayerBuilder::new().dir("usr", mode).dir("usr/lib", 0o755).symlink("lib", "usr/lib");
        base.file("usr/lib/libc", 0o644, "libc").build(Compression::Gzip)
    };
    // No parents, a way through a lower link, a hard link to a lower file.
    let dependent = LayerBuilder::new()
        .file("usr/share/new", 0o644, "new")
        .file("lib/added", 0o644, "added")
        .hard_link("usr/lib/libc.2", "lib/libc")
        .build(Compression::Gzip);
    let top = LayerBuilder::new().file("lib/last", 0o644, "last").build(Compression::Gzip);
    let with = |mode| {
        let builder = ImageBuilder::new().layer(base(mode)).layer(dependent.clone()).layer(top.clone());
        builder.build()
    };
    let (a, b) = (with(0o755), with(0o711));
    registry.push("a", "1", &a);
    registry.push("b", "1", &b);
    let scene = Scene::new();
    // All of a stack at once: the upper layers have to wait for the lower ones.
    let (pull_a, pull_b) = (at(&registry, "a:1"), at(&registry, "b:1"));
    let pulled = tokio::join!(scene.pull(Realm::Cri, &pull_a), scene.pull(Realm::Cri, &pull_b));
    assert_eq!((pulled.0.unwrap().to_string(), pulled.1.unwrap().to_string()), (a.id(), b.id()));
    assert_eq!(scene.layers(), 6, "two bases, and what lies on them twice");
    let mut modes = Vec::new();
    for number in 1..=6 {
        let fs = scene.images().join(format!("layers/{number}/fs"));
        assert!(!fs.join("lib").is_dir() || fs.join("usr/lib").is_dir());
        if fs.join("usr/share/new").exists() {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            let usr = std::fs::metadata(fs.join("usr")).unwrap();
            modes.push(usr.permissions().mode() & 0o777);
            assert!(fs.join("usr/lib/added").exists());
            let inode = |name: &str| std::fs::metadata(fs.join(name)).unwrap().ino();
            assert_eq!(inode("usr/lib/libc"), inode("usr/lib/libc.2"));
        }
    }
    modes.sort_unstable();
    assert_eq!(modes, [0o711, 0o755], "the parent that the layer left out is as it is below");
    scene.assert_no_garbage();
}
