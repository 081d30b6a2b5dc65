//! The images that critest wants, under the names that it has for them.
//!
//! Programs are Debian's, from the packages that `e2e/critest/packages` unpacks; `nonewprivs` is compiled here.

use gantry_e2e::Registry;
use gantry_testkit::image::{Image, ImageBuilder};
use gantry_testkit::layer::{Compression, Layer, LayerBuilder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Registries whose names the local one answers for.
pub(crate) const REGISTRIES: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// `registries.conf` that makes `address` the mirror of all [`REGISTRIES`].
pub(crate) fn registries_conf(address: &str) -> String {
    let one = |name: &&str| {
        format!(
            "[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\
             [[registry.mirror]]\nlocation = \"{address}/{name}\"\ninsecure = true\n"
        )
    };
    REGISTRIES.iter().map(one).collect()
}

/// Builds every image and pushes each to `registry` as `<registry's name>/<repository>:<tag>`.
pub(crate) fn push(registry: &Registry) {
    let kit = Kit::new();
    let busybox = kit.busybox(json!({"Cmd": ["sh"]}), &[]);
    let e2e = "registry.k8s.io/e2e-test-images";
    registry.push(&format!("{e2e}/busybox:1.29-2"), &busybox);
    registry.push(&format!("{e2e}/nginx:1.14-2"), &kit.nginx(80));
    registry.push(&format!("{e2e}/httpd:2.4.39-4"), &kit.httpd());
    registry.push(&format!("{e2e}/nonewprivs:1.3"), &kit.nonewprivs());
    let pause = kit.busybox(json!({"Entrypoint": ["sleep", "infinity"]}), &[("mark", 0o644, "pause")]);
    for name in ["registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"] {
        registry.push(name, &pause);
    }

    let staging = "gcr.io/k8s-staging-cri-tools";
    let nginx = format!("hostnet-nginx-{}", gantry_testkit::image::architecture());
    registry.push(&format!("{staging}/{nginx}:latest"), &kit.nginx(12003));
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
    ] {
        let image = kit.busybox(json!({"Cmd": ["sh"], "User": user}), &[]);
        registry.push(&format!("{staging}/{name}:latest"), &image);
    }
    registry.push(&format!("{staging}/test-image-predefined-group:latest"), &kit.predefined_group());
    for name in
        ["test-image-1:latest", "test-image-2:latest", "test-image-3:latest", "test-image-latest:latest"]
    {
        registry.push(&format!("{staging}/{name}"), &kit.marked(name));
    }
    for tag in ["test", "all"] {
        registry.push(&format!("{staging}/test-image-tag:{tag}"), &kit.marked(tag));
    }
    let same = kit.marked("tags");
    for tag in 1..=3 {
        registry.push(&format!("{staging}/test-image-tags:{tag}"), &same);
    }
}

/// Where `e2e/critest/packages` unpacks.
fn packages() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/critest/packages/root");
    assert!(dir.is_dir(), "{} is missing: run make setup", dir.display());
    dir
}

/// Programs, their libraries, and layers that several images share.
struct Kit {
    packages: PathBuf,
    base: Layer,
}

impl Kit {
    fn new() -> Self {
        let packages = packages();
        let base = base(&packages);
        Self { packages, base }
    }

    /// The base image with `config`, and `files` (path, mode, content) in a layer of their own.
    fn busybox(&self, config: Value, files: &[(&str, u32, &str)]) -> Image {
        let mut image = ImageBuilder::new().layer(self.base.clone());
        if !files.is_empty() {
            let mut layer = LayerBuilder::new();
            for (path, mode, content) in files {
                layer = layer.file(path, *mode, content);
            }
            image = image.layer(layer.build(Compression::Gzip));
        }
        image
            .config(gantry_e2e::merge(json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}), config))
            .build()
    }

    /// An image that differs from all others by a file in it.
    fn marked(&self, name: &str) -> Image {
        self.busybox(json!({"Cmd": ["sh"]}), &[("mark", 0o644, name)])
    }

    fn predefined_group(&self) -> Image {
        let passwd = format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n");
        let group = format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
        let files = [("etc/passwd", 0o644, passwd.as_str()), ("etc/group", 0o644, group.as_str())];
        self.busybox(json!({"Cmd": ["sh"], "User": "1000"}), &files)
    }

    fn nginx(&self, port: u16) -> Image {
        let mut layer = LayerBuilder::new().dir("etc/nginx/", 0o755).dir("var/lib/nginx/", 0o755);
        layer =
            layer.dir("var/www/", 0o755).file("var/www/index.html", 0o644, "<h1>Welcome to nginx!</h1>\n");
        layer = layer.dir("var/log/nginx/", 0o755);
        layer = program(layer, &self.packages, "usr/sbin/nginx");
        for library in ["libpcre2-8.so.0", "libssl.so.3", "libcrypto.so.3", "libcrypt.so.1", "libz.so.1"] {
            layer = shared(layer, &self.packages, library);
        }
        // The image's words: foreground, logs to its own outputs.
        let conf = format!(
            "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /dev/stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n  access_log /dev/stdout;\n  server {{ listen {port}; root /var/www; }}\n}}\n"
        );
        let layer = layer.file("etc/nginx/nginx.conf", 0o644, conf).build(Compression::Gzip);
        let config = json!({
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "ExposedPorts": {format!("{port}/tcp"): {}},
            "StopSignal": "SIGTERM",
        });
        ImageBuilder::new().layer(self.base.clone()).layer(layer).config(config).build()
    }

    fn httpd(&self) -> Image {
        let script = "echo 'httpd answers on port 80'; exec httpd -f -v -p 80 -h /www";
        let config = json!({"Cmd": ["sh", "-c", script], "ExposedPorts": {"80/tcp": {}}});
        self.busybox(config, &[("www/index.html", 0o644, "<h1>It works!</h1>\n")])
    }

    fn nonewprivs(&self) -> Image {
        let dir = tempfile::tempdir().expect("make a directory");
        let built = dir.path().join("nnp");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("critest/nnp.c");
        gantry_e2e::run(Command::new("gcc").args(["-O1", "-static", "-s", "-o"]).arg(&built).arg(source))
            .ok();
        let content = std::fs::read(&built).expect("read what gcc made");
        // A directory of its own: setuid of root, in an image whose user is another.
        let layer = LayerBuilder::new().file("nnp", 0o4755, content).build(Compression::Gzip);
        let config = json!({"Entrypoint": ["/nnp"], "User": "1500"});
        ImageBuilder::new().layer(self.base.clone()).layer(layer).config(config).build()
    }
}

/// busybox with a hard link for each applet, `ipcs`, the C library, and accounts.
fn base(packages: &Path) -> Layer {
    let mut layer = LayerBuilder::new();
    for (dir, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("lib/", 0o755),
        ("lib64/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/bin/", 0o755),
        ("usr/sbin/", 0o755),
        ("var/", 0o755),
        ("var/lib/", 0o755),
        ("var/log/", 0o755),
        ("var/run/", 0o755),
        ("www/", 0o755),
    ] {
        layer = layer.dir(dir, mode);
    }
    layer = program(layer, packages, "bin/busybox");
    let list = gantry_e2e::run(Command::new(packages.join("bin/busybox")).arg("--list")).ok();
    for applet in list.lines().filter(|a| *a != "busybox") {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    layer = program(layer, packages, "usr/bin/ipcs");
    // Debian's busybox has no such applet; by a program's exact name, pidof finds the same.
    layer = layer.file("bin/pgrep", 0o755, "#!/bin/sh\nexec pidof \"$1\"\n");
    for library in ["libc.so.6", "libresolv.so.2"] {
        layer = shared(layer, packages, library);
    }
    let loader = packages.join("lib64").read_dir().expect("libc6 has /lib64").flatten().next();
    let loader = loader.expect("libc6 has a loader in /lib64").path();
    let name = loader.file_name().expect("a file has a name").to_string_lossy().into_owned();
    // The package's is a link to the loader among the libraries.
    layer = shared_as(layer, packages, &name, &format!("lib64/{name}"));
    layer.file("etc/passwd", 0o644, PASSWD).file("etc/group", 0o644, GROUP).build(Compression::Gzip)
}

fn program(layer: LayerBuilder, packages: &Path, path: &str) -> LayerBuilder {
    let file = packages.join(path);
    let content = std::fs::read(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
    layer.file(path, 0o755, content)
}

/// Adds a shared library of the packages as `/lib/<name>`.
fn shared(layer: LayerBuilder, packages: &Path, name: &str) -> LayerBuilder {
    shared_as(layer, packages, name, &format!("lib/{name}"))
}

fn shared_as(layer: LayerBuilder, packages: &Path, name: &str, path: &str) -> LayerBuilder {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let places = ["lib", "usr/lib"].map(|dir| packages.join(dir).join(&triplet).join(name));
    let file = places.iter().find(|p| p.exists());
    let file = file.unwrap_or_else(|| panic!("no package has the library {name}"));
    layer.file(path, 0o755, std::fs::read(file).expect("read a library"))
}
