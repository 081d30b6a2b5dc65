//! A full disk: nothing new, but everything can be taken away.

use gantry_e2e::{BUSYBOX, Stage};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A small tmpfs that is gone when the test is.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        mount("small", dir, "tmpfs", MountFlags::empty(), c"size=16m,mode=0700").unwrap();
        Self(dir.to_owned())
    }

    /// Writes until nothing more goes in.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Busy only if something was left there, which the comparison of the host tells.
        let _busy = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn creation_fails_clearly_and_removal_works() {
    let stage = Stage::new();
    let disk = SmallDisk::new(&stage.dir().join("small"));
    let daemon = stage.daemon("d").root(&disk.0.join("root")).start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
    let filler = disk.fill();

    let create = crictl.run_create(&pod_id, &stage.container("d", "true", json!({})), &pod).fails();
    assert!(create.contains("ResourceExhausted"), "{create}");
    stage
        .registry()
        .push("library/other:1", &gantry_testkit::image::tiny("file", &"content\n".repeat(1 << 16)));
    let pull = crictl.run(&["pull", "registry.example.com/library/other:1"]).fails();
    assert!(pull.contains("ResourceExhausted"), "{pull}");

    assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING", "what runs, runs on");
    assert_eq!(crictl.sh(&id, "echo here").trim(), "here");
    crictl.ok(&["stop", "--timeout", "0", &id]);
    crictl.ok(&["rm", &id]);
    crictl.ok(&["stopp", &pod_id]);
    crictl.ok(&["rmp", &pod_id]);
    crictl.ok(&["rmi", BUSYBOX]);
    assert_eq!(crictl.json(&["images", "-o", "json"])["images"], json!([]));

    // With space again, everything goes on as before.
    std::fs::remove_file(filler).unwrap();
    crictl.ok(&["pull", BUSYBOX]);
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exit 5", json!({})), &pod);
    assert_eq!(crictl.wait_exited(&id)["exitCode"], json!(5));
    crictl.remove_all();
    daemon.end();
    drop(disk);
    stage.end();
}
