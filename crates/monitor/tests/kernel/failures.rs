//! OCI runtimes that fail, hang and lie.

use crate::pod::Pod;
use gantry_monitor_api::{ErrorKind, Failure, Request};

fn start(pod: &Pod, id: &str, runtime: Vec<String>, timeout_ms: u64) -> Failure {
    let mut request = pod.bundle(id, "true", |_| {});
    (request.runtime, request.timeout_ms) = (runtime, timeout_ms);
    request.runtime_log = pod.dir.join(format!("{id}.log"));
    pod.failure(&Request::Start(request))
}

#[test]
fn a_runtime_that_fails_is_quoted() {
    let pod = Pod::new();
    let missing = Request::Start(pod.bundle("missing", "", |config| {
        config["process"]["args"] = serde_json::json!(["/no/such/program"]);
    }));
    let failure = pod.failure(&missing);
    assert_eq!(failure.kind, ErrorKind::Runtime);
    assert!(failure.message.contains("/no/such/program"), "{failure:?}");
    assert!(!pod.dir.join("missing/0.log").exists(), "what the runtime says is not the container's output");

    let speaks = pod.fake_runtime("speaks", "echo 'some words' >&2; echo 'the last words' >&2; exit 1");
    let failure = start(&pod, "speaks", speaks, 60_000);
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::Runtime, "the last words"));

    let mute = pod.fake_runtime("mute", "exit 9");
    assert_eq!(start(&pod, "mute", mute, 60_000).message, "the OCI runtime ended with status 9");

    let failure = start(&pod, "none", vec!["/no/such/runtime".into()], 60_000);
    assert_eq!(failure.kind, ErrorKind::Runtime);
    assert_eq!(failure.message, "run /no/such/runtime: No such file or directory");
    assert!(start(&pod, "empty", vec![], 60_000).message.contains("names no OCI runtime"));
}

#[test]
fn old_words_are_not_quoted_again() {
    let pod = Pod::new();
    std::fs::write(pod.dir.join("c.log"), "{\"level\":\"error\",\"msg\":\"an old story\"}\n").unwrap();
    let mute = pod.fake_runtime("mute", "exit 1");
    assert_eq!(start(&pod, "c", mute, 60_000).message, "the OCI runtime ended with status 1");
}

#[test]
fn a_runtime_that_hangs_is_killed_and_the_id_is_free_again() {
    let pod = Pod::new();
    let hangs = pod.fake_runtime("hangs", "echo 'waiting for something' >&2; sleep 1000 & sleep 1000");
    let failure = start(&pod, "c", hangs, 300);
    assert_eq!(failure.kind, ErrorKind::Timeout);
    assert!(failure.message.ends_with("it said: waiting for something"), "{failure:?}");
    assert_eq!(pod.run("c", "exit 3").exit_code, 3);
}

#[test]
fn a_runtime_that_lies_about_its_pid_is_not_believed() {
    let pod = Pod::new();
    for (id, script, words) in [
        ("nothing", "exit 0", "wrote no pid file"),
        ("text", "echo hello >$pid_file", "holds no pid"),
        ("negative", "echo -5 >$pid_file", "holds no pid"),
        ("init", "echo 1 >$pid_file", "process 1, which is none that it started"),
        ("nobody", "echo 4194303 >$pid_file", "which is none that it started"),
    ] {
        let lies = pod.fake_runtime(id, script);
        let failure = start(&pod, id, lies, 60_000);
        assert!(failure.kind == ErrorKind::Runtime && failure.message.contains(words), "{id}: {failure:?}");
    }
    // The pause child and other containers are ours, but not its to name.
    let process = pod.start("c", "sleep 1000");
    for pid in [process.pid, pod.pause()] {
        let lies = pod.fake_runtime("liar", &format!("echo {pid} >$pid_file"));
        let failure = start(&pod, "liar", lies, 60_000);
        assert!(failure.message.contains("none that it started"), "{failure:?}");
    }
}

#[test]
fn a_runtime_that_cannot_be_killed_is_answered_for() {
    let pod = Pod::new();
    // Frozen by the v1 freezer not even SIGKILL ends it; elsewhere it dies, with the same answer.
    let parent = std::path::Path::new("/sys/fs/cgroup/freezer").join(pod.dir.file_name().unwrap());
    let group = parent.join("frozen");
    let freezer = parent.parent().unwrap().is_dir();
    let freeze =
        format!("mkdir -p {0} && echo $$ >{0}/tasks && echo FROZEN >{0}/freezer.state", group.display());
    let script = if freezer { freeze } else { String::new() };
    let hangs = pod.fake_runtime("hangs", &format!("{script}\nsleep 1000"));
    let mut request = pod.bundle("c", "true", |_| {});
    (request.runtime, request.timeout_ms) = (hangs, 500);
    let failure = pod.failure(&Request::Start(request.clone()));
    let other = pod.run("d", "exit 3");
    let again = freezer.then(|| pod.failure(&Request::Start(request)));
    if freezer {
        std::fs::write(group.join("freezer.state"), "THAWED").unwrap();
    }
    assert_eq!((failure.kind, other.exit_code), (ErrorKind::Timeout, 3));
    if let Some(again) = again {
        assert!(failure.message.ends_with("cannot be killed"), "{failure:?}");
        assert_eq!(again.kind, ErrorKind::AlreadyExists);
    }
}
