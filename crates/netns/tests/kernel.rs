//! The built-in network against the kernel, as root. Each test has a network namespace of its own as its
//! host, so that nothing of the machine is touched.

use gantry_netns::{
    AttachRequest, BuiltinAttachment, BuiltinConfig, BuiltinNetwork, ErrorKind, PortMapping, Protocol, Subnet,
};
use gantry_sys::netns::{current, run_inside};
use nix::sched::{CloneFlags, unshare};
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// Runs a test in a network namespace of its own, on one thread.
fn on_private_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        gantry_sys::fork::loopback_up().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A pod's namespace, which lives as long as the descriptor.
fn pod_namespace() -> OwnedFd {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        current().unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

fn network(dir: &Path) -> BuiltinNetwork {
    BuiltinNetwork::open(BuiltinConfig::new(dir.to_owned())).unwrap().0
}

fn request(pod: &str, netns: &OwnedFd, ports: &[PortMapping]) -> AttachRequest {
    AttachRequest {
        pod_id: pod.into(),
        netns: netns.try_clone().unwrap(),
        netns_path: "/proc/self/ns/net".into(),
        interface: "eth0".into(),
        ports: ports.to_vec(),
        pod: gantry_netns::PodDetails::default(),
    }
}

async fn attach(
    network: &BuiltinNetwork,
    pod: &str,
    netns: &OwnedFd,
    ports: &[PortMapping],
) -> BuiltinAttachment {
    network.attach(request(pod, netns, ports)).await.unwrap()
}

fn tcp(host_port: u16, host_ip: Option<&str>) -> PortMapping {
    let host_ip = host_ip.map(|ip| ip.parse::<IpAddr>().unwrap());
    PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
}

/// A server in a pod that says its pod's name to whoever connects.
fn serve(netns: &OwnedFd, name: &'static str) {
    let listener =
        run_inside(netns.try_clone().unwrap(), || TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A visitor that has left wants no answer.
            let _gone = stream.and_then(|mut s| s.write_all(name.as_bytes()));
        }
    });
}

/// What is said on a connection from this thread's namespace; empty when nobody answers.
fn ask(address: SocketAddr) -> String {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(3)) else {
        return String::new();
    };
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

fn ask_from(netns: &OwnedFd, address: SocketAddr) -> String {
    run_inside(netns.try_clone().unwrap(), move || ask(address)).unwrap()
}

fn address(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

fn output(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn links() -> Vec<String> {
    let text = output("ip", &["-o", "link"]);
    let name = |line: &str| line.split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned();
    text.lines().map(name).filter(|n| n.starts_with("gantry") || n.starts_with("gv")).collect()
}

#[test]
fn pods_reach_each_other_and_leave_nothing() {
    on_private_host(|| async {
        // A new namespace begins with what the machine has; here it is a host that forwards nothing.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path());
        let (a, b) = (pod_namespace(), pod_namespace());
        let first = attach(&network, "a", &a, &[]).await;
        let second = attach(&network, "b", &b, &[]).await;
        assert_ne!(first.ip, second.ip);
        assert_eq!(attach(&network, "a", &a, &[]).await, first, "the same pod gets the same attachment");
        serve(&b, "b");
        assert_eq!(ask_from(&a, address(second.ip, 80)), "b");
        assert_eq!(ask(address(second.ip, 80)), "b", "the host reaches the pod");
        network.shutdown_if_idle().await.unwrap();
        assert_eq!(network.list().len(), 2, "not idle");
        for pod in ["a", "b", "b"] {
            network.detach(pod).await.unwrap();
        }
        assert_eq!(ask_from(&a, address(second.ip, 80)), "", "off the bridge");
        let third = attach(&network, "c", &pod_namespace(), &[]).await;
        assert!(third.ip != first.ip && third.ip != second.ip, "addresses are not used again at once");
        network.detach("c").await.unwrap();
        network.shutdown_if_idle().await.unwrap();
        assert_eq!(links(), [""; 0]);
        assert_eq!(output("nft", &["list", "tables"]), "");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path());
        let (a, b, outside) = (pod_namespace(), pod_namespace(), pod_namespace());
        let ports = [tcp(8080, None), tcp(8081, Some("127.0.0.1"))];
        attach(&network, "a", &a, &ports).await;
        let gateway = attach(&network, "b", &b, &[]).await.gateway;
        serve(&a, "a");
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap()), "a", "from the host, by loopback");
        assert_eq!(ask(address(gateway, 8080)), "a", "from the host, by its address");
        assert_eq!(ask("127.0.0.1:8081".parse().unwrap()), "a");
        assert_eq!(ask(address(gateway, 8081)), "", "mapped for one address only");
        assert_eq!(ask_from(&b, address(gateway, 8080)), "a", "from another pod");
        assert_eq!(ask_from(&a, address(gateway, 8080)), "a", "from the pod itself");
        // Another machine, on a link of its own to this host.
        output("ip", &["link", "add", "lan", "type", "veth", "peer", "name", "lan0"]);
        output("ip", &["addr", "add", "192.0.2.1/24", "dev", "lan"]);
        output("ip", &["link", "set", "lan", "up"]);
        move_link(&outside, "lan0");
        let dial = || ask("192.0.2.1:8080".parse().unwrap());
        assert_eq!(run_inside(outside.try_clone().unwrap(), dial).unwrap(), "a", "from outside");
        let error = network.attach(request("c", &pod_namespace(), &[tcp(8080, None)])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PortInUse);
        assert!(error.to_string().contains("pod a"), "{error}");
        network.detach("a").await.unwrap();
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap()), "", "gone with the pod");
    });
}

/// Moves a link of this thread's namespace into another and gives it an address there.
fn move_link(netns: &OwnedFd, name: &'static str) {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    output("ip", &["link", "set", name, "netns", &path]);
    let configure = move || {
        output("ip", &["addr", "add", "192.0.2.2/24", "dev", name]);
        output("ip", &["link", "set", name, "up"]);
    };
    run_inside(netns.try_clone().unwrap(), configure).unwrap();
}

#[test]
fn udp_ports_are_mapped() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path());
        let pod = pod_namespace();
        let port =
            PortMapping { protocol: Protocol::Udp, container_port: 53, host_port: 5353, host_ip: None };
        attach(&network, "a", &pod, &[port]).await;
        let server = run_inside(pod.try_clone().unwrap(), || UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"?", "127.0.0.1:5353").unwrap();
        let mut buffer = [0; 8];
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], from).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 1);
    });
}

#[test]
fn a_new_daemon_takes_over_what_a_killed_one_left() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (pod_namespace(), pod_namespace());
        let old = network(dir.path());
        let kept = attach(&old, "a", &a, &[tcp(8080, None)]).await;
        let lost = attach(&old, "b", &b, &[tcp(9090, None)]).await;
        drop(old);
        // A third was cut off before anything but its record was made; a fourth's record is damaged.
        let record = dir.path().join("attachments/b.json");
        let half = std::fs::read_to_string(&record).unwrap();
        let half = half
            .replace("\"pod_id\":\"b\"", "\"pod_id\":\"c\"")
            .replace("\"complete\":true", "\"complete\":false");
        std::fs::write(dir.path().join("attachments/c.json"), half.replace(&lost.host_interface, "gvcutoff"))
            .unwrap();
        std::fs::write(dir.path().join("attachments/d.json"), "{").unwrap();

        let (new, damaged) = BuiltinNetwork::open(BuiltinConfig::new(dir.path().to_owned())).unwrap();
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].moved_to.ends_with("d.damaged"));
        output("nft", &["flush", "ruleset"]);
        let report = new.recover(&HashSet::from(["a".to_owned()])).await;
        assert_eq!(report.detached, ["b", "c"]);
        assert_eq!(report.failures, [""; 0]);
        serve(&a, "a");
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap()), "a", "rules are made again");
        assert_eq!(attach(&new, "a", &a, &[tcp(8080, None)]).await, kept);
        let bridges: Vec<String> = links().into_iter().filter(|l| l.starts_with("gantry")).collect();
        assert_eq!(bridges, ["gantry0"], "the bridge is found again");
        attach(&new, "e", &pod_namespace(), &[tcp(9090, None)]).await;
    });
}

#[test]
fn many_at_once_share_no_address() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path());
        let pods: Vec<OwnedFd> = (0..20).map(|_| pod_namespace()).collect();
        let names: Vec<String> = (0..20).map(|n| format!("pod{n}")).collect();
        let calls = pods.iter().zip(&names).map(|(netns, name)| network.attach(request(name, netns, &[])));
        let made = futures::future::join_all(calls).await;
        let addresses: HashSet<Ipv4Addr> = made.into_iter().map(|a| a.unwrap().ip).collect();
        assert_eq!(addresses.len(), 20);
        let again =
            futures::future::join_all((0..4).map(|_| network.attach(request("pod0", &pods[0], &[])))).await;
        let same: HashSet<Ipv4Addr> = again.into_iter().map(|a| a.unwrap().ip).collect();
        assert_eq!(same.len(), 1, "the same call four times at once");
    });
}

#[test]
fn a_full_subnet_says_so_and_two_daemons_keep_apart() {
    on_private_host(|| async {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let subnet = Subnet::new(Ipv4Addr::new(10, 200, 0, 0), 29);
        let config = BuiltinConfig { subnet, ..BuiltinConfig::new(one.path().to_owned()) };
        let (small, _) = BuiltinNetwork::open(config).unwrap();
        let pods: Vec<OwnedFd> = (0..6).map(|_| pod_namespace()).collect();
        for (n, netns) in pods.iter().enumerate().take(5) {
            attach(&small, &format!("p{n}"), netns, &[]).await;
        }
        let error = small.attach(request("p5", &pods[5], &[])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.to_string().contains("10.200.0.0/29"), "{error}");
        let other = network(two.path());
        let attached = attach(&other, "p5", &pods[5], &[tcp(8080, None)]).await;
        assert_eq!(attached.bridge, "gantry1");
        assert!(!subnet.unwrap().overlaps(attached.ip, 32));
        other.detach("p5").await.unwrap();
        other.shutdown_if_idle().await.unwrap();
        let bridges: Vec<String> = links().into_iter().filter(|l| l.starts_with("gantry")).collect();
        assert_eq!(bridges, ["gantry0"]);
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forwarding.trim(), "1", "the other daemon's pods still need it");
    });
}

#[test]
fn a_missing_or_failing_nft_is_named() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let config =
            BuiltinConfig { nft: "/nonexistent/nft".into(), ..BuiltinConfig::new(dir.path().to_owned()) };
        let (network, _) = BuiltinNetwork::open(config).unwrap();
        let pod = pod_namespace();
        attach(&network, "a", &pod, &[]).await;
        let error = network.attach(request("b", &pod_namespace(), &[tcp(8080, None)])).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/nft is not installed"), "{error}");
        let check = network.check().await.into_iter().find(|c| c.name == "nft").unwrap();
        assert!(!check.ok && check.remedy.contains("nftables"), "{check:?}");
        network.detach("a").await.unwrap();
        network.shutdown_if_idle().await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}
