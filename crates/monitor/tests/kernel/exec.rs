//! Further processes in a container.

use crate::pod::{Pod, SHARED_PIDS, wait_readable};
use gantry_monitor_api::{ErrorKind, Reply, Request};
use gantry_sys::pidfd;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};

/// The ends of a session's streams that its client keeps: output and errors.
struct Streams {
    fds: [OwnedFd; 3],
    stdout: std::io::PipeReader,
    stderr: std::io::PipeReader,
}

fn streams() -> Streams {
    let (stdout, out) = std::io::pipe().unwrap();
    let (stderr, err) = std::io::pipe().unwrap();
    Streams { fds: [File::open("/dev/null").unwrap().into(), out.into(), err.into()], stdout, stderr }
}

fn ask(pod: &Pod, exec: &str, script: &str) -> (u64, Streams) {
    let streams = streams();
    let request = Request::Exec(pod.exec_request("c", exec, script));
    let asked = pod.ear.send(&request, &streams.fds.each_ref().map(|fd| fd.as_fd()));
    (asked, streams)
}

/// Starts a session; its end of the streams is dropped, so that they end with it.
fn exec(pod: &Pod, id: &str, script: &str) -> (i32, std::io::PipeReader, std::io::PipeReader) {
    let (asked, streams) = ask(pod, id, script);
    match pod.ear.answer(asked, id) {
        Reply::Started(started) => (started.process.pid, streams.stdout, streams.stderr),
        other => panic!("{other:?}"),
    }
}

fn text(mut from: std::io::PipeReader) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn output_goes_straight_to_the_client_and_the_exit_code_is_told() {
    let pod = Pod::new();
    pod.start("c", "sleep 1000");
    let (_, stdout, stderr) = exec(&pod, "e1", "echo out; echo err >&2; exit 5");
    assert_eq!((text(stdout).as_str(), text(stderr).as_str()), ("out\n", "err\n"));
    assert_eq!(pod.ear.exec_exited("e1"), 5);
    let (_, stdout, _) = exec(&pod, "e2", "kill -15 $$");
    assert_eq!((text(stdout).as_str(), pod.ear.exec_exited("e2")), ("", 143));
    assert!(!pod.dir.join("exec-e1.pid").exists());
    assert_eq!(pod.log("c"), [""; 0], "a session's output is not the container's");
}

#[test]
fn two_hundred_sessions_lose_no_exit_code() {
    let pod = Pod::new();
    pod.start("c", "sleep 1000");
    for n in 0..100 {
        let (id, code) = (format!("s{n}"), n % 128);
        exec(&pod, &id, &format!("exit {code}"));
        assert_eq!(pod.ear.exec_exited(&id), code);
    }
    for batch in 0..10 {
        let ids: Vec<String> = (0..10).map(|n| format!("p{batch}x{n}")).collect();
        let asked: Vec<_> = (0..10).map(|n| ask(&pod, &ids[n], &format!("echo {n}; exit {n}"))).collect();
        for (n, (asked, streams)) in asked.into_iter().enumerate() {
            assert!(matches!(pod.ear.answer(asked, &ids[n]), Reply::Started(_)));
            drop(streams.fds);
            assert_eq!(text(streams.stdout), format!("{n}\n"));
            assert_eq!(pod.ear.exec_exited(&ids[n]), n as i32);
        }
    }
}

#[test]
fn killing_a_session_kills_what_it_started_and_nothing_else() {
    let pod = Pod::new();
    let init = pod.start("c", "sleep 1000");
    // Children, a session of a child's own, an orphan in the session: all hold the output open.
    let script = "for i in 1 2 3; do (setsid sleep 1000; :) & (sleep 1000 &) done; echo ready; wait";
    let (_, mut stdout, _) = exec(&pod, "e", script);
    let (_, other, _) = exec(&pod, "other", "sleep 1000");
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let kill = |id: &str| pod.ear.ask(&Request::KillExec { exec_id: id.into() });
    assert!(matches!(kill("e"), Reply::Done));
    assert_eq!(pod.ear.exec_exited("e"), 137);
    wait_readable(stdout.as_fd(), "the session's processes to die");
    assert_eq!(text(stdout), "");
    assert!(!pidfd::Process::open_exact(init.pid, init.start_time).unwrap().has_exited());
    // The other session lives: its output is still open.
    rustix::io::ioctl_fionbio(&other, true).unwrap();
    assert_eq!(rustix::io::read(&other, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
    assert!(matches!(kill("e"), Reply::Done), "gone already");
    assert!(matches!(kill("other"), Reply::Done));
    assert_eq!(pod.ear.exec_exited("other"), 137);
}

#[test]
fn a_session_that_is_killed_while_the_runtime_starts_it_dies() {
    let pod = Pod::new();
    pod.start("c", "sleep 1000");
    let (asked, streams) = ask(&pod, "e", "sleep 1000");
    assert!(matches!(pod.ear.ask(&Request::KillExec { exec_id: "e".into() }), Reply::Done));
    assert!(matches!(pod.ear.answer(asked, "exec"), Reply::Started(_)));
    assert_eq!(pod.ear.exec_exited("e"), 137);
    drop(streams);
}

#[test]
fn sessions_end_with_their_container() {
    let pod = Pod::with(SHARED_PIDS, |_| {});
    let init = pod.start("c", "sleep 1000");
    let (_, stdout, _) = exec(&pod, "e", "sleep 1000");
    pidfd::Process::open_exact(init.pid, init.start_time).unwrap().signal(9).unwrap();
    assert_eq!(pod.ear.exec_exited("e"), 137);
    assert_eq!(text(stdout), "");
    assert_eq!(pod.ear.exited("c").exit_code, 137);
    let (asked, _streams) = ask(&pod, "late", "true");
    assert!(matches!(pod.ear.answer(asked, "late"), Reply::Failed(f) if f.kind == ErrorKind::NotFound));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let pod = Pod::new();
    pod.start("c", "sleep 1000");
    let request = |id: &str, container: &str| {
        let mut request = pod.exec_request("c", "x", "true");
        (request.exec_id, request.container_id) = (id.into(), container.into());
        Request::Exec(request)
    };
    assert_eq!(pod.failure(&request("e", "nobody")).kind, ErrorKind::NotFound);
    assert_eq!(pod.failure(&request("../e", "c")).kind, ErrorKind::Invalid);
    assert_eq!(pod.failure(&request("e", "c")).kind, ErrorKind::Invalid, "no descriptors");
    exec(&pod, "twice", "sleep 1000");
    let (asked, _streams) = ask(&pod, "twice", "true");
    assert!(matches!(pod.ear.answer(asked, "twice"), Reply::Failed(f) if f.kind == ErrorKind::AlreadyExists));
    let missing = {
        let mut request = pod.exec_request("c", "m", "true");
        let process = r#"{"user":{"uid":0,"gid":0},"args":["/no/such/program"],"cwd":"/"}"#;
        std::fs::write(&request.process_file, process).unwrap();
        request.exec_id = "m".into();
        request
    };
    let streams = streams();
    let asked = pod.ear.send(&Request::Exec(missing), &streams.fds.each_ref().map(|fd| fd.as_fd()));
    let Reply::Failed(failure) = pod.ear.answer(asked, "m") else { panic!() };
    assert_eq!(failure.kind, ErrorKind::Runtime);
    assert!(failure.message.contains("/no/such/program"), "{failure:?}");
}
