//! Where a test plays: directories of its own, a registry, and the host as it was before.

use crate::{BUSYBOX, DaemonBuilder, LeakSnapshot, Registry, busybox, merge};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// Whether there is a stage. Only one at a time: each compares the host before and after.
static TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

/// The right to be the only stage; unlike the guard of a lock, it may end on another thread.
#[derive(Debug)]
struct Only;

impl Only {
    fn take() -> Self {
        // A test that failed has said so itself.
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = GIVEN_BACK.wait_while(taken, |taken| *taken);
        *free.unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        GIVEN_BACK.notify_one();
    }
}

/// Directories on a real file system, a registry with the test image, the host as it was.
#[derive(Debug)]
pub struct Stage {
    before: LeakSnapshot,
    registry: Registry,
    dir: tempfile::TempDir,
    _only: Only,
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl Stage {
    /// Looks at the host, then sets up the registry.
    pub fn new() -> Self {
        let only = Only::take();
        let before = LeakSnapshot::take();
        let dir = gantry_testkit::fs::disk_dir();
        let registry = Registry::start(&dir.path().join("registry"));
        registry.push("library/busybox:1", &busybox());
        let text = format!(
            "[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"{}\"\ninsecure = true\n",
            registry.address()
        );
        std::fs::write(dir.path().join("registries.conf"), text).expect("write registries.conf");
        Self { before, registry, dir, _only: only }
    }

    /// A daemon called `name` with directories of its own; [`DaemonBuilder::start`] runs it.
    pub fn daemon(&self, name: &str) -> DaemonBuilder {
        DaemonBuilder::new(self.dir.path().join(name), self.dir.path().join("registries.conf"))
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Directory of the test, deleted with the stage.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A sandbox configuration: `over` laid over one of the host's network with a log directory.
    pub fn pod(&self, name: &str, over: Value) -> Value {
        let base = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "attempt": 0},
            "log_directory": self.log_dir(name),
            "linux": {"security_context": {"namespace_options": {"network": 2}}},
        });
        merge(base, over)
    }

    /// As [`Stage::pod`], with a network of its own.
    pub fn network_pod(&self, name: &str, over: Value) -> Value {
        let own = json!({"linux": {"security_context": {"namespace_options": {"network": 0}}}});
        self.pod(name, merge(own, over))
    }

    /// Directory of the logs of the pod called `name`.
    pub fn log_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(name)
    }

    /// A container configuration that runs a shell script and logs to `<name>.log`; `over` laid over it.
    pub fn container(&self, name: &str, script: &str, over: Value) -> Value {
        let base = json!({
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": BUSYBOX},
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        merge(base, over)
    }

    /// Ends the registry, deletes the directories, and compares the host with what it was.
    #[track_caller]
    pub fn end(self) {
        let Self { before, registry, dir, _only } = self;
        drop(registry);
        let path = dir.path().to_owned();
        dir.close().unwrap_or_else(|e| panic!("delete {}: {e}; is something mounted there?", path.display()));
        let difference = before.difference(&LeakSnapshot::take());
        assert!(difference.is_empty(), "left behind (+) or missing (-) on the host:\n{difference}");
    }
}

/// Where the programs under test are: `$GANTRY_DIST`, or what `make build-ci` made.
pub fn dist() -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist-ci");
    let dir = std::env::var_os("GANTRY_DIST").map_or(made, PathBuf::from);
    dir.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; run make build-ci", dir.display()))
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port of loopback");
    listener.local_addr().expect("address of a bound socket").port()
}
