//! CNI with Debian's plugins. Each test has a network namespace of its own as its host: the plugins' bridge
//! and their iptables chains stay in it.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, Stage, Watch, free_port, wait_file};
use gantry_testkit::cni::{Behaviour, FakeCni};
use gantry_testkit::net::in_private_network;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian has its plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A stage with directories for CNI and one fake plugin, which passes on what the others made.
struct Node {
    stage: Stage,
    fake: FakeCni,
}

impl Node {
    fn new() -> Self {
        assert!(Path::new(PLUGINS).join("bridge").exists(), "apt install containernetworking-plugins");
        let stage = Stage::new();
        let fake = FakeCni::install(&stage.dir().join("fake"), &["tail"]);
        pass_on(&fake);
        Self { stage, fake }
    }

    fn conf_dir(&self) -> PathBuf {
        self.stage.dir().join("etc/cni/net.d")
    }

    fn results(&self) -> PathBuf {
        self.stage.dir().join("d/root/cni/results")
    }

    fn pins(&self) -> PathBuf {
        self.stage.dir().join("netns")
    }

    fn leases(&self) -> PathBuf {
        self.stage.dir().join("leases")
    }

    /// Writes the configuration: a bridge, host ports, and the fake plugin after them.
    fn configure(&self) {
        self.configure_with(true);
    }

    fn configure_with(&self, masquerade: bool) {
        let ipam = json!({"type": "host-local", "dataDir": self.leases(),
            "ranges": [[{"subnet": "10.199.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
        let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni-test0", "isGateway": true, "ipMasq": masquerade, "hairpinMode": true,
             "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            {"type": "tail"}]});
        std::fs::create_dir_all(self.conf_dir()).unwrap();
        let temporary = self.stage.dir().join("new.conflist");
        std::fs::write(&temporary, conf.to_string()).unwrap();
        std::fs::rename(temporary, self.conf_dir().join("10-pods.conflist")).unwrap();
    }

    fn start(&self, more: &[&str]) -> Daemon {
        self.start_with(&[Path::new(PLUGINS), &self.fake.bin()], more)
    }

    fn start_with(&self, bins: &[&Path], more: &[&str]) -> Daemon {
        let conf = self.conf_dir();
        let mut args = vec!["--cni-conf-dir", text(&conf)];
        args.extend(bins.iter().flat_map(|bin| ["--cni-bin-dir", text(bin)]));
        let pins = self.pins();
        self.stage.daemon("d").args(&args).args(&["--netns-dir", text(&pins)]).args(more).start()
    }

    /// What the plugins keep for pods: links, rules, addresses, and Gantry's own notes.
    fn kept(&self) -> Vec<String> {
        let links = output("ip", &["-o", "link"]);
        let mut kept: Vec<String> =
            links.lines().filter(|l| l.contains("veth")).map(|l| format!("link {l}")).collect();
        let rules = output("iptables-save", &["-t", "nat"]);
        let of_pods = |l: &&str| l.contains("CNI-DN-") || l.contains("-j CNI-") && !l.contains("HOSTPORT");
        kept.extend(rules.lines().filter(of_pods).map(|l| format!("rule {l}")));
        for (dir, mark) in [(self.leases().join("pods"), "10."), (self.results(), "")] {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            kept.extend(names.filter(|n| n.starts_with(mark)).map(|n| format!("file {n}")));
        }
        let pins = std::fs::read_dir(self.pins()).into_iter().flatten().flatten();
        kept.extend(pins.map(|e| format!("pin {}", e.path().display())));
        kept
    }

    /// Ends the stage. The chains that portmap and the bridge's masquerading share between pods are the
    /// plugins' own, which they never remove: they are taken away here, in the test's own namespace.
    fn end(self) {
        let own = rustix::fs::stat("/proc/thread-self/ns/net").unwrap().st_ino;
        let host = rustix::fs::stat("/proc/self/ns/net").unwrap().st_ino;
        assert_ne!(own, host);
        output("nft", &["flush", "ruleset"]);
        self.stage.end();
    }

    /// Waits until every DEL is paid.
    fn wait_paid(&self) {
        let watch = Watch::new(&[&self.results()]);
        watch.until("DEL is paid", || {
            std::fs::read_dir(self.results()).is_ok_and(|d| d.count() == 0).then_some(())
        });
    }
}

/// What comes after plugins gives back what they made.
fn pass_on(fake: &FakeCni) {
    let script = "printf '%s' \"$stdin\" | jq -c .prevResult";
    fake.behave("tail", "ADD", Some(Behaviour::Shell(script.into())));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn output(program: &str, args: &[&str]) -> String {
    gantry_e2e::run(Command::new(program).args(args)).ok()
}

fn network_ready(crictl: &Crictl) -> (bool, String) {
    let condition = crictl.json(&["info"])["status"]["conditions"][1].clone();
    assert_eq!(condition["type"], "NetworkReady");
    let message = condition["message"].as_str().unwrap_or_default().to_owned();
    (condition["status"] == json!(true), message)
}

fn ip(crictl: &Crictl, pod_id: &str) -> String {
    crictl.json(&["inspectp", pod_id])["status"]["network"]["ip"].as_str().unwrap().to_owned()
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn pods_live_on_a_network_of_plugins() {
    in_private_network(|| {
        let node = Node::new();
        let (stage, daemon) = (&node.stage, node.start(&[]));
        let crictl = daemon.crictl();
        let (ready, why) = network_ready(&crictl);
        assert!(!ready && why.contains("net.d does not exist"), "{why}");
        let refused = crictl.run_runp("", &stage.network_pod("early", json!({}))).fails();
        assert!(refused.contains("the pod network is not ready"), "{refused}");
        node.configure();
        wait_file(&daemon.dir().join("log"), "the configuration is read", |t| t.contains("network=\"pods\""));
        assert_eq!(network_ready(&crictl), (true, String::new()));

        crictl.ok(&["pull", BUSYBOX]);
        let port = free_port();
        let ports = json!({"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": port}]});
        let (web, visitor) = (stage.network_pod("web", ports), stage.network_pod("visitor", json!({})));
        let (web_id, visitor_id) = (crictl.runp("", &web), crictl.runp("", &visitor));
        assert!(
            ip(&crictl, &web_id).starts_with("10.199.0.") && ip(&crictl, &web_id) != ip(&crictl, &visitor_id)
        );
        let server = "echo welcome > /www/index.html; httpd -h /www -p 80; echo listening; exec sleep 100000";
        crictl.start(&web_id, &stage.container("httpd", server, json!({})), &web);
        wait_file(&stage.log_dir("web").join("httpd.log"), "the server listens", |t| t.contains("listening"));
        let id = crictl.start(&visitor_id, &stage.container("sh", "exec sleep 1000", json!({})), &visitor);
        let page = crictl.sh(&id, &format!("wget -q -O - http://{}/", ip(&crictl, &web_id)));
        assert_eq!(page.trim(), "welcome", "pod to pod");
        assert!(crictl.sh(&id, "ip addr show lo").contains("127.0.0.1"), "loopback is up");
        let page = fetch(port).unwrap();
        assert!(page.ends_with("welcome\n"), "by the host's port: {page}");
        // Where agents look for it.
        let pin = node.pins().join(format!("gantry-{web_id}"));
        let inside =
            output("nsenter", &[&format!("--net={}", pin.display()), "ip", "-4", "addr", "show", "eth0"]);
        assert!(inside.contains(&ip(&crictl, &web_id)), "{inside}");
        let shown = crictl.json(&["inspectp", &web_id])["info"]["network"].clone();
        assert_eq!(shown["backend"], json!({"kind": "cni", "network": "pods"}), "{shown}");
        let doctor = daemon.gantry(&["doctor", "-o", "json"]).stdout;
        let doctor: Value = serde_json::from_str(&doctor).unwrap();
        let checks = doctor["checks"].as_array().unwrap();
        let plugins = checks.iter().find(|c| c["name"] == "network cni plugins").unwrap();
        assert_eq!(plugins["message"], "bridge, portmap, tail speak 1.0.0");

        // Without its configuration a running pod goes on, and goes.
        std::fs::remove_dir_all(stage.dir().join("etc")).unwrap();
        wait_file(&daemon.dir().join("log"), "the configuration is gone", |t| {
            t.rfind("does not exist").is_some_and(|at| t.rfind("network=\"pods\"").is_some_and(|b| b < at))
        });
        assert!(!network_ready(&crictl).0);
        assert!(fetch(port).is_ok());
        crictl.ok(&["stopp", &web_id]);
        assert!(fetch(port).is_err(), "the port is given back with the pod");
        crictl.remove_all();
        assert_eq!(node.kept(), [""; 0]);
        daemon.end();
        node.end();
    });
}

#[test]
fn a_pod_has_addresses_of_both_families_and_its_bandwidth() {
    in_private_network(|| {
        let node = Node::new();
        let ipam = json!({"type": "host-local", "dataDir": node.leases(),
            "ranges": [[{"subnet": "10.199.1.0/24"}], [{"subnet": "fd00:199::/64"}]]});
        let conf = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni-test0", "isGateway": true, "ipam": ipam},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}}]});
        std::fs::create_dir_all(node.conf_dir()).unwrap();
        std::fs::write(node.conf_dir().join("a.conflist"), conf.to_string()).unwrap();
        let daemon = node.start(&[]);
        let crictl = daemon.crictl();
        let annotations = json!({"annotations": {"kubernetes.io/ingress-bandwidth": "10M"}});
        let pod_id = crictl.runp("", &node.stage.network_pod("p", annotations));
        let network = crictl.json(&["inspectp", &pod_id])["status"]["network"].clone();
        assert!(network["ip"].as_str().unwrap().starts_with("10.199.1."), "{network}");
        assert!(network["additionalIps"][0]["ip"].as_str().unwrap().starts_with("fd00:199::"), "{network}");
        let queues = output("tc", &["qdisc", "show"]);
        assert!(queues.contains("tbf") && queues.contains("rate 10Mbit"), "{queues}");
        let fast = json!({"annotations": {"kubernetes.io/ingress-bandwidth": "fast"}});
        let refused = crictl.run_runp("", &node.stage.network_pod("fast", fast)).fails();
        assert!(refused.contains("InvalidArgument") && refused.contains("ingress-bandwidth"), "{refused}");
        crictl.remove_all();
        assert_eq!(node.kept(), [""; 0]);
        daemon.end();
        node.end();
    });
}

#[test]
fn a_hanging_plugin_costs_its_time_only() {
    in_private_network(|| {
        let node = Node::new();
        node.configure();
        let daemon = node.start(&["--cni-timeout", "2"]);
        let crictl = daemon.crictl();
        node.fake.behave("tail", "ADD", Some(Behaviour::Hang));
        let fake = node.fake.clone();
        let hung = std::thread::spawn(move || fake.hung());
        let refused = crictl.run_runp("", &node.stage.network_pod("p", json!({}))).fails();
        let words = "network pods: ADD of plugin tail: did not end within 2 s and was killed";
        assert!(refused.contains(words) && refused.contains("code = DeadlineExceeded"), "{refused}");
        assert!(!Path::new("/proc").join(hung.join().unwrap().to_string()).exists());
        assert_eq!(node.kept(), [""; 0]);
        node.fake.behave("tail", "ADD", Some(Behaviour::Fail(7, "bad range".into())));
        let refused = crictl.run_runp("", &node.stage.network_pod("p", json!({}))).fails();
        let words = "ADD of plugin tail: bad range (code 7";
        assert!(refused.contains(words) && refused.contains("code = Internal"), "{refused}");
        assert_eq!(node.kept(), [""; 0]);
        pass_on(&node.fake);
        let id = crictl.runp("", &node.stage.network_pod("p", json!({})));
        crictl.ok(&["rmp", "--force", &id]);
        daemon.end();
        node.end();
    });
}

#[test]
fn an_owed_del_outlives_the_daemon() {
    in_private_network(|| {
        let node = Node::new();
        node.configure();
        let mut daemon = node.start(&[]);
        let crictl = daemon.crictl();
        let port = free_port();
        let ports = json!({"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": port}]});
        let pod_id = crictl.runp("", &node.stage.network_pod("p", ports));
        node.fake.behave("tail", "DEL", Some(Behaviour::Fail(5, "no server".into())));
        let refused = crictl.run(&["stopp", &pod_id]).fails();
        assert!(refused.contains("DEL of plugin tail: no server (code 5"), "{refused}");
        // Nothing of it runs any more, and what plugins made is there until they undo it.
        assert_eq!(crictl.json(&["inspectp", &pod_id])["status"]["state"], "SANDBOX_NOTREADY");
        assert_eq!(node.kept().iter().filter(|k| k.starts_with("pin") || k.starts_with("link")).count(), 2);
        let doctor = daemon.gantry(&["doctor"]).stdout;
        assert!(doctor.contains("no server"), "{doctor}");
        daemon.kill();
        node.fake.behave("tail", "DEL", None);
        daemon.restart();
        node.wait_paid();
        crictl.ok(&["stopp", &pod_id]);
        crictl.ok(&["rmp", &pod_id]);
        assert_eq!(node.kept(), [""; 0]);
        daemon.end();
        node.end();
    });
}

#[test]
fn a_plugin_that_outlives_the_daemon_is_waited_for() {
    in_private_network(|| {
        let node = Node::new();
        node.configure();
        let mut daemon = node.start(&[]);
        let crictl = daemon.crictl();
        // Hangs until it is let go, then goes on with what it does.
        let script = "echo $$ > \"$here/hung\"; cat \"$here/gate\"; echo ended >> \"$here/ended\"; \
                      printf '%s' \"$stdin\" | jq -c .prevResult";
        node.fake.behave("tail", "ADD", Some(Behaviour::Shell(script.into())));
        let undo = "echo undone >> \"$here/ended\"";
        node.fake.behave("tail", "DEL", Some(Behaviour::Shell(undo.into())));
        let (pod, crictl2) = (node.stage.network_pod("p", json!({})), crictl.clone());
        let running = std::thread::spawn(move || crictl2.run_runp("", &pod));
        node.fake.hung();
        daemon.kill();
        running.join().unwrap().fails();
        assert!(!node.kept().is_empty());
        daemon.restart();
        node.fake.release();
        node.wait_paid();
        let order = std::fs::read_to_string(node.stage.dir().join("fake/ended")).unwrap();
        assert_eq!(order, "ended\nundone\n", "DEL after the end of ADD, whoever had called it");
        pass_on(&node.fake);
        let id = crictl.runp("", &node.stage.network_pod("p", json!({})));
        crictl.ok(&["rmp", "--force", &id]);
        assert_eq!(node.kept(), [""; 0]);
        daemon.end();
        node.end();
    });
}

/// Programs in front of the real plugins: each notes that it was called, and dies before or after its work,
/// once, when the file `kill` says so.
fn mortal_plugins(dir: &Path, real: &[PathBuf]) {
    std::fs::create_dir_all(dir).unwrap();
    for program in real {
        let name = program.file_name().unwrap().to_str().unwrap();
        let text = format!(
            "#!/bin/bash\nhere={dir}\ncall=\"{name} $CNI_COMMAND\"\nstdin=$(cat)\n\
             kill=$(cat $here/kill 2>/dev/null)\n[[ $CNI_COMMAND == VERSION ]] || echo \"$call\" >> $here/calls\n\
             if [[ $kill == \"$call before\" ]]; then rm $here/kill; kill -9 $$; fi\n\
             {program} <<< \"$stdin\"; code=$?\n\
             if [[ $kill == \"$call after\" ]]; then rm $here/kill; kill -9 $$; fi\nexit $code\n",
            dir = dir.display(),
            program = program.display()
        );
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn plugins_are_killed_at_every_step() {
    in_private_network(|| {
        let node = Node::new();
        // Debian's bridge forgets its masquerading rule when host-local fails within a DEL: it knows the
        // address only while the link is there.
        node.configure_with(false);
        let dir = node.stage.dir().join("mortal");
        let mut real: Vec<PathBuf> =
            ["bridge", "host-local", "portmap"].iter().map(|name| Path::new(PLUGINS).join(name)).collect();
        real.push(node.fake.bin().join("tail"));
        mortal_plugins(&dir, &real);
        let daemon = node.start_with(&[&dir], &[]);
        let crictl = daemon.crictl();
        let port = free_port();
        let ports = json!({"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": port}]});
        let pod = node.stage.network_pod("p", ports);
        let (calls, kill) = (dir.join("calls"), dir.join("kill"));
        // Undisturbed: which plugins are called, for what.
        let pod_id = crictl.runp("", &pod);
        crictl.ok(&["rmp", "--force", &pod_id]);
        let text = std::fs::read_to_string(&calls).unwrap();
        let found: BTreeSet<&str> = text.lines().collect();
        assert_eq!(found.len(), 8, "four programs, ADD and DEL: {found:?}");

        let mut covered = 0;
        for call in &found {
            for when in ["before", "after"] {
                let at = format!("{call}, killed {when}");
                let adding = call.ends_with("ADD");
                let arm = || std::fs::write(&kill, format!("{call} {when}")).unwrap();
                if adding {
                    arm();
                    let refused = crictl.run_runp("", &pod).fails();
                    assert!(refused.contains("ADD of plugin"), "{at}: {refused}");
                    assert_eq!(node.kept(), [""; 0], "{at}");
                }
                let pod_id = crictl.runp("", &pod);
                if !adding {
                    arm();
                    let refused = crictl.run(&["stopp", &pod_id]).fails();
                    assert!(refused.contains("DEL of plugin"), "{at}: {refused}");
                }
                assert!(!kill.exists(), "{at}: nobody was killed");
                crictl.ok(&["stopp", &pod_id]);
                crictl.ok(&["rmp", &pod_id]);
                assert_eq!(node.kept(), [""; 0], "{at}");
                covered += 1;
            }
        }
        println!("kill at every step: {} calls of plugins found, {covered} kills of plugins", found.len());
        assert_eq!(covered, found.len() * 2);
        daemon.end();
        node.end();
    });
}
