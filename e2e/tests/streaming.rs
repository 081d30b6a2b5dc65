//! Exec, attach and port-forward by the real crictl, over SPDY and over WebSocket.

use gantry_e2e::{BUSYBOX, Crictl, Daemon, Output, Stage, run};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
const HANDLERS: [&str; 2] = ["runc", "embedded"];

/// A shell script in which `"$@"` is crictl with `args`.
fn around(crictl: &Crictl, script: &str, args: &[&str]) -> Output {
    let crictl = crictl.command(args);
    run(Command::new("sh").args(["-c", script, "sh"]).arg(crictl.get_program()).args(crictl.get_args()))
}

/// crictl with `args` on a terminal of 77 columns and 33 rows, with `input` typed; only plain words in `args`.
fn on_terminal(crictl: &Crictl, input: &str, args: &[&str]) -> Output {
    // Typed when the other side has asked for it: the prompt is what it waits for.
    let script = "script -qec \"stty cols 77 rows 33; $*\" /dev/null";
    around(crictl, &format!("printf '{input}' | {script}"), args)
}

struct Playing {
    stage: Stage,
    daemon: Daemon,
    crictl: Crictl,
}

impl Playing {
    fn new() -> Self {
        let stage = Stage::new();
        let daemon = stage.daemon("d").builtin_network().start();
        let crictl = daemon.crictl();
        crictl.ok(&["pull", BUSYBOX]);
        Self { stage, daemon, crictl }
    }

    /// A pod by `handler` with one container; their ids.
    fn container(&self, handler: &str, script: &str, over: Value) -> (String, String) {
        let pod = self.stage.pod(handler, json!({}));
        let pod_id = self.crictl.runp(handler, &pod);
        let container = self.stage.container("c", script, over);
        (pod_id.clone(), self.crictl.start(&pod_id, &container, &pod))
    }

    fn end(self) {
        self.crictl.remove_all();
        self.daemon.end();
        self.stage.end();
    }
}

#[test]
fn exec_has_both_outputs_input_and_the_exit_code() {
    let playing = Playing::new();
    for handler in HANDLERS {
        let (pod, id) = playing.container(handler, "exec tail -f /dev/null", json!({}));
        for transport in TRANSPORTS {
            let what = format!("{handler}, {transport}");
            let args = ["exec", "-r", transport, &id, "sh", "-c", "echo out; echo err >&2; exit 3"];
            let output = playing.crictl.run(&args);
            assert!(output.stdout.contains("out") && output.stderr.contains("err"), "{what}: {output:?}");
            // crictl itself exits with 1 and names the command's code.
            assert_ne!(output.code, Some(0), "{what}");
            assert!(output.stderr.contains('3'), "{what}: {output:?}");
            let size = around(
                &playing.crictl,
                "head -c 30000000 /dev/zero | tr '\\0' x | \"$@\"",
                &[
                    "exec",
                    "-i",
                    "-r",
                    transport,
                    &id,
                    "sh",
                    "-c",
                    "tee /dev/stderr | sha256sum >/tmp/sum; cat /tmp/sum",
                ],
            );
            assert_eq!(size.stderr.len(), 30_000_000, "{what}");
            let direct =
                run(Command::new("sh").args(["-c", "head -c 30000000 /dev/zero | tr '\\0' x | sha256sum"]))
                    .ok();
            assert_eq!(size.stdout.trim(), direct.trim(), "{what}");
            let missing = playing.crictl.run(&["exec", "-r", transport, &id, "/no/such/program"]).fails();
            assert!(missing.contains("/no/such/program"), "{what}: {missing}");
        }
        playing.crictl.ok(&["rmp", "--force", &pod]);
    }
    playing.end();
}

#[test]
fn exec_on_a_terminal() {
    let playing = Playing::new();
    for handler in HANDLERS {
        let (pod, id) = playing.container(handler, "exec tail -f /dev/null", json!({}));
        for transport in TRANSPORTS {
            let what = format!("{handler}, {transport}");
            let args = ["exec", "-it", "-r", transport, &id, "sh"];
            let said = on_terminal(&playing.crictl, "tty\\nread line\\nxyz\\necho =$line=; exit 5\\n", &args);
            assert!(said.stdout.contains("/dev/pts/"), "{what}: {said:?}");
            assert!(said.stdout.contains("=xyz="), "{what}: {said:?}");
        }
        playing.crictl.ok(&["rmp", "--force", &pod]);
    }
    playing.end();
}

#[test]
fn a_client_that_is_killed_takes_its_command_along() {
    let playing = Playing::new();
    let (_, id) = playing.container("runc", "exec tail -f /dev/null", json!({}));
    for transport in TRANSPORTS {
        let script = "trap '' HUP PIPE; echo ready; exec sleep 100000";
        let mut client = spawn(&playing.crictl, &["exec", "-i", "-r", transport, &id, "sh", "-c", script]);
        assert_eq!(line(&mut client), "ready\n");
        client.kill().unwrap();
        client.wait().unwrap();
        // Killed: the next look waits for it in the kernel, not for a time.
        let gone = "while pidof sleep >/dev/null; do :; done; echo gone";
        assert_eq!(playing.crictl.sh(&id, gone), "gone", "{transport}");
    }
    playing.end();
}

#[test]
fn attach_reads_writes_and_leaves_the_container_running() {
    let playing = Playing::new();
    for handler in HANDLERS {
        for transport in TRANSPORTS {
            let what = format!("{handler}, {transport}");
            let script = "while read line; do echo got $line; echo bad $line >&2; done; echo end";
            let (pod, id) = playing.container(handler, script, json!({"stdin": true, "stdin_once": true}));
            let mut first = spawn(&playing.crictl, &["attach", "-r", transport, &id]);
            let mut second = spawn(&playing.crictl, &["attach", "-i", "-r", transport, &id]);
            second.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
            assert_eq!(line(&mut second), "got one\n", "{what}");
            // Who goes away changes nothing for the others.
            first.kill().unwrap();
            first.wait().unwrap();
            second.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
            assert_eq!(line(&mut second), "got two\n", "{what}");
            assert_eq!(playing.crictl.status(&id)["state"], "CONTAINER_RUNNING", "{what}");
            // The end of the one client's input is the container's.
            drop(second.stdin.take());
            assert_eq!(line(&mut second), "end\n", "{what}");
            assert!(second.wait().unwrap().success(), "{what}");
            assert_eq!(playing.crictl.wait_exited(&id)["exitCode"], 0, "{what}");
            playing.crictl.ok(&["rmp", "--force", &pod]);
        }
    }
    playing.end();
}

/// Terminals that a process waits for: one whose other side is closed would wake it without end.
fn watched_terminals(pid: &Value) -> usize {
    let process = format!("/proc/{pid}");
    let read = |dir: &str| std::fs::read_dir(format!("{process}/{dir}")).unwrap().flatten();
    let infos = read("fdinfo").filter_map(|info| std::fs::read_to_string(info.path()).ok());
    let text: String = infos.collect();
    let watched = text.lines().filter_map(|l| l.strip_prefix("tfd:")?.split_whitespace().next());
    let target = |fd: &str| std::fs::read_link(format!("{process}/fd/{fd}")).unwrap_or_default();
    watched.filter(|fd| target(fd).ends_with("ptmx")).count()
}

#[test]
fn attach_to_a_terminal() {
    let playing = Playing::new();
    for handler in HANDLERS {
        for transport in TRANSPORTS {
            let what = format!("{handler}, {transport}");
            let script = "tty; read line; echo =$line=";
            let (pod, id) = playing.container(handler, script, json!({"stdin": true, "tty": true}));
            let said = on_terminal(&playing.crictl, "xyz\\n", &["attach", "-it", "-r", transport, &id]);
            assert!(said.stdout.contains("=xyz="), "{what}: {said:?}");
            playing.crictl.wait_exited(&id);
            let info = playing.crictl.json(&["inspectp", &pod])["info"].clone();
            assert_eq!(watched_terminals(&info["monitor"]["pid"]), 0, "{what}: a terminal that has ended");
            let log = playing.crictl.ok(&["logs", &id]);
            assert!(log.contains("/dev/pts/") || log.contains("/dev/console"), "{what}: {log}");
            playing.crictl.ok(&["rmp", "--force", &pod]);
        }
    }
    playing.end();
}

#[test]
fn ports_are_forwarded_into_the_pods_network() {
    let playing = Playing::new();
    let pod = playing.stage.network_pod("p", json!({}));
    let pod_id = playing.crictl.runp("", &pod);
    let script = "mkdir /tmp/www; head -c 10000000 /dev/zero | tr '\\0' y >/tmp/www/big; httpd -f -p 127.0.0.1:8080 -h /tmp/www";
    let id = playing.crictl.start(&pod_id, &playing.stage.container("c", script, json!({})), &pod);
    let listening = "until netstat -ltn | grep -q :8080; do :; done";
    playing.crictl.sh(&id, listening);
    for transport in TRANSPORTS {
        let mut client = spawn(&playing.crictl, &["port-forward", "-r", transport, &pod_id, ":8080", ":9"]);
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut ports = Vec::new();
        while ports.len() < 2 {
            let mut text = String::new();
            assert!(output.read_line(&mut text).unwrap() > 0, "{transport}: port-forward ended");
            // "Forwarding from 127.0.0.1:41234 -> 8080", and the same for IPv6.
            if let Some(rest) = text.strip_prefix("Forwarding from 127.0.0.1:") {
                ports.push(rest.split(' ').next().unwrap().parse::<u16>().unwrap());
            }
        }
        let fetch = |port: u16| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            // A refused port ends in a reset.
            let _reset = stream.read_to_end(&mut answer);
            answer
        };
        for _ in 0..3 {
            let answer = fetch(ports[0]);
            let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            assert_eq!(answer.len() - body, 10_000_000, "{transport}");
        }
        assert!(fetch(ports[1]).is_empty(), "{transport}");
        client.kill().unwrap();
        client.wait().unwrap();
    }
    playing.end();
}

#[test]
fn a_daemon_that_dies_ends_its_clients_and_the_next_serves_again() {
    let playing = Playing::new();
    let script = "while read line; do echo got $line; done";
    let (_, id) = playing.container("runc", script, json!({"stdin": true}));
    let mut exec =
        spawn(&playing.crictl, &["exec", "-i", &id, "sh", "-c", "echo ready; cat; echo eof >/tmp/eof"]);
    assert_eq!(line(&mut exec), "ready\n");
    let mut attach = spawn(&playing.crictl, &["attach", "-i", &id]);
    attach.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
    assert_eq!(line(&mut attach), "got one\n");
    let Playing { stage, mut daemon, crictl } = playing;
    daemon.kill();
    exec.wait().unwrap();
    attach.wait().unwrap();
    daemon.restart();
    // The command saw the end of its input.
    assert_eq!(crictl.sh(&id, "until [ -s /tmp/eof ]; do :; done; cat /tmp/eof"), "eof");
    let mut attach = spawn(&crictl, &["attach", "-i", &id]);
    attach.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    assert_eq!(line(&mut attach), "got two\n");
    attach.kill().unwrap();
    attach.wait().unwrap();
    Playing { stage, daemon, crictl }.end();
}

#[test]
fn what_makes_no_sense_is_refused() {
    let playing = Playing::new();
    let (pod, id) = playing.container("runc", "exec tail -f /dev/null", json!({}));
    let refused = playing.crictl.run(&["attach", "-t", "-i", &id]).fails();
    assert!(refused.contains("tty"), "{refused}");
    playing.crictl.ok(&["stop", "--timeout", "0", &id]);
    assert!(playing.crictl.run(&["exec", &id, "true"]).fails().contains("does not run"));
    playing.crictl.ok(&["stopp", &pod]);
    assert!(playing.crictl.run(&["port-forward", &pod, ":80"]).fails().contains("not ready"));
    playing.end();
}

fn spawn(crictl: &Crictl, args: &[&str]) -> Child {
    let mut command = crictl.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

/// One line of a client's output, byte by byte so that nothing behind it is taken.
fn line(client: &mut Child) -> String {
    let stdout = client.stdout.as_mut().unwrap();
    let (mut text, mut byte) = (Vec::new(), [0]);
    while stdout.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    String::from_utf8(text).unwrap()
}
