//! The image of the tests: Debian's static busybox, its applets, and a few users.

use gantry_testkit::image::{Image, ImageBuilder};
use gantry_testkit::layer::{Compression, LayerBuilder};
use serde_json::json;
use std::process::Command;

/// Name of the test image, as if it came from a registry that nobody can reach here.
pub const BUSYBOX: &str = "registry.example.com/library/busybox:1";

/// Two gzip layers: busybox with a hard link for each applet, and accounts with a page to serve.
pub fn busybox() -> Image {
    let program = std::fs::read("/bin/busybox").expect("read /bin/busybox: install busybox-static");
    let list = crate::run(Command::new("/bin/busybox").arg("--list")).ok();
    let mut programs = LayerBuilder::new().dir("bin/", 0o755).file("bin/busybox", 0o755, program);
    for applet in list.lines().filter(|a| *a != "busybox") {
        programs = programs.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    let mut accounts = LayerBuilder::new();
    for (dir, mode) in [("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700), ("var/", 0o755), ("www/", 0o755)]
    {
        accounts = accounts.dir(dir, mode);
    }
    let accounts = accounts
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/tmp:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        .file("www/index.html", 0o644, "a page from a pod\n");
    ImageBuilder::new()
        .layer(programs.build(Compression::Gzip))
        .layer(accounts.build(Compression::Gzip))
        .config(json!({"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "WorkingDir": "/"}))
        .build()
}
