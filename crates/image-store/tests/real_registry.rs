//! Pulling from Debian's docker-registry what skopeo pushed there, over HTTP and HTTPS.

mod common;

use common::{Scene, pull_program};
use gantry_image_store::{ErrorKind, Realm};
use gantry_testkit::fs::{describe, differences, disk_dir, in_private_mounts};
use gantry_testkit::image::{Image, ImageBuilder, oci_directory};
use gantry_testkit::layer::{Compression, LayerBuilder};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A docker-registry on a free port; it is killed when dropped.
struct DockerRegistry {
    process: Child,
    port: u16,
}

impl DockerRegistry {
    fn start(dir: &Path, tls: Option<(&Path, &Path)>) -> Self {
        let storage = dir.join("registry");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        if let Some((certificate, key)) = tls {
            config +=
                &format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        }
        let path = dir.join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("docker-registry is needed (apt-get install docker-registry): {e}"));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("docker-registry ended before it listened").unwrap();
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break digits.parse().unwrap();
            }
        };
        // Its log must go somewhere, or it stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    fn at(&self, host: &str, name: &str) -> String {
        format!("{host}:{}/{name}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn push(layout: &Path, registry: &DockerRegistry, name: &str, format: &str) {
    let target = format!("docker://{}", registry.at("127.0.0.1", name));
    let source = format!("oci:{}:latest", layout.display());
    run(Command::new("skopeo").args([
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        "--format",
        format,
        &source,
        &target,
    ]));
}

fn sample() -> Image {
    let mut layer = LayerBuilder::new().dir("./", 0o755).dir("data/", 0o755);
    for i in 0..200 {
        layer = layer.file(&format!("data/file{i}"), 0o640, format!("content {i} ").repeat(500));
    }
    let base = layer.build(Compression::Gzip);
    let top = LayerBuilder::new().dir("data/", 0o755).whiteout("data/file7").symlink("link", "data");
    ImageBuilder::new().layer(base).layer(top.build(Compression::Gzip)).build()
}

#[test]
fn what_skopeo_pushed_is_pulled() {
    let (scene, dir) = (Scene::new(), disk_dir());
    let layout = dir.path().join("layout");
    oci_directory(&layout, &[("latest", &sample())]).unwrap();
    let registry = DockerRegistry::start(dir.path(), None);
    push(&layout, &registry, "team/app:oci", "oci");
    push(&layout, &registry, "team/app:docker", "v2s2");
    run(Command::new("umoci")
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:latest", layout.display()))
        .arg(dir.path().join("bundle")));
    let theirs = describe(&dir.path().join("bundle/rootfs"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (i, tag) in ["oci", "docker"].into_iter().enumerate() {
        let name = registry.at("127.0.0.1", &format!("team/app:{tag}"));
        let id = runtime.block_on(scene.pull(Realm::Cri, &name)).unwrap();
        let image = scene.store.get(Realm::Cri, &name).unwrap();
        let digest = run(Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
            .arg(format!("docker://{name}")));
        let by_digest = registry.at("127.0.0.1", &format!("team/app@{}", digest.trim()));
        assert!(image.repo_digests.contains(&by_digest), "{by_digest} in {:?}", image.repo_digests);
        assert_eq!(runtime.block_on(scene.pull(Realm::Cri, &by_digest)).unwrap(), id);
        let container = format!("c{i}");
        scene.store.prepare(Realm::Cri, &container, &id).unwrap();
        let ours = in_private_mounts(|| {
            let target = dir.path().join(&container);
            std::fs::create_dir(&target).unwrap();
            scene.store.mount(&container, &target).unwrap();
            let seen = describe(&target);
            scene.store.unmount(&target).unwrap();
            seen
        });
        let differences = differences(&ours, &theirs);
        assert!(differences.is_empty(), "gantry | umoci\n{}", differences.join("\n"));
    }
    let absent = runtime.block_on(scene.pull(Realm::Cri, &registry.at("127.0.0.1", "team/app:absent")));
    assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
    scene.assert_no_garbage();
}

#[test]
fn tls_is_verified_unless_the_registry_is_marked_insecure() {
    let (scene, dir) = (Scene::new(), disk_dir());
    let layout = dir.path().join("layout");
    let image = sample();
    oci_directory(&layout, &[("latest", &image)]).unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    let registry = DockerRegistry::start(dir.path(), Some((&certificate, &key)));
    push(&layout, &registry, "app:1", "oci");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = registry.at("localhost", "app:1");
    let error = runtime.block_on(scene.pull(Realm::Cri, &name)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    scene.assert_untouched();

    scene.registries_conf(&format!(
        "[[registry]]\nlocation = \"localhost:{}\"\ninsecure = true\n",
        registry.port
    ));
    runtime.block_on(scene.pull(Realm::Cri, &name)).unwrap();

    // With the certificate among the trusted ones; another program, because that is its environment.
    let output = run(pull_program().env("SSL_CERT_FILE", &certificate).env_remove("SSL_CERT_DIR").args([
        dir.path().join("verified").as_os_str(),
        name.as_ref(),
        dir.path().join("none.conf").as_os_str(),
    ]));
    assert!(output.starts_with(&scene.store.get(Realm::Cri, &name).unwrap().id.to_string()), "{output}");
}
