//! The real crictl, built from the pinned module.

use crate::{Output, Watch, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// crictl pointed at one socket; configurations are handed over as files in `dir`.
#[derive(Debug, Clone)]
pub struct Crictl {
    program: PathBuf,
    socket: PathBuf,
    dir: PathBuf,
}

impl Crictl {
    /// crictl for the daemon that listens on `socket`: `$GANTRY_CRICTL`, or what `make tools` built.
    pub fn new(socket: &Path, dir: &Path) -> Self {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/bin/crictl");
        let program = std::env::var_os("GANTRY_CRICTL").map_or(built, PathBuf::from);
        assert!(program.is_file(), "{} is missing: run make tools", program.display());
        Self { program, socket: socket.to_owned(), dir: dir.to_owned() }
    }

    /// Runs crictl with `args`.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        run(&mut self.command(args))
    }

    /// crictl with `args`, to be run otherwise.
    pub fn command(&self, args: &[&str]) -> Command {
        let socket = format!("unix://{}", self.socket.display());
        let mut command = Command::new(&self.program);
        command.args(["--config", "/dev/null", "--timeout", "60s"]);
        command.args(["--runtime-endpoint", &socket, "--image-endpoint", &socket]);
        command.args(args);
        command
    }

    /// Runs crictl with `args`, which succeeds; what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.run(args).ok()
    }

    /// Runs crictl with `args` and parses what it printed as JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("crictl {args:?} printed no JSON: {e}\n{text}"))
    }

    /// `crictl runp`: the id of the sandbox, made by `handler` (empty: the default one).
    #[track_caller]
    pub fn runp(&self, handler: &str, pod: &Value) -> String {
        self.run_runp(handler, pod).ok()
    }

    /// As [`Crictl::runp`], with the outcome.
    #[track_caller]
    pub fn run_runp(&self, handler: &str, pod: &Value) -> Output {
        let file = self.file(pod);
        self.run(&["runp", "--runtime", handler, path(&file)])
    }

    /// `crictl create`: the id of the container.
    #[track_caller]
    pub fn create(&self, pod_id: &str, container: &Value, pod: &Value) -> String {
        self.run_create(pod_id, container, pod).ok()
    }

    /// As [`Crictl::create`], with the outcome.
    #[track_caller]
    pub fn run_create(&self, pod_id: &str, container: &Value, pod: &Value) -> Output {
        let (container, pod) = (self.file(container), self.file(pod));
        self.run(&["create", pod_id, path(&container), path(&pod)])
    }

    /// Creates and starts a container; its id.
    #[track_caller]
    pub fn start(&self, pod_id: &str, container: &Value, pod: &Value) -> String {
        let id = self.create(pod_id, container, pod);
        self.ok(&["start", &id]);
        id
    }

    /// `crictl exec --sync` of a shell script; what it printed.
    #[track_caller]
    pub fn sh(&self, container: &str, script: &str) -> String {
        self.ok(&["exec", "--sync", container, "sh", "-c", script])
    }

    /// The `status` of `crictl inspect`.
    #[track_caller]
    pub fn status(&self, container: &str) -> Value {
        self.json(&["inspect", container])["status"].clone()
    }

    /// Waits until the container has ended; its `status`.
    #[track_caller]
    pub fn wait_exited(&self, container: &str) -> Value {
        let bundle = self.json(&["inspect", container])["info"]["bundle"].clone();
        let bundle = bundle.as_str().unwrap_or_else(|| panic!("no bundle in the info of {container}"));
        let watch = Watch::new(&[Path::new(bundle)]);
        watch.until("the container has ended", || {
            let status = self.status(container);
            (status["state"] == "CONTAINER_EXITED").then_some(status)
        })
    }

    /// Removes every sandbox, running or not.
    #[track_caller]
    pub fn remove_all(&self) {
        let list = self.json(&["pods", "-o", "json"]);
        let ids: Vec<&str> =
            list["items"].as_array().into_iter().flatten().filter_map(|p| p["id"].as_str()).collect();
        if !ids.is_empty() {
            self.ok(&[&["rmp", "--force"], ids.as_slice()].concat());
        }
    }

    fn file(&self, value: &Value) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().prefix("crictl-").suffix(".json").tempfile_in(&self.dir);
        let file = file.expect("make a file for crictl");
        std::fs::write(file.path(), value.to_string()).expect("write a file for crictl");
        file
    }
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("the path of a temporary file is UTF-8")
}

/// `over` laid over `below`: objects key by key, everything else replaced.
#[must_use]
pub fn merge(below: Value, over: Value) -> Value {
    match (below, over) {
        (Value::Object(mut below), Value::Object(over)) => {
            for (key, value) in over {
                let old = below.remove(&key).unwrap_or(Value::Null);
                below.insert(key, merge(old, value));
            }
            Value::Object(below)
        }
        (_, over) => over,
    }
}
