//! CNI against fake plugins that fail, hang and lie, as root: namespaces are pinned in mounts that nobody
//! else sees.

use gantry_netns::{
    AttachRequest, Attachment, Backend, BuiltinConfig, CniConfig, ErrorKind, NetworkKind, Networks,
    NetworksConfig, PodDetails, PortMapping, Protocol,
};
use gantry_testkit::cni::{Behaviour, FakeCni};
use gantry_testkit::fs::{in_private_mounts, small_disk};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Directories of one test, two fake plugins, and a configuration that chains them.
struct Node {
    dir: tempfile::TempDir,
    fake: FakeCni,
}

impl Node {
    fn new(version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeCni::install(&dir.path().join("fake"), &["one", "two"]);
        let node = Self { dir, fake };
        std::fs::create_dir(node.path("net.d")).unwrap();
        node.configure("net", version);
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, name: &str, version: &str) {
        let capabilities = json!({"portMappings": true, "bandwidth": true});
        let conf = json!({"cniVersion": version, "name": name, "plugins":
            [{"type": "one", "flag": "x"}, {"type": "two", "capabilities": capabilities}]});
        std::fs::write(self.path("net.d/10-net.conflist"), conf.to_string()).unwrap();
    }

    fn config(&self) -> CniConfig {
        CniConfig {
            conf_dir: self.path("net.d"),
            bin_dirs: vec![self.fake.bin()],
            cache_dir: self.path("root/cni"),
            limit: LIMIT,
            gc: false,
        }
    }

    fn open(&self) -> Networks {
        self.open_with(self.config())
    }

    fn open_with(&self, cni: CniConfig) -> Networks {
        let builtin = BuiltinConfig::new(self.path("run"));
        let config = NetworksConfig { builtin, cni, netns_dir: self.path("run/netns") };
        let (networks, damaged) = Networks::open(config).unwrap();
        assert_eq!(damaged, []);
        networks
    }

    /// Names of the cache's files.
    fn cached(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("root/cni/results")).into_iter().flatten();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Waits until the cache is empty: every DEL is paid.
    async fn paid(&self) {
        until(self.path("root/cni/results"), |dir| std::fs::read_dir(dir).unwrap().count() == 0).await;
    }
}

/// Looks at a directory, then again after each change, until it is as wanted.
async fn until(dir: PathBuf, wanted: impl Fn(&Path) -> bool + Send + 'static) {
    let wait = move || {
        let fd = inotify::init(CreateFlags::CLOEXEC).unwrap();
        let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&fd, &dir, changes).unwrap();
        while !wanted(&dir) {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            inotify::Reader::new(&fd, &mut buffer).next().unwrap();
        }
    };
    tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(wait)).await.expect("it comes in time").unwrap();
}

fn test<F: Future<Output = ()>>(version: &'static str, test: impl FnOnce(Node) -> F + Send) {
    in_private_mounts(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(Node::new(version)));
    });
}

/// A pod's namespace, which lives as long as the descriptor.
fn namespace() -> OwnedFd {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        gantry_sys::netns::current().unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

async fn try_attach(networks: &Networks, pod: &str) -> Result<Attachment, gantry_netns::Error> {
    let netns = namespace();
    let netns_path = networks.pin(pod, &netns).unwrap();
    let annotations = [("kubernetes.io/egress-bandwidth".to_owned(), "1M".to_owned())].into();
    let details = PodDetails {
        namespace: "default".into(),
        name: format!("name-of-{pod}"),
        uid: "u".into(),
        annotations,
        ..PodDetails::default()
    };
    let port = PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
    let request = AttachRequest {
        pod_id: pod.into(),
        netns,
        netns_path,
        interface: "eth0".into(),
        ports: vec![port],
        pod: details,
    };
    networks.attach(NetworkKind::Cni, request).await
}

async fn refused(networks: &Networks, pod: &str) -> (ErrorKind, String) {
    let error = try_attach(networks, pod).await.unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn a_chain_is_called_in_order_and_back() {
    test("1.0.0", |node| async move {
        let networks = node.open();
        // The attachment is on disk before the first plugin runs.
        let results = node.path("root/cni/results");
        let look = format!(
            "ls '{}' > \"$here/seen\"; echo '{{\"ips\": [{{\"address\": \"10.1.1.1/24\"}}]}}'",
            results.display()
        );
        node.fake.behave("one", "ADD", Some(Behaviour::Shell(look)));
        let attachment = try_attach(&networks, "a").await.unwrap();
        let seen = std::fs::read_to_string(node.path("fake/seen")).unwrap();
        assert_eq!(seen, "net-a-eth0\n");
        assert_eq!(attachment.backend, Backend::Cni { network: "net".into() });
        assert_eq!(
            (attachment.ips[0].to_string().as_str(), attachment.ports[0].host_port),
            ("10.99.0.2", 8080)
        );
        assert_eq!(attachment.mac.as_deref(), Some("0a:58:0a:63:00:02"));
        assert!(attachment.complete && networks.get("a").as_ref() == Some(&attachment));

        let calls = node.fake.calls();
        let netns = node.path("run/netns/gantry-a");
        let first = &calls[0];
        assert_eq!((first.netns.as_str(), first.interface.as_str()), (netns.to_str().unwrap(), "eth0"));
        assert_eq!(first.path, node.fake.bin().to_str().unwrap());
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=name-of-a;\
                    K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=u";
        assert_eq!(first.args, args);
        assert_eq!(first.stdin, json!({"type": "one", "flag": "x", "name": "net", "cniVersion": "1.0.0"}));
        let second = &calls[1].stdin;
        assert_eq!(second["prevResult"], json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.1.1/24"}]}));
        assert_eq!(second["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert_eq!(second["runtimeConfig"]["bandwidth"]["egressRate"], 1_000_000);
        assert_eq!(node.fake.take(), ["ADD one", "ADD two"]);

        networks.verify("a").await.unwrap();
        assert_eq!(node.fake.calls()[0].stdin["prevResult"]["ips"][0]["address"], "10.99.0.2/24");
        assert_eq!(node.fake.take(), ["CHECK one", "CHECK two"]);
        assert!(networks.unpin("a", &netns).is_err(), "plugins still need it");
        networks.detach("a").await.unwrap();
        networks.detach("a").await.unwrap();
        let calls = node.fake.calls();
        assert_eq!(calls[0].stdin["prevResult"]["ips"][0]["address"], "10.99.0.2/24");
        assert_eq!(calls[0].netns, netns.to_str().unwrap());
        assert_eq!(node.fake.take(), ["DEL two", "DEL one"]);
        assert!(node.cached().is_empty() && networks.list().is_empty());
        networks.unpin("a", &netns).unwrap();
        networks.unpin("a", &netns).unwrap();
        networks.shutdown_if_idle().await.unwrap();
        assert!(!node.path("run/netns").exists(), "the directory goes with the last pin");
    });
}

#[test]
fn a_failure_is_named_and_undone() {
    test("1.0.0", |node| async move {
        let networks = node.open_with(CniConfig { limit: Duration::from_secs(5), ..node.config() });
        for (behaviour, kind, words) in [
            (Behaviour::Fail(7, "no range".into()), ErrorKind::Failed, "ADD of plugin two: no range (code 7"),
            (Behaviour::Fail(11, "busy".into()), ErrorKind::TryAgain, "ADD of plugin two: busy (code 11"),
            (
                Behaviour::Die("panic: nil".into()),
                ErrorKind::Failed,
                "plugin two: ended with exit code 3: panic: nil",
            ),
            (Behaviour::Print("garbage".into()), ErrorKind::Failed, "ADD of plugin two: printed no JSON"),
            (Behaviour::Print("{}".into()), ErrorKind::Failed, "gave the pod no address"),
            (
                Behaviour::Print(r#"{"ips": [{"address": "::x"}]}"#.into()),
                ErrorKind::Failed,
                "result's address",
            ),
            (Behaviour::Flood, ErrorKind::Failed, "ADD of plugin two: printed more than 1 MiB"),
            (Behaviour::Killed, ErrorKind::Failed, "ADD of plugin two: was killed by signal 9"),
        ] {
            node.fake.behave("two", "ADD", Some(behaviour));
            let (got, text) = refused(&networks, "a").await;
            assert!(got == kind && text.starts_with("network net: ") && text.contains(words), "{text}");
            assert_eq!(node.fake.take(), ["ADD one", "ADD two", "DEL two", "DEL one"], "{text}");
            assert!(node.cached().is_empty() && networks.list().is_empty());
        }
        // What could not even be started has made nothing.
        std::fs::write(node.fake.bin().join("one"), "\0not a program").unwrap();
        let (_, text) = refused(&networks, "a").await;
        assert!(text.contains("ADD of plugin one: could not be started"), "{text}");
        assert!(node.fake.take().is_empty() && node.cached().is_empty());
        networks.unpin("a", &networks.pin_path("a")).unwrap();
    });
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    test("1.0.0", |node| async move {
        let networks = node.open_with(CniConfig { limit: Duration::from_secs(1), ..node.config() });
        node.fake.behave("one", "ADD", Some(Behaviour::Hang));
        let fake = node.fake.clone();
        let hung = tokio::task::spawn_blocking(move || fake.hung());
        let (refused, pid) = tokio::join!(refused(&networks, "a"), hung);
        assert_eq!(refused.0, ErrorKind::TimedOut);
        assert!(
            refused.1.contains("ADD of plugin one: did not end within 1 s and was killed"),
            "{}",
            refused.1
        );
        assert!(!Path::new("/proc").join(pid.unwrap().to_string()).exists());
        assert_eq!(node.fake.take(), ["ADD one", "DEL two", "DEL one"]);
        networks.unpin("a", &networks.pin_path("a")).unwrap();
    });
}

#[test]
fn an_owed_del_is_paid_by_what_made_the_attachment() {
    test("1.0.0", |node| async move {
        let networks = node.open();
        try_attach(&networks, "a").await.unwrap();
        node.fake.take();
        // Another network is configured meanwhile, and the plugin cannot undo.
        node.configure("other", "0.3.1");
        node.fake.behave("two", "DEL", Some(Behaviour::Fail(5, "server gone".into())));
        let error = networks.detach("a").await.unwrap_err().to_string();
        assert!(error.contains("network net: DEL of plugin two: server gone (code 5"), "{error}");
        let check = networks.check(NetworkKind::Cni).await;
        let owed = check.iter().find(|c| c.name == "cni owed DEL").expect("doctor shows it");
        assert!(
            !owed.ok && owed.message.contains("pod a: ") && owed.message.contains("server gone"),
            "{owed:?}"
        );
        assert_eq!(node.cached(), ["net-a-eth0"]);
        node.fake.behave("two", "DEL", None);
        node.paid().await;
        let paid = node.fake.calls().pop().unwrap();
        assert_eq!((paid.command.as_str(), paid.plugin.as_str()), ("DEL", "one"));
        assert_eq!((&paid.stdin["name"], &paid.stdin["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    });
}

#[test]
fn a_restart_pays_for_pods_that_are_gone() {
    test("1.0.0", |node| async move {
        let networks = node.open();
        for pod in ["kept", "gone", "cut"] {
            try_attach(&networks, pod).await.unwrap();
        }
        drop(networks);
        // As if the daemon had died within ADD, and the namespace with a boot.
        let path = node.path("root/cni/results/net-cut-eth0");
        let mut cut: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        cut.as_object_mut().unwrap().remove("result");
        std::fs::write(&path, cut.to_string()).unwrap();
        node.fake.take();
        let networks = node.open();
        networks.unpin("nobody", &networks.pin_path("cut")).unwrap();
        assert!(!networks.get("cut").unwrap().complete);
        let report = networks.recover(&HashSet::from(["kept".to_owned(), "cut".to_owned()])).await;
        assert_eq!((report.owed, report.failures.len()), (vec!["cut".to_owned(), "gone".to_owned()], 0));
        let live = node.path("root/cni/results/net-kept-eth0");
        let kept = std::fs::read(&live).unwrap();
        std::fs::remove_file(&live).unwrap();
        node.paid().await;
        std::fs::write(&live, kept).unwrap();
        let calls = node.fake.calls();
        let of = |pod: &str| calls.iter().filter(|c| c.container_id == pod).collect::<Vec<_>>();
        assert_eq!((of("kept").len(), of("gone").len(), of("cut").len()), (0, 2, 2));
        assert_eq!(of("cut")[0].netns, "", "its namespace is gone");
        assert_eq!(of("cut")[0].stdin.get("prevResult"), None);
        assert!(of("gone")[0].stdin.get("prevResult").is_some());
        assert_eq!(networks.get("kept").unwrap().ips[0].to_string(), "10.99.0.2");
        networks.detach("kept").await.unwrap();
        // Asked for by the pod as well, while it is paid in the background.
        networks.detach("gone").await.unwrap();
        for pod in ["kept", "gone"] {
            networks.unpin(pod, &networks.pin_path(pod)).unwrap();
        }
        assert!(node.cached().is_empty());
    });
}

#[test]
fn a_missing_configuration_or_plugin_is_a_reason() {
    test("1.0.0", |node| async move {
        node.fake.remove("two");
        let networks = node.open();
        let problem = networks.problem(NetworkKind::Cni).unwrap();
        assert!(
            problem.contains("network net") && problem.contains("plugin two is not installed"),
            "{problem}"
        );
        let (kind, text) = refused(&networks, "a").await;
        assert!(kind == ErrorKind::NotReady && text == problem, "{text}");
        assert!(networks.problem(NetworkKind::Builtin).is_none());
        drop(networks);
        node.fake.add("two");
        let networks = node.open();
        assert_eq!(networks.problem(NetworkKind::Cni), None);
        let checks = networks.check(NetworkKind::Cni).await;
        let plugins = checks.iter().find(|c| c.name == "cni plugins").unwrap();
        assert!(plugins.ok && plugins.message == "one, two speak 1.0.0", "{plugins:?}");
        try_attach(&networks, "b").await.unwrap();
        node.fake.remove("two");
        let error = networks.detach("b").await.unwrap_err().to_string();
        assert!(error.contains("plugin two is not installed"), "{error}");
        // Installed again, the directory tells.
        node.fake.add("two");
        node.paid().await;
        for pod in ["a", "b"] {
            // Behind whoever paid.
            networks.detach(pod).await.unwrap();
            networks.unpin(pod, &networks.pin_path(pod)).unwrap();
        }
    });
}

#[test]
fn plugins_tell_whether_they_are_ready_and_forget_what_is_gone() {
    test("1.1.0", |node| async move {
        node.fake.behave("two", "STATUS", Some(Behaviour::Fail(50, "no backend yet".into())));
        let networks = node.open();
        let problem = networks.problem(NetworkKind::Cni).unwrap();
        assert!(problem.contains("have not answered STATUS yet"), "{problem}");
        let (kind, text) = refused(&networks, "a").await;
        assert_eq!(kind, ErrorKind::NotReady);
        assert!(
            text.contains("STATUS of plugin two: no backend yet (code 50, the plugin is not available)"),
            "{text}"
        );
        node.fake.behave("two", "STATUS", None);
        try_attach(&networks, "a").await.unwrap();
        assert_eq!(networks.problem(NetworkKind::Cni), None);
        drop(networks);
        node.fake.take();
        let networks = node.open_with(CniConfig { gc: true, ..node.config() });
        networks.recover(&HashSet::from(["a".to_owned()])).await;
        let called = node.fake.clone();
        until(node.path("fake"), move |_| called.calls().iter().any(|c| c.command == "GC")).await;
        let calls = node.fake.calls();
        let gc = calls.iter().find(|c| c.command == "GC").unwrap();
        assert_eq!(gc.stdin["cni.dev/valid-attachments"], json!([{"containerID": "a", "ifname": "eth0"}]));
        networks.detach("a").await.unwrap();
        networks.unpin("a", &networks.pin_path("a")).unwrap();
    });
}

#[test]
fn a_full_disk_refuses_pods_and_lets_them_go() {
    test("1.0.0", |node| async move {
        let root = node.path("root");
        std::fs::create_dir(&root).unwrap();
        small_disk(&root, 64 << 10);
        let networks = node.open();
        try_attach(&networks, "a").await.unwrap();
        node.fake.take();
        let mut size = 64 << 10;
        while size > 0 {
            if std::fs::write(root.join(format!("fill{size}")), vec![0; size]).is_err() {
                size /= 2;
            }
        }
        let (kind, text) = refused(&networks, "b").await;
        assert!(kind == ErrorKind::Exhausted && text.contains("No space left"), "{text}");
        assert!(node.fake.take().is_empty(), "nothing is called that could not be undone");
        networks.detach("a").await.unwrap();
        assert_eq!(node.fake.take(), ["DEL two", "DEL one"]);
        for pod in ["a", "b"] {
            networks.unpin(pod, &networks.pin_path(pod)).unwrap();
        }
        rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
    });
}

#[test]
fn the_same_pod_twice_at_once_is_attached_once() {
    test("0.4.0", |node| async move {
        let networks = node.open();
        let netns = namespace();
        let netns_path = networks.pin("a", &netns).unwrap();
        let attach = || {
            let (networks, netns) = (networks.clone(), netns.try_clone().unwrap());
            let request = AttachRequest {
                pod_id: "a".into(),
                netns,
                netns_path: netns_path.clone(),
                interface: "eth0".into(),
                ports: vec![],
                pod: PodDetails::default(),
            };
            async move { networks.attach(NetworkKind::Cni, request).await.unwrap() }
        };
        let (first, second) = tokio::join!(attach(), attach());
        assert_eq!(first, second);
        assert_eq!(node.fake.take(), ["ADD one", "ADD two"]);
        let (first, second) = tokio::join!(networks.detach("a"), networks.detach("a"));
        first.and(second).unwrap();
        assert_eq!(node.fake.take(), ["DEL two", "DEL one"]);
        networks.unpin("a", &netns_path).unwrap();
    });
}
