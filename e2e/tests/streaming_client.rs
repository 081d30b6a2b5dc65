//! `gantry exec`, `attach`, `port-forward` and `cp`, on terminals and in pipes.

use gantry_e2e::{BUSYBOX, Daemon, Stage, Terminal, run};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Playing {
    stage: Stage,
    daemon: Daemon,
}

impl Playing {
    fn new() -> Self {
        let stage = Stage::new();
        let daemon = stage.daemon("d").start();
        daemon.gantry(&["pull", BUSYBOX]).ok();
        Self { stage, daemon }
    }

    /// A container called `web` that runs `script`.
    fn web(&self, options: &[&str], script: &str) {
        let image = [BUSYBOX, "sh", "-c", script];
        self.daemon.gantry(&[&["run", "--name", "web"], options, &image].concat()).ok();
    }

    fn end(self) {
        self.daemon.gantry(&["rm", "--force", "web"]).ok();
        self.daemon.end();
        self.stage.end();
    }

    fn on_terminal(&self, args: &[&str]) -> Terminal {
        Terminal::run(&self.daemon.gantry_command(args), 77, 33)
    }

    fn piped(&self, args: &[&str]) -> Child {
        let mut command = self.daemon.gantry_command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

const SLEEP: &str = "exec sleep 100000";

#[test]
fn exec_passes_streams_and_the_status_on() {
    let playing = Playing::new();
    playing.web(&["--network", "host"], SLEEP);
    let seen = playing.daemon.gantry(&["exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((seen.code, &*seen.stdout, &*seen.stderr), (Some(7), "out\n", "err\n"));
    let killed = playing.daemon.gantry(&["exec", "web", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, Some(137), "{killed:?}");
    let missing = playing.daemon.gantry(&["exec", "web", "/no/such/program"]);
    assert!(missing.code == Some(1) && missing.stderr.contains("/no/such/program"), "{missing:?}");
    let over = playing.daemon.gantry(&["exec", "--timeout", "1", "web", "sleep", "100"]);
    assert_eq!(over.code, Some(124), "{over:?}");
    // Without -i there is no input, whatever waits on ours.
    let mut quiet = playing.piped(&["exec", "web", "cat"]);
    assert!(quiet.wait().unwrap().success());

    // Every byte, both ways at once, and the end of the input is seen.
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = playing.piped(&["exec", "-i", "web", "cat"]);
    let mut stdin = cat.stdin.take().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut back = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(cat.wait().unwrap().success());
    assert!(back == bytes, "{} bytes came back of {}", back.len(), bytes.len());

    // Nobody reads on.
    let mut endless = playing.piped(&["exec", "web", "yes"]);
    drop(endless.stdout.take());
    assert_eq!(endless.wait().unwrap().code(), Some(141));
    playing.end();
}

#[test]
fn exec_on_a_terminal_is_raw_follows_its_size_and_is_left_as_it_was() {
    let playing = Playing::new();
    playing.web(&["--network", "host"], SLEEP);
    let mut terminal = playing.on_terminal(&["exec", "-it", "web", "sh"]);
    terminal.until("# ");
    assert!(terminal.is_raw());
    terminal.keys("stty size\r");
    terminal.until("33 77");
    terminal.resize(100, 40);
    // The size travels beside the keys: looked at until it is there.
    terminal.keys("until stty size | grep -q '^40 100'; do :; done; echo re''sized\r");
    terminal.until("resized");
    // Ctrl-C is the command's.
    terminal.keys("echo re''ady; cat\r");
    // What is typed earlier is the shell's.
    terminal.until("ready\r\n");
    terminal.keys("echoed\r");
    terminal.until("echoed\r\nechoed");
    terminal.keys("\x03");
    terminal.until("# ");
    terminal.keys("exit 9\r");
    let (code, usual) = terminal.settings_after();
    assert_eq!((code, usual), (9, true));

    // Detached: the command has lost its client, and is killed.
    let mut terminal =
        playing.on_terminal(&["exec", "-it", "web", "sh", "-c", "echo re''ady; exec sleep 4321"]);
    terminal.until("ready");
    terminal.keys("\x10\x11");
    let (code, usual) = terminal.settings_after();
    assert_eq!((code, usual), (0, true));
    playing.daemon.gantry(&["exec", "web", "sh", "-c", "while pidof sleep | grep -q ' '; do :; done"]).ok();

    // A signal that ends it.
    for (name, expected) in [("TERM", 143), ("HUP", 129), ("INT", 130), ("QUIT", 131)] {
        let mut terminal = playing.on_terminal(&["exec", "-it", "web", "sh", "-c", "echo re''ady; exec cat"]);
        terminal.until("ready");
        run(Command::new("kill").args(["-s", name, &terminal.pid().to_string()])).ok();
        let (code, usual) = terminal.settings_after();
        assert_eq!((code, usual), (expected, true), "{name}");
    }
    playing.end();
}

#[test]
fn the_terminal_is_restored_when_the_daemon_dies() {
    let mut playing = Playing::new();
    playing.web(&["--network", "host"], SLEEP);
    let mut terminal = playing.on_terminal(&["exec", "-it", "web", "sh"]);
    terminal.until("# ");
    playing.daemon.kill();
    let (code, usual) = terminal.settings_after();
    assert_eq!((code, usual), (1, true));
    playing.daemon.restart();
    playing.end();
}

#[test]
fn a_daemon_that_serves_with_tls_is_trusted_by_its_certificate() {
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/streaming/tests/tls");
    let file = |name: &str| tls.join(name).display().to_string();
    let stage = Stage::new();
    let one = ["--stream-tls-cert", &file("a.crt")];
    let refused =
        run(Command::new(gantry_e2e::dist().join("gantry")).args(["config", "check"]).args(one)).fails();
    assert!(refused.contains("stream_tls_key"), "{refused}");
    let daemon = stage.daemon("d").args(&[&one[..], &["--stream-tls-key", &file("a.key")]].concat()).start();
    daemon.gantry(&["pull", BUSYBOX]).ok();
    daemon.gantry(&["run", "--name", "web", "--network", "host", BUSYBOX, "sh", "-c", SLEEP]).ok();
    let exec = |ca: &[&str]| daemon.gantry(&[&["exec"], ca, &["web", "echo", "trusted"]].concat());
    assert_eq!(exec(&["--tls-ca", &file("a.crt")]).ok(), "trusted");
    let unknown = exec(&["--tls-ca", &file("b.crt")]).fails();
    assert!(unknown.contains("TLS"), "{unknown}");
    assert!(exec(&[]).fails().contains("--tls-ca"));
    daemon.gantry(&["rm", "--force", "web"]).ok();
    daemon.end();
    stage.end();
}

#[test]
fn attach_types_looks_on_and_leaves_the_container_running() {
    let playing = Playing::new();
    let script = "while read line; do echo =$line=; [ $line = end ] && exit 3; done";
    playing.web(&["--network", "host", "-it"], script);
    let mut terminal = playing.on_terminal(&["attach", "web"]);
    terminal.keys("one\r");
    terminal.until("=one=");
    assert!(terminal.is_raw());
    let mut onlooker = playing.piped(&["attach", "--no-stdin", "web"]);
    let mut lines = BufReader::new(onlooker.stdout.take().unwrap());
    terminal.keys("\x10x\x10\x10\x11");
    let (code, usual) = terminal.settings_after();
    assert_eq!((code, usual), (0, true));
    assert!(playing.daemon.gantry(&["ps"]).ok().contains("web"));
    let mut terminal = playing.on_terminal(&["attach", "web"]);
    terminal.keys("\x15two\r");
    terminal.until("=two=");
    let mut seen = String::new();
    while !seen.contains("=two=") {
        assert!(lines.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    terminal.keys("end\r");
    let (code, usual) = terminal.settings_after();
    // An attached client is told the end, not the code.
    assert_eq!((code, usual), (0, true));
    lines.read_to_string(&mut seen).unwrap();
    assert!(onlooker.wait().unwrap().success());
    playing.end();
}

#[test]
fn ports_lead_into_the_pod() {
    let playing = Playing::new();
    // One answers at once, the other after the end of its input.
    let script = "nc -ll -p 7 -e cat & nc -ll -p 8 -e wc -c & \
                  until netstat -ltn | grep -q ':7 ' && netstat -ltn | grep -q ':8 '; do :; done; \
                  echo listening >/tmp/ready; exec sleep 100000";
    playing.web(&[], script);
    playing.daemon.gantry(&["exec", "web", "sh", "-c", "until [ -s /tmp/ready ]; do :; done"]).ok();
    let mut client = playing.piped(&["port-forward", "web", ":7", ":8", ":9"]);
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let ports: Vec<u16> = (0..3)
        .map(|_| {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let at = line.strip_prefix("forwarding from 127.0.0.1:").unwrap_or_else(|| panic!("{line:?}"));
            at.split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    let dial = |port: u16| TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut first = dial(ports[0]);
    let mut second = dial(ports[0]);
    for (stream, text) in [(&mut first, "one"), (&mut second, "two")] {
        stream.write_all(text.as_bytes()).unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, text.as_bytes());
    }
    // Half-close: the answer comes behind the end of what was sent.
    let mut count = dial(ports[1]);
    count.write_all(&vec![b'x'; 3_000_000]).unwrap();
    count.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    count.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim(), "3000000");
    // Refused: told, and the others go on.
    let mut nothing = Vec::new();
    let _reset = dial(ports[2]).read_to_end(&mut nothing);
    let mut errors = BufReader::new(client.stderr.take().unwrap());
    let mut told = String::new();
    errors.read_line(&mut told).unwrap();
    assert!(told.contains("port 9") && told.contains("refused"), "{told}");
    first.write_all(b"end").unwrap();
    let mut back = [0; 3];
    first.read_exact(&mut back).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    let missing = playing.daemon.gantry(&["port-forward", "nonesuch", "80"]);
    assert_eq!(missing.code, Some(3), "{missing:?}");
    playing.end();
}

#[test]
fn files_are_copied_both_ways() {
    let playing = Playing::new();
    playing.web(&["--network", "host"], SLEEP);
    let here = playing.stage.dir().join("here");
    let tree = here.join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    let long = "n".repeat(150);
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(tree.join("a/big"), &bytes).unwrap();
    std::fs::write(tree.join("a/b").join(&long), "long").unwrap();
    std::fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(tree.join("run"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("a/big", tree.join("link")).unwrap();
    let cp = |from: &str, to: &str| playing.daemon.gantry(&["cp", from, to]);
    let at = |path: &Path| path.display().to_string();

    // In under a new name, and out again into a directory that is there, and under a new name.
    cp(&at(&tree), "web:/tmp/in").ok();
    cp("web:/tmp/in", &at(&here)).ok();
    cp("web:/tmp/in", &at(&here.join("out"))).ok();
    let same =
        |a: &Path, b: &Path| run(Command::new("diff").args(["-r", "--no-dereference"]).arg(a).arg(b)).ok();
    same(&tree, &here.join("in"));
    same(&tree, &here.join("out"));
    let mode = std::fs::metadata(here.join("out/run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    // Into a directory that is there.
    cp(&at(&tree.join("run")), "web:/tmp").ok();
    cp(&at(&tree), "web:/tmp/in").ok();
    let exec = |script: &str| playing.daemon.gantry(&["exec", "web", "sh", "-c", script]).ok();
    assert_eq!(
        exec("ls /tmp/run /tmp/in/tree/run; stat -c %u:%g /tmp/run"),
        "/tmp/in/tree/run\n/tmp/run\n0:0"
    );
    // The contents alone.
    cp("web:/tmp/in/tree/.", &at(&here.join("contents"))).ok();
    same(&tree, &here.join("contents"));
    // One file over another.
    cp("web:/etc/passwd", &at(&here.join("out/run"))).ok();
    assert!(std::fs::read_to_string(here.join("out/run")).unwrap().contains("root:x:0:0"));

    // As a stream.
    let archive = here.join("archive.tar");
    let out = std::fs::File::create(&archive).unwrap();
    let mut packing = playing.daemon.gantry_command(&["cp", "web:/tmp/in/a", "-"]);
    assert!(packing.stdout(out).status().unwrap().success());
    let list = run(Command::new("tar").arg("-tf").arg(&archive)).ok();
    assert!(list.contains("./a/big"), "{list}");
    exec("mkdir /tmp/stream");
    let mut unpacking = playing.daemon.gantry_command(&["cp", "-", "web:/tmp/stream"]);
    assert!(unpacking.stdin(std::fs::File::open(&archive).unwrap()).status().unwrap().success());
    assert_eq!(exec("cmp /tmp/stream/a/big /tmp/in/a/big && echo same"), "same");

    // Failures say whose they are.
    let missing = cp("web:/no/such/file", &at(&here));
    assert!(missing.code == Some(1) && missing.stderr.contains("no/such"), "{missing:?}");
    let nowhere = cp(&at(&tree), "web:/no/such/dir/x");
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("/no/such/dir"), "{nowhere:?}");
    let missing = cp(&at(&here.join("nonesuch")), "web:/tmp");
    assert!(missing.code == Some(1) && missing.stderr.contains("nonesuch"), "{missing:?}");
    assert_eq!(cp("nonesuch:/etc", &at(&here)).code, Some(3));
    playing.end();
}

#[test]
fn a_container_that_lies_places_nothing_outside() {
    let playing = Playing::new();
    // Its tar is its own: whatever it is asked for, it sends links and names that lead out.
    let script = "mkdir -p /w/a; cd /w; echo x >f; ln -s /etc a/abs; ln -s ../../../.. a/up; \
                  busybox tar -cf /tmp/evil.tar a f; rm /bin/tar; \
                  printf '#!/bin/sh\\ncat /tmp/evil.tar\\n' >/bin/tar; chmod +x /bin/tar; \
                  echo >/tmp/ready; exec sleep 100000";
    playing.web(&["--network", "host"], script);
    playing.daemon.gantry(&["exec", "web", "sh", "-c", "until [ -e /tmp/ready ]; do :; done"]).ok();
    let here = playing.stage.dir().join("here");
    std::fs::create_dir(&here).unwrap();
    let copied = playing.daemon.gantry(&["cp", "web:/w/a", &here.display().to_string()]);
    assert!(copied.code == Some(1) && copied.stderr.contains("3 entries were left out"), "{copied:?}");
    let found = run(Command::new("find").arg(&here).args(["-mindepth", "1", "-printf", "%P\\n"])).ok();
    assert_eq!(found, "a");
    playing.end();
}
