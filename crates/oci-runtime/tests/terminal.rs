//! Terminals: the master side goes to `--console-socket`, the program gets a controlling terminal.
//! Needs root, runc and busybox-static.

mod support;

use serde_json::json;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use support::{Bundle, Runtime};

/// The master side of the terminal, from the first connection.
fn master(listener: &UnixListener) -> File {
    let (socket, _) = listener.accept().unwrap();
    let mut bytes = [0; 4096];
    let received = gantry_sys::seqpacket::receive(socket.as_fd(), &mut bytes).unwrap();
    let (_, fds) = received.expect("nothing came");
    fds.into_iter().next().expect("no descriptor came").into()
}

/// All that is written to a terminal until its last user is gone, which ends reading with EIO.
fn read_terminal(mut master: File) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_terminal_is_controlled_and_passed_over_the_socket() {
    let script =
        "test -t 0 && test -t 1 && test -t 2 && echo terminal; echo controlling > /dev/tty; ls /dev/pts";
    for runtime in Runtime::both() {
        let name = runtime.name;
        let mut bundle = Bundle::new(script);
        bundle.spec["process"]["terminal"] = json!(true);
        bundle.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}));
        let (socket, out) = (bundle.dir().join("console.sock"), bundle.dir().join("out"));
        let listener = UnixListener::bind(&socket).unwrap();
        let socket = socket.to_str().unwrap();

        let args = bundle.args("create", &["--console-socket", socket]);
        // Both sides at once: the runtime waits until its connection is taken.
        let text = std::thread::scope(|scope| {
            let reader = scope.spawn(|| master(&listener));
            let outcome = runtime.launch(&args, &out);
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
            let master = reader.join().unwrap();
            runtime.run(&["start", &bundle.id]).ok();
            read_terminal(master)
        });
        assert_eq!(text, "terminal\r\ncontrolling\r\n0     ptmx\r\n", "{name}");
        runtime.run(&["delete", "--force", &bundle.id]).ok();
    }
}

#[test]
fn an_exec_gets_a_terminal_of_its_own() {
    for runtime in Runtime::both() {
        let name = runtime.name;
        let mut bundle = Bundle::new("exec sleep 1000000");
        bundle.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}));
        let (socket, out) = (bundle.dir().join("console.sock"), bundle.dir().join("out"));
        let started = runtime.launch(&bundle.args("run", &["--detach"]), &out);
        assert_eq!(started.code, Some(0), "{name}: {started:?}");
        let listener = UnixListener::bind(&socket).unwrap();
        let socket = socket.to_str().unwrap();
        let script = "test -t 0 && echo terminal; echo controlling > /dev/tty";
        let args = ["exec", "--detach", "--tty", "--console-socket", socket, &bundle.id, "sh", "-c", script];
        let text = std::thread::scope(|scope| {
            let reader = scope.spawn(|| master(&listener));
            let outcome = runtime.launch(&args, &out);
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
            read_terminal(reader.join().unwrap())
        });
        assert_eq!(text, "terminal\r\ncontrolling\r\n", "{name}");
        // A terminal and no socket to send it to, or the other way round, is a mistake.
        let lonely = runtime.launch(&["exec", "--detach", "--tty", &bundle.id, "true"], &out);
        assert_eq!(lonely.code, Some(255), "{name}: {lonely:?}");
        runtime.run(&["delete", "--force", &bundle.id]).ok();
    }
}
