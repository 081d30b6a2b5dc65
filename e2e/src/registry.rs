//! A real registry on loopback: Debian's docker-registry with a storage of its own.

use crate::process::pidfd;
use crate::watch::wait_readable;
use gantry_testkit::image::{Image, oci_archive};
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A registry that ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
    dir: PathBuf,
}

impl Registry {
    /// Starts a registry that keeps its blobs in `dir`.
    pub fn start(dir: &Path) -> Self {
        Self::serve(dir, dir)
    }

    /// Starts a registry that keeps its blobs in `storage`, where others may have theirs and none deletes;
    /// its configuration and log go to `dir`.
    pub fn serve(storage: &Path, dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("make the registry's directory");
        let config = dir.join("config.yml");
        let storage = storage.join("blobs");
        // The kernel chooses the port; the log tells it.
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        std::fs::write(&config, text).expect("write the registry's configuration");
        let log = dir.join("registry.log");
        let file = File::create(&log).expect("make the registry's log");
        let watch = crate::Watch::new(&[dir]);
        // It ends with the test, also when that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("dup"))
            .stderr(file)
            .spawn()
            .expect("run setpriv: apt install util-linux");
        let pidfd = pidfd(child.id());
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let address = watch.until_or("the registry listens", pidfd.as_ref(), || address(&said()));
        let mut registry = Self { child, address: String::new(), dir: dir.to_owned() };
        registry.address = address.unwrap_or_else(|| panic!("docker-registry ended: {}", said()));
        TcpStream::connect(&registry.address).expect("connect to the registry");
        registry
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pushes an image as `name` (`library/busybox:1`) with skopeo.
    pub fn push(&self, name: &str, image: &Image) {
        let archive = self.dir.join("push.tar");
        std::fs::write(&archive, oci_archive(&[("image", image)])).expect("write an archive");
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        // The image as it is: same manifest, same digest.
        skopeo.arg("--preserve-digests");
        skopeo.arg(format!("oci-archive:{}:image", archive.display()));
        skopeo.arg(format!("docker://{}/{name}", self.address));
        crate::run(&mut skopeo).ok();
        std::fs::remove_file(&archive).expect("remove the archive");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It keeps nothing that matters once its tests are over.
        let _gone = self.child.kill();
        if let Some(fd) = pidfd(self.child.id()) {
            wait_readable(&[&fd], crate::LIMIT);
        }
        let _status = self.child.wait();
    }
}

/// The address after "listening on" in the registry's log.
fn address(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("listening on ")?;
    let (address, _) = rest.split_once('"')?;
    Some(address.to_owned())
}
