//! The built-in network: pods talk by address, and to the outside by published ports.

use gantry_e2e::{BUSYBOX, Crictl, HANDLERS, Stage, free_port, wait_file};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};

/// Serves `page` on port 80; answers once the line "listening" is logged.
fn server(page: &str) -> String {
    format!("echo '{page}' > /www/index.html; httpd -h /www -p 80; echo listening; exec sleep 100000")
}

/// Address of a pod.
fn ip(crictl: &Crictl, pod_id: &str) -> String {
    let ip = crictl.json(&["inspectp", pod_id])["status"]["network"]["ip"].as_str().unwrap().to_owned();
    ip.parse::<std::net::Ipv4Addr>().unwrap_or_else(|e| panic!("{ip:?} is no address: {e}"));
    ip
}

/// What a web server on the host's port says.
fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn pods_talk_and_publish_ports() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    assert_eq!(crictl.json(&["info"])["status"]["conditions"][1]["status"], json!(true), "NetworkReady");
    for handler in HANDLERS {
        let port = free_port();
        let ports = json!({"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": port}]});
        let (web, visitor) = (stage.network_pod("web", ports), stage.network_pod("visitor", json!({})));
        let (web_id, visitor_id) = (crictl.runp(handler, &web), crictl.runp(handler, &visitor));
        assert_ne!(ip(&crictl, &web_id), ip(&crictl, &visitor_id));
        assert!(std::path::Path::new("/run/netns").join(format!("gantry-{web_id}")).exists(), "pinned");
        crictl.start(&web_id, &stage.container("httpd", &server("welcome"), json!({})), &web);
        let log = stage.log_dir("web").join("httpd.log");
        wait_file(&log, "the server listens", |t| t.contains("listening"));

        let id = crictl.start(&visitor_id, &stage.container("sh", "exec sleep 1000", json!({})), &visitor);
        let by_address = crictl.sh(&id, &format!("wget -q -O - http://{}/", ip(&crictl, &web_id)));
        assert_eq!(by_address.trim(), "welcome", "{handler}: pod to pod by address");
        let page = fetch(port).unwrap();
        assert!(page.ends_with("welcome\n"), "{handler}: by the host's port: {page}");
        // The bridge is the pods' gateway and one of the host's addresses.
        let gateway = crictl.sh(&id, "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'");
        let hairpin = crictl.sh(&id, &format!("wget -q -O - http://{}:{port}/", gateway.trim()));
        assert_eq!(hairpin.trim(), "welcome", "{handler}: from a pod by the host's address and port");

        crictl.ok(&["stopp", &web_id]);
        assert!(fetch(port).is_err(), "{handler}: the port is given back with the pod");
        crictl.remove_all();
        std::fs::remove_file(&log).unwrap();
    }
    daemon.end();
    stage.end();
}

#[test]
fn udp_ports_are_published_too() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let port = free_port();
    let ports = json!({"port_mappings": [{"protocol": 1, "container_port": 5353, "host_port": port}]});
    let pod = stage.network_pod("p", ports);
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exec sleep 1000", json!({})), &pod);
    let pid = crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap();
    let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    // busybox has no UDP server: a thread of this test is one, in the pod's network.
    let (tell, told) = std::sync::mpsc::channel();
    let echo = std::thread::spawn(move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), Some(LinkNameSpaceType::Network))
            .unwrap();
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        tell.send(()).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    told.recv().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(gantry_e2e::LIMIT)).unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.send(b"there and back").unwrap();
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer).expect("an answer from the published port");
    assert_eq!(&buffer[..length], b"there and back");
    echo.join().unwrap();
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn a_host_port_has_one_owner() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    let port = free_port();
    let ports = json!({"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": port}]});
    let first = crictl.runp("", &stage.network_pod("first", ports.clone()));
    let refused = crictl.run_runp("", &stage.network_pod("second", ports.clone())).fails();
    assert!(refused.contains(&port.to_string()), "{refused}");
    crictl.ok(&["rmp", "--force", &first]);
    let second = crictl.runp("", &stage.network_pod("second", ports));
    crictl.ok(&["rmp", "--force", &second]);
    daemon.end();
    stage.end();
}

#[test]
fn addresses_survive_the_daemon_and_are_not_given_twice() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let web = stage.network_pod("web", json!({}));
    let web_id = crictl.runp("", &web);
    crictl.start(&web_id, &stage.container("httpd", &server("still here"), json!({})), &web);
    wait_file(&stage.log_dir("web").join("httpd.log"), "the server listens", |t| t.contains("listening"));
    let address = ip(&crictl, &web_id);
    daemon.kill();
    daemon.restart();
    assert_eq!(ip(&crictl, &web_id), address);
    let visitor = stage.network_pod("visitor", json!({}));
    let visitor_id = crictl.runp("", &visitor);
    assert_ne!(ip(&crictl, &visitor_id), address);
    let id = crictl.start(&visitor_id, &stage.container("sh", "exec sleep 1000", json!({})), &visitor);
    let page = crictl.sh(&id, &format!("wget -q -O - http://{address}/"));
    assert_eq!(page.trim(), "still here");
    crictl.remove_all();
    daemon.end();
    stage.end();
}
