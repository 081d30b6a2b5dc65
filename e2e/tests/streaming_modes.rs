//! Where sessions run, whom they run as, and who else is attached: by the real crictl, over both transports.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, Stage, namespace};
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
const HANDLERS: [&str; 2] = ["runc", "embedded"];

fn playing() -> (Stage, Daemon, Crictl) {
    let stage = Stage::new();
    let daemon = stage.daemon("d").builtin_network().start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    (stage, daemon, crictl)
}

fn spawn(crictl: &Crictl, args: &[&str]) -> Child {
    let mut command = crictl.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn exec_joins_the_containers_namespaces_as_its_user() {
    let (stage, daemon, crictl) = playing();
    for handler in HANDLERS {
        // NamespaceMode: POD, CONTAINER, NODE.
        for pid_mode in [0, 1, 2] {
            let options = json!({"network": 2, "pid": pid_mode});
            let pod = stage.pod("p", json!({"linux": {"security_context": {"namespace_options": options}}}));
            let pod_id = crictl.runp(handler, &pod);
            let security = json!({
                "namespace_options": options,
                "run_as_user": {"value": 1000},
                "run_as_group": {"value": 1000},
                "supplemental_groups": [2000],
            });
            let container = json!({"linux": {"security_context": security}});
            let container = stage.container("c", "exec tail -f /dev/null", container);
            let id = crictl.start(&pod_id, &container, &pod);
            let pid = crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap();
            let kinds = ["pid", "net", "ipc", "uts", "mnt"];
            let own: Vec<String> = kinds.iter().map(|k| namespace(pid as u32, k).unwrap()).collect();
            for transport in TRANSPORTS {
                let what = format!("{handler}, pid mode {pid_mode}, {transport}");
                let script =
                    "id -u; id -g; id -G; for k in pid net ipc uts mnt; do readlink /proc/self/ns/$k; done";
                let said = crictl.ok(&["exec", "-r", transport, &id, "sh", "-c", script]);
                let said: Vec<&str> = said.lines().collect();
                assert_eq!(said[..2], ["1000", "1000"], "{what}");
                assert!(said[2].split(' ').any(|g| g == "2000"), "{what}: {said:?}");
                assert_eq!(said[3..], own, "{what}");
            }
            crictl.ok(&["rmp", "--force", &pod_id]);
        }
    }
    daemon.end();
    stage.end();
}

/// `crictl port-forward` to one port; the client and the local port.
fn forward(crictl: &Crictl, transport: &str, pod: &str, port: u16) -> (Child, u16) {
    let mut client = spawn(crictl, &["port-forward", "-r", transport, pod, &format!(":{port}")]);
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    let local = loop {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "{transport}: port-forward ended");
        if let Some(rest) = line.strip_prefix("Forwarding from 127.0.0.1:") {
            break rest.split(' ').next().unwrap().parse().unwrap();
        }
    };
    // It goes on writing to it.
    client.stdout = Some(output.into_inner());
    (client, local)
}

fn end(mut client: Child) {
    client.kill().unwrap();
    client.wait().unwrap();
}

/// Sends, ends its own direction, and reads the answer to the end.
fn ask(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    // A port that refuses ends in a reset.
    let _reset = stream.read_to_string(&mut answer);
    answer.trim().to_owned()
}

#[test]
fn ports_by_ipv4_and_ipv6_with_half_close_and_refusals() {
    let (stage, daemon, crictl) = playing();
    let pod = stage.network_pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    // One counts what comes until its end, on all addresses; the others answer on one address alone.
    let script = "echo welcome >/www/index.html; nc -ll -p 7 -e wc -c & httpd -h /www -p 127.0.0.1:8; \
                  httpd -h /www -p '[::1]:10'; exec tail -f /dev/null";
    let id = crictl.start(&pod_id, &stage.container("c", script, json!({})), &pod);
    crictl.sh(&id, "until [ $(netstat -ltn | grep -cE ':(7|8|10) ') = 3 ]; do :; done");
    for transport in TRANSPORTS {
        let (client, local) = forward(&crictl, transport, &pod_id, 7);
        assert_eq!(ask(local, &[b'x'; 1_000_000]), "1000000", "{transport}");
        end(client);
        for port in [8, 10] {
            let (client, local) = forward(&crictl, transport, &pod_id, port);
            let page = ask(local, b"GET /index.html HTTP/1.0\r\n\r\n");
            assert!(page.ends_with("welcome"), "{transport}, port {port}: {page}");
            end(client);
        }
        let (mut client, local) = forward(&crictl, transport, &pod_id, 9);
        assert_eq!(ask(local, b"x"), "", "{transport}");
        let mut errors = BufReader::new(client.stderr.take().unwrap());
        let mut told = String::new();
        while !told.contains("refused") {
            assert!(errors.read_line(&mut told).unwrap() > 0, "{transport}: {told}");
        }
        end(client);
    }
    // The host's network: the host's loopback.
    let host = stage.pod("h", json!({}));
    let host_id = crictl.runp("", &host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for transport in TRANSPORTS {
        let (client, local) = forward(&crictl, transport, &host_id, port);
        let asking = std::thread::spawn(move || ask(local, b"question"));
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question", "{transport}");
        stream.write_all(b"answer").unwrap();
        drop(stream);
        assert_eq!(asking.join().unwrap(), "answer", "{transport}");
        end(client);
    }
    crictl.remove_all();
    daemon.end();
    stage.end();
}

#[test]
fn a_slow_attached_client_is_dropped_and_nobody_waits_for_it() {
    let (stage, daemon, crictl) = playing();
    // As much as is asked for at a time, so that only who does not read at all is slow.
    const PIECE: usize = 500_000;
    // More than sockets and pipes hold.
    const PIECES: usize = 100;
    let script = format!("while read go; do head -c {PIECE} /dev/zero | tr '\\0' x; done; echo end");
    for transport in TRANSPORTS {
        let pod = stage.pod("p", json!({}));
        let pod_id = crictl.runp("", &pod);
        let container = stage.container("c", &script, json!({"stdin": true, "stdin_once": true}));
        let id = crictl.start(&pod_id, &container, &pod);
        let mut fast = spawn(&crictl, &["attach", "-i", "-r", transport, &id]);
        let (mut input, mut output) = (fast.stdin.take().unwrap(), fast.stdout.take().unwrap());
        let mut piece = vec![0; PIECE];
        let mut round = || {
            input.write_all(b"go\n").unwrap();
            output.read_exact(&mut piece).unwrap();
            assert!(piece.iter().all(|b| *b == b'x'), "{transport}");
        };
        round();
        let mut slow = spawn(&crictl, &["attach", "-r", transport, &id]);
        let mut first = [0; 1];
        let mut slow_output = slow.stdout.take().unwrap();
        round();
        for _ in 0..PIECES {
            round();
        }
        // It gets what was sent before it was given up, and its end, while the container goes on.
        let mut got = Vec::new();
        slow_output.read_exact(&mut first).unwrap();
        slow_output.read_to_end(&mut got).unwrap();
        slow.wait().unwrap();
        assert!(got.len() < PIECES * PIECE, "{transport}: {} bytes", got.len());
        assert_eq!(crictl.status(&id)["state"], "CONTAINER_RUNNING", "{transport}");
        drop(input);
        let mut last = String::new();
        output.read_to_string(&mut last).unwrap();
        assert_eq!(last, "end\n", "{transport}");
        assert!(fast.wait().unwrap().success(), "{transport}");
        assert_eq!(crictl.wait_exited(&id)["exitCode"], 0, "{transport}");
        let log = std::fs::read_to_string(stage.log_dir("p").join("c.log")).unwrap();
        let logged: usize = log.lines().map(|l| l.matches('x').count()).sum();
        assert_eq!(logged, (PIECES + 2) * PIECE, "{transport}: the log has everything");
        crictl.ok(&["rmp", "--force", &pod_id]);
        std::fs::remove_file(stage.log_dir("p").join("c.log")).unwrap();
    }
    daemon.end();
    stage.end();
}
