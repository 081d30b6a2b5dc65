//! The log: nothing lost, nothing torn, nobody blocked.

use crate::pod::{Pod, SHARED_PIDS};
use gantry_monitor_api::{ErrorKind, Event, Reply, Request};
use rustix::mount::MountFlags;
use std::path::{Path, PathBuf};

#[test]
fn streams_are_told_apart_and_rests_are_pieces() {
    let pod = Pod::new();
    pod.run("c", "echo out; echo err >&2; printf 'a\\0b\\377\\n' | tr -d '\\377'; printf rest");
    let mut lines = pod.log("c");
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F a\0b", "stdout F out", "stdout P rest"]);
}

#[test]
fn long_lines_are_split_at_16_kib() {
    let pod = Pod::new();
    pod.run("c", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo end");
    let lines = pod.log("c");
    let lengths: Vec<(String, usize)> = lines.iter().map(|l| (l[..8].to_owned(), l.len() - 9)).collect();
    let total: usize = lengths[..lengths.len() - 1].iter().map(|l| l.1).sum();
    assert_eq!(total, 40_000);
    assert!(lengths.iter().all(|(_, n)| *n <= 16 << 10));
    assert_eq!(lengths.iter().filter(|(tag, _)| tag == "stdout F").count(), 2);
}

#[test]
fn binary_output_comes_back_byte_by_byte() {
    let pod = Pod::new();
    let request = pod.bundle("c", "cat /tmp/data", |config| {
        config["mounts"].as_array_mut().unwrap().push(serde_json::json!(
            {"destination": "/tmp/data", "type": "bind", "source": pod.dir.join("data"), "options": ["bind", "ro"]}
        ));
    });
    let data: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(pod.dir.join("data"), &data).unwrap();
    pod.start_with(request);
    assert_eq!(pod.ear.exited("c").exit_code, 0);
    let mut back = Vec::new();
    for line in std::fs::read(pod.dir.join("c/0.log")).unwrap().split_inclusive(|b| *b == b'\n') {
        let text = &line[31 + "stdout ".len()..line.len() - 1];
        back.extend_from_slice(&text[2..]);
        if text[0] == b'F' {
            back.push(b'\n');
        }
    }
    assert!(back == data);
}

#[test]
fn rotation_loses_no_line_and_truncates_nothing() {
    let pod = Pod::new();
    let path = pod.dir.join("c/0.log");
    pod.start("c", "i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); done; echo last >&2");
    let mut rotated: Vec<PathBuf> = Vec::new();
    for n in 0..20 {
        let old = pod.dir.join(format!("c/0.log.{n}"));
        std::fs::rename(&path, &old).unwrap();
        rotated.push(old);
        let reply = pod.ear.ask(&Request::ReopenLog { container_id: "c".into() });
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        assert!(path.exists(), "the new file is there when the answer comes");
        // And once more without a rename: nothing may be truncated.
        assert!(matches!(pod.ear.ask(&Request::ReopenLog { container_id: "c".into() }), Reply::Done));
    }
    assert_eq!(pod.ear.exited("c").exit_code, 0);
    rotated.push(path.clone());
    let mut next = 0;
    for file in rotated {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        for line in text.lines().filter(|l| l.contains(" stdout ")) {
            assert!(line.ends_with(&format!("stdout F line {next}")), "{line} is not {next}");
            next += 1;
        }
    }
    assert_eq!(next, 100_000);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_log_that_cannot_be_opened_anew_keeps_the_old_one() {
    let pod = Pod::new();
    let path = pod.dir.join("c/0.log");
    let (end, mut hold) = fifo(&pod, "go");
    let request = pod.bundle("c", "echo before; read x </tmp/go; echo after", end);
    pod.start_with(request);
    let old = pod.dir.join("c/old");
    std::fs::rename(&path, &old).unwrap();
    std::fs::create_dir(&path).unwrap();
    let failure = pod.failure(&Request::ReopenLog { container_id: "c".into() });
    assert!(failure.kind == ErrorKind::System && failure.message.contains("0.log"), "{failure:?}");
    std::io::Write::write_all(&mut hold(), b"go\n").unwrap();
    pod.ear.exited("c");
    let text = std::fs::read_to_string(old).unwrap();
    assert!(text.ends_with("stdout F after\n"), "{text}");
}

/// A fifo in the pod's directory, bound into a container's `/tmp`; the second opens it for writing.
fn fifo<'a>(
    pod: &'a Pod,
    name: &'a str,
) -> (impl FnOnce(&mut serde_json::Value) + 'a, impl FnMut() -> std::fs::File + 'a) {
    let path = pod.dir.join(name);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let source = path.clone();
    let edit = move |config: &mut serde_json::Value| {
        config["mounts"].as_array_mut().unwrap().push(serde_json::json!(
            {"destination": format!("/tmp/{name}"), "type": "bind", "source": source, "options": ["bind", "rw"]}
        ));
    };
    (edit, move || std::fs::OpenOptions::new().write(true).open(&path).unwrap())
}

/// A mount for one test.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        gantry_sys::mount::tmpfs(at, options, MountFlags::empty()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        gantry_sys::mount::detach(&self.0).unwrap();
    }
}

#[test]
fn a_full_disk_drops_lines_says_how_many_and_blocks_nobody() {
    let pod = Pod::new();
    let disk = Tmpfs::mount(&pod.dir.join("small"), "size=256k");
    let (edit, mut hold) = fifo(&pod, "go");
    let script =
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; read x </tmp/go; echo after";
    let mut request = pod.bundle("c", script, edit);
    let path = disk.0.join("0.log");
    request.log_path = Some(path.clone());
    pod.start_with(request);
    // The container gets through all its lines, though the disk takes a quarter of them.
    let mut lost = pod.ear.event("lines to be lost", |event| match event {
        Event::LogLost { container_id, lines, error } => {
            assert_eq!((container_id.as_str(), error.as_str()), ("c", "no space left on device"));
            Some(*lines)
        }
        _ => None,
    });
    // Blocks until the container opens the other end, after its last line.
    let mut go = hold();
    rustix::mount::mount_remount(&disk.0, MountFlags::empty(), c"size=64m").unwrap();
    std::io::Write::write_all(&mut go, b"go\n").unwrap();
    assert_eq!(pod.ear.exited("c").exit_code, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut next, mut marked) = (0, 0);
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(" stderr F [gantry: ") {
            let lines: u64 =
                rest.strip_suffix(" lines dropped: no space left on device]").unwrap().parse().unwrap();
            marked += lines;
            next += lines;
        } else if let Some((_, number)) = line.split_once(" stdout F line ") {
            assert_eq!(number.parse::<u64>().unwrap(), next, "{line}");
            next += 1;
        } else {
            assert!(line.ends_with(" stdout F after"), "{line}");
        }
    }
    assert_eq!(next, 20_000, "every line is there or counted");
    assert!(marked >= lost && marked > 1_000 && text.ends_with("stdout F after\n"), "{marked} {lost}");
    // What the marker counts was told, too; events come once a second at most.
    while lost < marked {
        lost += pod.ear.event("the rest of the lost lines", |event| match event {
            Event::LogLost { lines, .. } => Some(*lines),
            _ => None,
        });
    }
    assert_eq!(lost, marked);
}

#[test]
fn a_disk_full_for_exit_records_is_tried_again() {
    let pod = Pod::new();
    let request = pod.bundle("c", "exit 9", |_| {});
    // The bundle moves to a file system that is full when the container ends.
    let disk = Tmpfs::mount(&pod.dir.join("small"), "size=64k");
    let bundle = disk.0.join("c");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::copy(request.bundle.join("config.json"), bundle.join("config.json")).unwrap();
    // Room for the pid is taken before the disk is filled.
    let fill = "printf '%99s' '' >$pid_file; head -c 1m /dev/zero >$(dirname $pid_file)/fill";
    let mut request = request;
    request.bundle = bundle.clone();
    request.runtime = pod.runtime_of_zombies(9, fill);
    pod.start_with(request);
    assert_eq!(pod.ear.exited("c").exit_code, 9);
    let watch = watch(&bundle);
    std::fs::remove_file(bundle.join("fill")).unwrap();
    // Whichever comes first: it may have been written between the two calls above.
    while gantry_monitor_api::ExitRecord::read(&bundle).unwrap().is_none() {
        crate::pod::wait_readable(std::os::fd::AsFd::as_fd(&watch), "the exit record");
        rustix::io::read(&watch, &mut [0; 4096]).unwrap();
    }
}

fn watch(dir: &Path) -> std::os::fd::OwnedFd {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, dir, inotify::WatchFlags::MOVED_TO).unwrap();
    watch
}

#[test]
fn without_a_log_output_is_read_and_dropped() {
    let pod = Pod::with(SHARED_PIDS, |_| {});
    let mut request = pod.bundle("c", "head -c 1000000 /dev/zero; exit 3", |_| {});
    request.log_path = None;
    pod.start_with(request);
    assert_eq!(pod.ear.exited("c").exit_code, 3);
    let failure = pod.failure(&Request::ReopenLog { container_id: "c".into() });
    assert!(failure.message.contains("no log"), "{failure:?}");
}

#[test]
fn the_output_of_a_dead_containers_children_does_not_hold_its_exit_back() {
    let pod = Pod::with(SHARED_PIDS, |_| {});
    let pause = pod.pause();
    let request = pod.bundle("c", "echo first; (setsid yes &); exit 2", |config| {
        let path = format!("/proc/{pause}/ns/pid");
        config["linux"]["namespaces"][1] = serde_json::json!({"type": "pid", "path": path});
    });
    pod.start_with(request);
    assert_eq!(pod.ear.exited("c").exit_code, 2);
    assert!(std::fs::read_to_string(pod.dir.join("c/0.log")).unwrap().contains(" stdout F first\n"));
}

#[test]
fn a_file_system_that_stalls_holds_no_exit_and_no_session_back() {
    let pod = Pod::new();
    // To open a fifo for writing takes a reader: like a file system that does not answer.
    let path = pod.dir.join("stalled");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut request = pod.bundle("c", "echo lost; exit 4", |_| {});
    request.log_path = Some(path.clone());
    pod.start_with(request);
    assert_eq!(pod.ear.exited("c").exit_code, 4);
    // What comes after it is started, heard of, and ends, too.
    assert_eq!(pod.run("d", "echo here; exit 5").exit_code, 5);
    let mut reader = std::fs::OpenOptions::new().read(true).open(&path).unwrap();
    // The file system answers again: what was written before is there.
    let mut line = [0; 30 + " stdout F lost\n".len()];
    std::io::Read::read_exact(&mut reader, &mut line).unwrap();
    assert!(line.ends_with(b" stdout F lost\n"));
    let reply = pod.ear.ask(&Request::ReopenLog { container_id: "d".into() });
    assert!(matches!(reply, Reply::Done), "{reply:?}");
    assert_eq!(pod.log("d"), ["stdout F here"]);
}
