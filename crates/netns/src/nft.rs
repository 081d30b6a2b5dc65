//! Firewall rules: masquerade for everybody, and host ports as elements of maps.
//!
//! Every change is one transaction of the `nft` program, which is run with a time limit.

use crate::model::{PortMapping, Protocol};
use crate::{Error, ErrorKind, Result, Subnet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A transaction takes milliseconds; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// The `nft` program and the table of one bridge.
#[derive(Debug, Clone)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Makes the table of a bridge anew, with the host ports of all its pods.
    pub(crate) async fn set_up(
        &self,
        bridge: &str,
        subnet: Subnet,
        ports: &[(Ipv4Addr, PortMapping)],
    ) -> Result<()> {
        self.run(&ruleset(bridge, subnet, ports)).await
    }

    pub(crate) async fn add(&self, bridge: &str, ip: Ipv4Addr, ports: &[PortMapping]) -> Result<()> {
        self.run(&elements("add", bridge, ip, ports)).await
    }

    /// Takes host ports back; those that are not there are no failure.
    pub(crate) async fn remove(&self, bridge: &str, ip: Ipv4Addr, ports: &[PortMapping]) -> Result<()> {
        // Added first: deleting what is not there would fail the whole transaction.
        let script = elements("add", bridge, ip, ports) + &elements("delete", bridge, ip, ports);
        self.run(&script).await
    }

    pub(crate) async fn tear_down(&self, bridge: &str) -> Result<()> {
        let table = table(bridge);
        self.run(&format!("add table ip {table}\ndelete table ip {table}\n")).await
    }

    /// What `nft --version` says.
    pub(crate) async fn version(&self) -> Result<String> {
        Ok(self.call(&["--version"], "").await?.trim().to_owned())
    }

    async fn run(&self, script: &str) -> Result<()> {
        self.call(&["-f", "-"], script).await.map(|_| ())
    }

    async fn call(&self, args: &[&str], input: &str) -> Result<String> {
        let program = self.program.display().to_string();
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                ErrorKind::Missing,
                format!("{program} is not installed; install the nftables package"),
            ),
            _ => Error::failed(format!("run {program}"), e),
        };
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let exchange = async {
            if let Some(mut stdin) = stdin {
                // A program that ends before it has read all tells why below.
                let _early_end = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(LIMIT, exchange)
            .await
            .map_err(|_| {
                Error::failed(&program, format!("did not finish within {} s and was killed", LIMIT.as_secs()))
            })?
            .map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words: Vec<&str> = words.lines().take(4).collect();
        Err(Error::failed(&program, words.join(" ")))
    }
}

fn table(bridge: &str) -> String {
    format!("gantry_{bridge}")
}

fn ruleset(bridge: &str, subnet: Subnet, ports: &[(Ipv4Addr, PortMapping)]) -> String {
    let table = table(bridge);
    let mut text = format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
         \tmap tcp_any {{ type inet_service : ipv4_addr . inet_service; }}\n\
         \tmap udp_any {{ type inet_service : ipv4_addr . inet_service; }}\n\
         \tmap tcp_one {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}\n\
         \tmap udp_one {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}\n\
         \tchain ports {{\n\
         \t\tdnat ip addr . port to ip daddr . tcp dport map @tcp_one\n\
         \t\tdnat ip addr . port to ip daddr . udp dport map @udp_one\n\
         \t\tdnat ip addr . port to tcp dport map @tcp_any\n\
         \t\tdnat ip addr . port to udp dport map @udp_any\n\
         \t}}\n\
         \tchain prerouting {{\n\
         \t\ttype nat hook prerouting priority dstnat; policy accept;\n\
         \t\tfib daddr type local jump ports\n\
         \t}}\n\
         \tchain output {{\n\
         \t\ttype nat hook output priority -100; policy accept;\n\
         \t\tfib daddr type local jump ports\n\
         \t}}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {subnet} ip daddr != {subnet} oifname != \"{bridge}\" masquerade\n\
         \t\tip saddr {subnet} oifname \"{bridge}\" ct status dnat masquerade\n\
         \t\tip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade\n\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname \"{bridge}\" accept\n\
         \t\toifname \"{bridge}\" accept\n\
         \t}}\n\
         }}\n"
    );
    for (ip, port) in ports {
        text.push_str(&elements("add", bridge, *ip, std::slice::from_ref(port)));
    }
    text
}

fn elements(verb: &str, bridge: &str, ip: Ipv4Addr, ports: &[PortMapping]) -> String {
    let table = table(bridge);
    let mut text = String::new();
    for port in ports {
        let (protocol, host, inside) = (port.protocol, port.host_port, port.container_port);
        let (map, key) = match port.host_ip {
            Some(IpAddr::V4(address)) if !address.is_unspecified() => ("one", format!("{address} . {host}")),
            _ => ("any", host.to_string()),
        };
        let _infallible =
            writeln!(text, "{verb} element ip {table} {protocol}_{map} {{ {key} : {ip} . {inside} }}");
    }
    text
}

/// Whether two mappings want the same port of the same address.
pub(crate) fn collide(a: &PortMapping, b: &PortMapping) -> bool {
    let any = |p: &PortMapping| p.host_ip.is_none_or(|ip| ip.is_unspecified());
    a.protocol == b.protocol && a.host_port == b.host_port && (any(a) || any(b) || a.host_ip == b.host_ip)
}

/// Host ports that the built-in network cannot map.
pub(crate) fn check(ports: &[PortMapping]) -> Result<()> {
    for (i, port) in ports.iter().enumerate() {
        let bad = |why: &str| {
            let message = format!("host port {}/{}: {why}", port.host_port, port.protocol);
            Err(Error::new(ErrorKind::Invalid, message))
        };
        if port.protocol == Protocol::Sctp {
            return bad("the built-in network maps TCP and UDP ports only");
        }
        if port.host_port == 0 || port.container_port == 0 {
            return bad("ports are 1 to 65535");
        }
        if matches!(port.host_ip, Some(IpAddr::V6(ip)) if !ip.is_unspecified()) {
            return bad("the built-in network maps IPv4 addresses only");
        }
        if ports[..i].iter().any(|other| collide(port, other)) {
            return bad("it is asked for twice");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    #[test]
    fn ports_collide_by_address() {
        assert!(collide(&port(80, None), &port(80, Some("127.0.0.1"))));
        assert!(!collide(&port(80, Some("127.0.0.2")), &port(80, Some("127.0.0.1"))));
        assert!(!collide(&port(80, None), &PortMapping { protocol: Protocol::Udp, ..port(80, None) }));
        assert!(check(&[port(80, None), port(80, Some("10.0.0.1"))]).is_err());
        assert!(check(&[port(80, Some("::1"))]).is_err() && check(&[port(0, None)]).is_err());
        assert!(check(&[PortMapping { protocol: Protocol::Sctp, ..port(80, None) }]).is_err());
        check(&[port(80, None), port(81, Some("0.0.0.0"))]).unwrap();
    }

    #[test]
    fn elements_say_address_and_port() {
        let ip = Ipv4Addr::new(10, 88, 0, 2);
        let text = elements("add", "gantry0", ip, &[port(8080, None), port(81, Some("127.0.0.1"))]);
        let expected = "add element ip gantry_gantry0 tcp_any { 8080 : 10.88.0.2 . 80 }\n\
                        add element ip gantry_gantry0 tcp_one { 127.0.0.1 . 81 : 10.88.0.2 . 80 }\n";
        assert_eq!(text, expected);
    }
}
