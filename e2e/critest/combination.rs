//! What critest is run against: a network, a handler, and how its specs are run.

use crate::images;
use gantry_e2e::{Daemon, DaemonBuilder, Registry};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What takes longer has hung.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Where Debian has its CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Handler of the runc that `make tools` builds, beside the distribution's.
const CURRENT_RUNC: &str = "current-runc";

/// One way to run the whole suite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Combination {
    /// As in `pending.tsv` and on the command line.
    pub(crate) name: &'static str,
    /// Whether pods are on a network of Debian's CNI plugins; the built-in one otherwise.
    pub(crate) cni: bool,
    /// Runtime handler.
    pub(crate) handler: &'static str,
    /// How many specs run at once.
    pub(crate) parallel: usize,
    /// Streaming over WebSocket; over SPDY otherwise.
    pub(crate) websocket: bool,
    /// Whether `.ci/run` runs it; `make conformance-all` runs all.
    pub(crate) in_ci: bool,
}

/// Every combination.
pub(crate) const COMBINATIONS: [Combination; 7] = {
    let base = Combination {
        name: "builtin-embedded",
        cni: false,
        handler: "embedded",
        parallel: 1,
        websocket: false,
        in_ci: true,
    };
    [
        base,
        Combination { name: "cni-runc", cni: true, handler: "runc", websocket: true, ..base },
        Combination { name: "parallel", handler: "embedded", parallel: 4, ..base },
        Combination { name: "builtin-current-runc", handler: CURRENT_RUNC, ..base },
        Combination { name: "builtin-runc", handler: "runc", in_ci: false, ..base },
        Combination { name: "builtin-crun", handler: "crun", websocket: true, in_ci: false, ..base },
        Combination { name: "cni-embedded", cni: true, websocket: true, in_ci: false, ..base },
    ]
};

/// How a run of critest ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its report in ginkgo's JSON.
    pub(crate) report: PathBuf,
    /// Everything that it printed.
    pub(crate) output: PathBuf,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Combination {
    /// Runs the suite in `dir`, which is this combination's own. `extra` goes to critest, after its other words.
    ///
    /// The daemon, the registry and critest share a new network namespace as their host, so that links,
    /// rules and ports of one combination do not meet those of another, and vanish with it.
    pub(crate) fn run(&self, dir: &Path, registry_dir: &Path, extra: &[String]) -> Ran {
        gantry_testkit::net::in_private_network(|| {
            let registry = Registry::serve(registry_dir, &dir.join("registry"));
            std::fs::write(dir.join("registries.conf"), images::registries_conf(registry.address()))
                .expect("write registries.conf");
            let daemon = self.daemon(dir);
            let ran = self.critest(dir, &daemon, extra);
            std::fs::copy(daemon.dir().join("log"), dir.join("daemon.log")).expect("keep the daemon's log");
            daemon.crictl().remove_all();
            daemon.end();
            ran
        })
    }

    fn daemon(&self, dir: &Path) -> Daemon {
        let builder = DaemonBuilder::new(dir.join("d"), dir.join("registries.conf"));
        let current = format!("{CURRENT_RUNC}={}", text(&tools().join("runc")));
        let builder = builder.args(&["--runtime", &current, "--netns-dir", text(&dir.join("netns"))]);
        if !self.cni {
            return builder.builtin_network().start();
        }
        let conf_dir = dir.join("cni");
        std::fs::create_dir(&conf_dir).expect("make a directory for the CNI configuration");
        let ipam = json!({"type": "host-local", "dataDir": dir.join("leases"),
            "ranges": [[{"subnet": "10.198.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]});
        let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni-critest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]});
        std::fs::write(conf_dir.join("10-pods.conflist"), conf.to_string())
            .expect("write a CNI configuration");
        builder.args(&["--cni-conf-dir", text(&conf_dir), "--cni-bin-dir", PLUGINS]).start()
    }

    fn critest(&self, dir: &Path, daemon: &Daemon, extra: &[String]) -> Ran {
        let (report, output) = (dir.join("report.json"), dir.join("critest.log"));
        // Its containers mount what it makes, also those that are not root's.
        let scratch = dir.join("tmp");
        std::fs::create_dir(&scratch).expect("make critest's directory");
        let bin = tools();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "timeout", "--kill-after=10"]).arg(LIMIT.as_secs().to_string());
        command.arg(bin.join("critest")).args(["-config", "/dev/null"]);
        let endpoint = format!("unix://{}", daemon.socket().display());
        command.args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint]);
        command.args(["-runtime-handler", self.handler, "-ginkgo.no-color"]);
        command.arg(format!("-ginkgo.json-report={}", report.display()));
        if self.parallel > 1 {
            command.arg(format!("-parallel={}", self.parallel));
        }
        if self.websocket {
            command.args(["-websocket-exec", "-websocket-attach", "-websocket-portforward"]);
        }
        command.args(extra).env("PATH", path).env("TMPDIR", &scratch).current_dir(dir);
        let log = File::create(&output).expect("make critest's log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let begin = Instant::now();
        // What it tells by its status is in its report, too.
        let _status = command.status().expect("run setpriv: apt install util-linux");
        Ran { report, output, took: begin.elapsed() }
    }
}

/// Where `make tools` puts critest and ginkgo.
pub(crate) fn tools() -> PathBuf {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/bin");
    for program in ["critest", "ginkgo", "runc"] {
        assert!(bin.join(program).is_file(), "{program} is missing: run make tools");
    }
    bin.canonicalize().expect("the tools are there")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of temporary directories are UTF-8")
}
