//! What the tests of the store share.

#![allow(dead_code, unreachable_pub, reason = "each test program includes it and uses a part")]

use gantry_image_store::{Error, ImageId, ImageStore, ProgressSender, Quarantined, Realm, StoreConfig};
use gantry_testkit::fs::disk_dir;
use gantry_testkit::registry::Registry;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A store in a directory of its own.
pub struct Scene {
    pub store: ImageStore,
    pub dir: TempDir,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut StoreConfig)) -> Self {
        let dir = disk_dir();
        let mut config = config(dir.path());
        change(&mut config);
        let (store, damaged) = ImageStore::open(config).unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        Self { dir, store }
    }

    /// Closes the store and opens it again, as a restart does.
    pub fn reopen(self) -> (Self, Vec<Quarantined>) {
        let Self { dir, store } = self;
        store.settle();
        drop(store);
        let (store, damaged) = ImageStore::open(config(dir.path())).unwrap();
        (Self { dir, store }, damaged)
    }

    pub fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub fn registries_conf(&self, text: &str) {
        std::fs::write(self.dir.path().join("registries.conf"), text).unwrap();
    }

    pub async fn pull(&self, realm: Realm, reference: &str) -> Result<ImageId, Error> {
        self.store.pull(realm, reference, None, ProgressSender::none()).await
    }

    /// How many layers are on disk, apart from the empty one.
    pub fn layers(&self) -> usize {
        std::fs::read_dir(self.images().join("layers")).unwrap().count() - 1
    }

    /// Nothing of unfinished work is left, and nothing is listed.
    pub fn assert_untouched(&self) {
        self.assert_no_garbage();
        for realm in Realm::ALL {
            assert!(self.store.list(realm).is_empty());
        }
        assert_eq!(self.layers(), 0);
        for kind in ["manifests", "configs", "refs/cri", "refs/local"] {
            assert_eq!(names(&self.images().join(kind)), Vec::<String>::new(), "{kind}");
        }
    }

    pub fn assert_no_garbage(&self) {
        self.store.settle();
        assert_eq!(names(&self.images().join("staging")), ["trash"]);
        assert_eq!(names(&self.images().join("staging/trash")), Vec::<String>::new());
    }
}

/// Configuration for tests: own registries.conf, no patience.
pub fn config(root: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(root);
    config.registries_conf = Some(root.join("registries.conf"));
    config.limits.retry_pause = Duration::ZERO;
    config
}

/// `<registry>/<name>`.
pub fn at(registry: &Registry, name: &str) -> String {
    format!("{}/{name}", registry.host())
}

/// File names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The example program that pulls one image into a store, as a process of its own.
pub fn pull_program() -> std::process::Command {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("examples/pull");
    assert!(program.exists(), "{} is missing: cargo build --example pull", program.display());
    std::process::Command::new(program)
}
