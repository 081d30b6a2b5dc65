//! Containers of a runtime with a kernel of its own: its `wait` tells how they end.

use crate::pod::Pod;
use gantry_monitor_api::{ErrorKind, ExitRecord, Request, StartRequest};

/// A request for a runtime that makes nothing, and whose `wait` runs `wait`.
fn request(pod: &Pod, id: &str, wait: &str) -> StartRequest {
    let path = pod.dir.join(format!("runtime-{id}"));
    std::fs::write(&path, format!("case $1 in wait) {wait};; esac\n")).unwrap();
    // Not executed itself: a test on another thread may fork while the file is open for writing.
    let runtime = vec!["/bin/sh".into(), path.display().to_string()];
    StartRequest { runtime, by_wait: true, ..pod.bundle(id, "exit 99", |_| {}) }
}

#[test]
fn the_end_is_what_wait_tells() {
    let pod = Pod::new();
    for (id, wait, code, signal) in [
        ("seven", r#"[ $2 = seven ] && echo '{"id":"seven","exitStatus":7}'"#, 7, None),
        ("lost", "echo the sandbox is gone >&2; exit 128", 137, Some(9)),
        ("killed", "kill -9 $$", 137, Some(9)),
        ("flood", "head -c 60000 /dev/zero", 137, Some(9)),
    ] {
        pod.start_with(request(&pod, id, wait));
        let record = pod.ear.exited(id);
        assert_eq!((record.exit_code, record.signal), (code, signal), "{id}");
        assert_eq!(ExitRecord::read(&pod.dir.join(id)).unwrap(), Some(record));
    }
}

#[test]
fn a_failed_run_is_not_waited_for() {
    let pod = Pod::new();
    let mut request = request(&pod, "c", "exit 0");
    request.runtime = vec!["/bin/false".into()];
    let failure = pod.failure(&Request::Start(request));
    assert_eq!(failure.kind, ErrorKind::Runtime);
}

#[test]
fn a_shutdown_does_not_wait_for_the_runtime() {
    let pod = Pod::new();
    pod.start_with(request(&pod, "c", "exec sleep 100000"));
    pod.ear.ask(&Request::Shutdown);
}
