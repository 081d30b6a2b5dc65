//! Starts, ends, restarts of the daemon, and the deaths of everybody involved.

use crate::pod::{Ear, NETWORKED, Pod, SHARED_PIDS, spawn_monitor, wait_gone, wait_readable};
use gantry_monitor_api::{Client, ErrorKind, Event, ExitRecord, Reply, Request, Setup, VERSION};
use gantry_sys::{pidfd, seqpacket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

#[test]
fn exits_are_on_disk_before_they_are_told() {
    let pod = Pod::new();
    for (id, script, code, signal) in [
        ("ok", "exit 0", 0, None),
        ("seven", "exit 7", 7, None),
        ("gone", "exec /nonexistent", 127, None),
        ("killed", "sh -c 'kill -9 $PPID'; kill -9 -1; exit 3", 3, None),
    ] {
        let record = pod.run(id, script);
        assert_eq!((record.exit_code, record.signal), (code, signal), "{id}");
        assert_eq!(ExitRecord::read(&pod.dir.join(id)).unwrap(), Some(record.clone()));
        assert!(record.finished_at >= record.started_at && !record.oom_killed);
    }
    let process = pod.start("signalled", "sleep 100");
    pidfd::Process::open_exact(process.pid, process.start_time).unwrap().signal(9).unwrap();
    let record = pod.ear.exited("signalled");
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
}

#[test]
fn a_container_sees_signals_unblocked() {
    let pod = Pod::new();
    assert_eq!(pod.run("c", "grep -E 'Sig(Blk|Ign)' /proc/self/status").exit_code, 0);
    assert_eq!(pod.log("c")[0], "stdout F SigBlk:\t0000000000000000");
}

#[test]
fn only_who_the_oom_killer_struck_is_said_to_be_its_victim() {
    let pod = Pod::new();
    let pod_group = pod.dir.file_name().unwrap().to_str().unwrap();
    for (id, script, victim) in [
        ("oom", "exec tail /dev/zero", true),
        // The killer strikes a child; the init process ends by itself.
        ("child", "tail /dev/zero; exit 137", false),
        ("fine", "exit 0", false),
    ] {
        let mut request = pod.bundle(id, script, |config| {
            config["linux"]["resources"] =
                serde_json::json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        });
        let v1 = Path::new("/sys/fs/cgroup/memory");
        request.oom_counter = Some(if v1.is_dir() {
            v1.join(pod_group).join(id).join("memory.oom_control")
        } else {
            Path::new("/sys/fs/cgroup").join(pod_group).join(id).join("memory.events")
        });
        pod.start_with(request);
        let record = pod.ear.exited(id);
        assert_eq!(record.oom_killed, victim, "{record:?}");
        assert_eq!(record.exit_code, if id == "fine" { 0 } else { 137 });
    }
}

#[test]
fn standard_input_is_empty_or_stays_open() {
    let pod = Pod::new();
    assert_eq!(pod.run("null", "exec cat").exit_code, 0, "at its end at once");
    let mut request = pod.bundle("open", "timeout 1 cat && exit 0; exit 9", |_| {});
    request.stdin = true;
    pod.start_with(request);
    assert_eq!(pod.ear.exited("open").exit_code, 9, "nothing comes, and no end");
}

#[test]
fn two_hundred_containers_that_end_at_once_are_all_told() {
    let pod = Pod::new();
    let runtime = pod.runtime();
    for batch in 0..25 {
        let ids: Vec<String> = (0..8).map(|n| format!("true{batch}x{n}")).collect();
        let asked: Vec<u64> = ids
            .iter()
            .map(|id| pod.ear.send(&Request::Start(pod.bundle(id, "exec true", |_| {})), &[]))
            .collect();
        for (id, asked) in ids.iter().zip(asked) {
            let reply = pod.ear.answer(asked, id);
            assert!(matches!(reply, Reply::Started(_)), "{reply:?}");
            assert_eq!(pod.ear.exited(id).exit_code, 0);
            let deleted =
                Command::new(&runtime[0]).args(&runtime[1..]).args(["delete", id]).status().unwrap();
            assert!(deleted.success());
            assert!(matches!(pod.ear.ask(&Request::Forget { container_id: id.clone() }), Reply::Done));
        }
    }
    assert!(pod.dial().1.containers.is_empty());
}

#[test]
fn what_is_remembered_fits_into_one_hello() {
    let pod = Pod::new();
    for n in 0..120 {
        let id = format!("{}{n:03}", "x".repeat(97));
        let mut request = pod.bundle(&id, "", |_| {});
        request.runtime = pod.runtime_of_zombies(1, "");
        pod.start_with(request);
        pod.ear.exited(&id);
    }
    let (_, hello) = pod.dial();
    assert_eq!(hello.containers.len(), 100);
    let first = ExitRecord::read(&pod.dir.join(format!("{}000", "x".repeat(97)))).unwrap();
    assert_eq!(first.unwrap().exit_code, 1, "what is forgotten is on disk");
}

#[test]
fn a_process_that_ends_before_its_pid_is_known_keeps_its_exit_code() {
    let pod = Pod::new();
    for code in 1..100 {
        let id = format!("c{code}");
        let mut request = pod.bundle(&id, "", |_| {});
        request.runtime = pod.runtime_of_zombies(code, "");
        pod.start_with(request);
        assert_eq!(pod.ear.exited(&id).exit_code, code);
        assert!(matches!(pod.ear.ask(&Request::Forget { container_id: id }), Reply::Done));
    }
}

#[test]
fn a_restarted_daemon_learns_everything() {
    let mut pod = Pod::new();
    let running = pod.start("running", "sleep 100");
    pod.run("ended", "exit 5");
    // The daemon goes away, and comes back.
    let (first, _) = pod.dial();
    pod.ear = first;
    let (ear, hello) = pod.dial();
    assert_eq!((hello.monitor, hello.pause), (pod.hello.monitor, pod.hello.pause));
    let [ended, still] = &hello.containers[..] else { panic!("{hello:?}") };
    assert_eq!((still.process, &still.exit), (running, &None));
    assert_eq!(ended.exit.as_ref().unwrap().exit_code, 5);
    // What happens while nobody listens is told to the next who asks.
    drop(std::mem::replace(&mut pod.ear, ear));
    let request = pod.bundle("late", "exit 6", |_| {});
    pod.ear.send(&Request::Start(request), &[]);
    let (ear, _) = pod.dial();
    pod.ear = ear;
    let known = pod.dial().1.containers.into_iter().find(|c| c.container_id == "late");
    if known.and_then(|c| c.exit).is_none() {
        assert_eq!(pod.ear.exited("late").exit_code, 6);
    }
}

#[test]
fn a_start_is_told_to_the_others_too() {
    let pod = Pod::new();
    let (other, _) = pod.dial();
    let process = pod.start("c", "sleep 100");
    let seen = other.event("the start", |event| match event {
        Event::ContainerStarted { container_id, started } if container_id == "c" => Some(started.process),
        _ => None,
    });
    assert_eq!(seen, process);
}

#[test]
fn a_second_start_and_unknown_ids_are_refused() {
    let pod = Pod::new();
    let request = pod.bundle("c", "sleep 100", |_| {});
    let (first, second) = (Request::Start(request.clone()), Request::Start(request));
    let (first, second) = (pod.ear.send(&first, &[]), pod.ear.send(&second, &[]));
    assert!(
        matches!(pod.ear.answer(second, "second"), Reply::Failed(f) if f.kind == ErrorKind::AlreadyExists)
    );
    assert!(matches!(pod.ear.answer(first, "first"), Reply::Started(_)));
    let reopen = Request::ReopenLog { container_id: "nobody".into() };
    assert_eq!(pod.failure(&reopen).kind, ErrorKind::NotFound);
    let forget = |id: &str| Request::Forget { container_id: id.into() };
    assert!(matches!(pod.ear.ask(&forget("nobody")), Reply::Done));
    assert_eq!(pod.failure(&forget("c")).kind, ErrorKind::Invalid);
}

#[test]
fn a_terminal_that_the_configuration_does_not_have_fails_the_start() {
    let pod = Pod::new();
    let mut request = pod.bundle("tty", "true", |_| {});
    request.terminal = true;
    let failure = pod.failure(&Request::Start(request));
    assert_eq!(failure.kind, ErrorKind::Runtime);
    assert!(failure.message.contains("console socket"), "the runtime's own words: {}", failure.message);
    // The id is free again.
    assert_eq!(pod.run("tty", "exit 5").exit_code, 5);
}

#[test]
fn the_pause_child_holds_what_was_asked_for_and_nothing_else() {
    let pod = Pod::with(SHARED_PIDS, |setup| {
        setup.hostname = Some("web-1".into());
        setup.sysctls = vec![("net.ipv4.ip_unprivileged_port_start".into(), "80".into())];
    });
    let pause = pod.pause();
    let ns = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["net", "ipc", "uts", "pid", "mnt"] {
        assert_ne!(ns(&pause.to_string(), kind), ns("self", kind), "{kind}");
    }
    for kind in ["user", "cgroup"] {
        assert_eq!(ns(&pause.to_string(), kind), ns("self", kind), "{kind}");
    }
    let status = std::fs::read_to_string(format!("/proc/{pause}/status")).unwrap();
    for line in [
        "Uid:\t65535\t65535\t65535\t65535",
        "Gid:\t65535\t65535\t65535\t65535",
        "Groups:\t \n",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Threads:\t1",
    ] {
        assert!(status.contains(line), "{line:?} in {status}");
    }
    assert_eq!(std::fs::read_dir(format!("/proc/{pause}/fd")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(format!("/proc/{pause}/root/")).unwrap().count(), 0);
    assert_eq!(std::fs::read_to_string(format!("/proc/{pause}/mounts")).unwrap().lines().count(), 1);
    let in_pod = |script: &str| {
        let id = format!("c{}", script.len());
        let request = pod.bundle(&id, script, |config| {
            config["linux"]["namespaces"][1] =
                serde_json::json!({"type": "pid", "path": format!("/proc/{pause}/ns/pid")});
        });
        pod.start_with(request);
        assert_eq!(pod.ear.exited(&id).exit_code, 0);
        pod.log(&id)
    };
    assert_eq!(in_pod("hostname"), ["stdout F web-1"]);
    assert_eq!(in_pod("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), ["stdout F 80"]);
    assert!(in_pod("ip link show lo")[0].contains("LOOPBACK,UP"));
    // The pause child reaps what is orphaned to it.
    // It hangs, and the test fails, unless the orphans are reaped.
    let reaped = "(sleep 0 &); (true &); while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do true; done; echo none";
    assert_eq!(in_pod(reaped), ["stdout F none"]);
    assert!(Path::new(&format!("/proc/{pause}")).exists());
}

#[test]
fn a_pause_child_that_cannot_be_set_up_says_why_and_leaves_nothing() {
    for (name, value, words) in [
        ("net.ipv4.no_such_thing", "1", "sysctl net.ipv4.no_such_thing=1: No such file"),
        ("net..x", "1", "is not a name"),
        ("net/../../etc/x", "1", "is not a name"),
    ] {
        let (client, mut monitor, dir) = spawn_monitor();
        let setup = Setup {
            version: VERSION,
            pod_id: "bad".into(),
            pod_dir: dir.clone(),
            namespaces: NETWORKED,
            user_namespace: None,
            hostname: None,
            sysctls: vec![(name.into(), value.into())],
            pause_oom_score_adj: 0,
        };
        let Reply::Failed(failure) = Ear::new(client).ask(&Request::Setup(setup)) else { panic!() };
        assert!(failure.message.contains(words), "{failure:?}");
        assert!(!monitor.wait().unwrap().success());
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn a_daemon_that_goes_away_before_the_set_up_leaves_nothing() {
    let (client, mut monitor, dir) = spawn_monitor();
    drop(client);
    assert!(monitor.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(dir.join("monitor.log")).unwrap(), "");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_wrong_version_and_a_wrong_first_message_are_answered() {
    for (request, kind) in [
        (Request::Hello { version: VERSION }, ErrorKind::Invalid),
        (
            Request::Setup(Setup {
                version: VERSION + 1,
                pod_id: "v".into(),
                pod_dir: "/nonexistent".into(),
                namespaces: NETWORKED,
                user_namespace: None,
                hostname: None,
                sysctls: vec![],
                pause_oom_score_adj: 0,
            }),
            ErrorKind::Version,
        ),
    ] {
        let (client, mut monitor, dir) = spawn_monitor();
        let Reply::Failed(failure) = Ear::new(client).ask(&request) else { panic!() };
        assert_eq!(failure.kind, kind);
        assert!(!monitor.wait().unwrap().success());
        std::fs::remove_dir_all(dir).unwrap();
    }
    let pod = Pod::new();
    let failure = pod.failure(&Request::Hello { version: VERSION + 1 });
    assert_eq!(failure.kind, ErrorKind::Version);
}

#[test]
fn the_death_of_the_pause_child_is_told_and_ends_the_containers() {
    let pod = Pod::new();
    pod.start("c", "sleep 100");
    let pause = pod.hello.pause.unwrap();
    pidfd::Process::open_exact(pause.pid, pause.start_time).unwrap().signal(9).unwrap();
    pod.ear.event("the pause child's end", |e| matches!(e, Event::PauseExited).then_some(()));
    assert_eq!(pod.ear.exited("c").exit_code, 137);
    let (_, hello) = pod.dial();
    assert_eq!(hello.pause, None);
    let late =
        Request::Start(pod.bundle("late", "true", |c| c["linux"]["namespaces"] = serde_json::json!([])));
    assert!(pod.failure(&late).message.contains("namespaces are gone"));
}

#[test]
fn the_death_of_the_monitor_ends_the_pause_child() {
    let mut pod = Pod::with(SHARED_PIDS, |_| {});
    let pause = pidfd::Process::open(pod.pause()).unwrap();
    pod.monitor.kill().unwrap();
    wait_readable(pause.as_fd(), "the pause child to die");
    let dead = Client::connect(&pod.dir).map(|_| ()).unwrap_err().to_string();
    assert!(dead.contains("refused"), "{dead}");
}

#[test]
fn a_shutdown_ends_everything_and_writes_the_logs() {
    let mut pod = Pod::new();
    let process = pod.start("c", "echo here; sleep 100");
    assert!(matches!(pod.ear.ask(&Request::Shutdown), Reply::Done));
    assert!(pod.monitor.wait().unwrap().success());
    wait_gone(process);
    wait_gone(pod.hello.pause.unwrap());
    assert!(!pod.dir.join("monitor.sock").exists());
    let record = ExitRecord::read(&pod.dir.join("c")).unwrap().unwrap();
    assert_eq!(record.exit_code, 137);
}

#[test]
fn nonsense_is_answered_and_survived() {
    let pod = Pod::new();
    for nonsense in
        [&b"{"[..], b"\xff\xff", b"{\"id\":1}", b"{\"id\":1,\"body\":{\"fly\":{}}}", &[b'x'; 100_000]]
    {
        let ear = Ear::new(Client::connect(&pod.dir).unwrap());
        seqpacket::send(ear.client.as_fd(), nonsense, &[]).unwrap();
        let Reply::Failed(failure) = ear.answer(0, "nonsense") else { panic!() };
        assert_eq!(failure.kind, ErrorKind::Invalid);
    }
    let again = Setup {
        version: VERSION,
        pod_id: "again".into(),
        pod_dir: pod.dir.clone(),
        namespaces: NETWORKED,
        user_namespace: None,
        hostname: None,
        sysctls: vec![],
        pause_oom_score_adj: 0,
    };
    assert_eq!(pod.failure(&Request::Setup(again)).kind, ErrorKind::Invalid);
    assert_eq!(pod.run("c", "exit 4").exit_code, 4);
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_hurts_nobody() {
    let pod = Pod::new();
    let deaf = Client::connect(&pod.dir).unwrap();
    seqpacket::set_nonblocking(deaf.as_fd()).unwrap();
    let hello = gantry_monitor_api::encode(1, &Request::Hello { version: VERSION }).unwrap();
    let mut full = 0;
    // Until the monitor hangs up.
    loop {
        match seqpacket::send(deaf.as_fd(), &hello, &[]) {
            Ok(()) => {}
            Err(e) if e.errno() == rustix::io::Errno::AGAIN => {
                full += 1;
                // The monitor is at work on them: its answer to this question comes after a turn of theirs.
                assert!(matches!(pod.ear.ask(&Request::Hello { version: VERSION }), Reply::Hello(_)));
            }
            Err(e) => {
                assert!(matches!(e.errno(), rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET), "{e}");
                break;
            }
        }
        assert!(full < 100_000, "never dropped");
    }
    assert_eq!(pod.run("c", "exit 4").exit_code, 4);
}

#[test]
fn a_runtime_may_end_before_the_helper_that_forked_the_container() {
    let pod = Pod::new();
    // The helper stays until the runtime has been reaped, the container until it is killed.
    let helper = "(sleep 100000 & echo $! >$pid_file.new; mv $pid_file.new $pid_file; \
        while kill -0 $$ 2>/dev/null; do :; done) & until [ -e $pid_file ]; do :; done";
    let mut request = pod.bundle("c", "", |_| {});
    request.runtime = pod.fake_runtime("forks-twice", helper);
    let process = pod.start_with(request);
    pidfd::Process::open_exact(process.pid, process.start_time).unwrap().signal(15).unwrap();
    let record = pod.ear.exited("c");
    assert_eq!((record.exit_code, record.signal), (143, Some(15)));
    // One that never ends: the time limit counts for it, too.
    let helper = "(sleep 100000 & echo $! >$pid_file.new; mv $pid_file.new $pid_file; sleep 100000) & \
        until [ -e $pid_file ]; do :; done";
    let mut request = pod.bundle("d", "", |_| {});
    (request.runtime, request.timeout_ms) = (pod.fake_runtime("helper-stays", helper), 300);
    assert_eq!(pod.failure(&Request::Start(request)).kind, ErrorKind::Timeout);
}
