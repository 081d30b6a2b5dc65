//! What subscribers to events are told.

use gantry_cri_api::v1::{ContainerEventResponse, ContainerEventType, ContainerState, PodSandboxState};
use gantry_e2e::{BUSYBOX, Events, Rpc, Stage, wait_file};
use serde_json::json;
use std::process::Stdio;

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};

/// Takes the next event, which must be this one.
#[track_caller]
fn expect(events: &mut Events<'_>, id: &str, kind: ContainerEventType) -> ContainerEventResponse {
    let event = events.receive().expect("an event, not the end");
    assert_eq!((event.container_id.as_str(), event.container_event_type()), (id, kind), "{event:?}");
    event
}

#[test]
fn the_life_of_a_pod_is_told_to_all_in_order() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let rpcs = [Rpc::connect(&daemon.socket()), Rpc::connect(&daemon.socket())];
    let mut all: Vec<Events<'_>> = rpcs.iter().map(Rpc::events).collect();
    let local = Rpc::connect(&daemon.dir().join("local.sock"));
    let _others = local.events();

    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let id = crictl.start(&pod_id, &stage.container("c", "exit 3", json!({})), &pod);
    crictl.wait_exited(&id);
    let kept = crictl.create(&pod_id, &stage.container("kept", "exec sleep 1000", json!({})), &pod);
    crictl.ok(&["rm", &id]);
    crictl.ok(&["stopp", &pod_id]);
    crictl.ok(&["rmp", &pod_id]);
    for events in &mut all {
        let made = expect(events, &pod_id, Created);
        let status = made.pod_sandbox_status.as_ref().unwrap();
        assert_eq!(status.metadata.as_ref().unwrap().uid, "uid-p");
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        expect(events, &pod_id, Started);
        let created = expect(events, &id, Created);
        assert_eq!(created.containers_statuses[0].state(), ContainerState::ContainerCreated);
        let started = expect(events, &id, Started);
        let stopped = expect(events, &id, Stopped);
        let exit = &stopped.containers_statuses[0];
        assert_eq!((exit.exit_code, exit.reason.as_str()), (3, "Error"), "{stopped:?}");
        assert!(made.created_at > 0 && started.created_at <= stopped.created_at);
        expect(events, &kept, Created);
        let gone = expect(events, &id, Deleted);
        let left: Vec<&str> = gone.containers_statuses.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(left, [&kept], "the one that is gone is not in its pod any more");
        expect(events, &pod_id, Stopped);
        // It never ran, so it did not stop.
        expect(events, &kept, Deleted);
        let end = expect(events, &pod_id, Deleted);
        let status = end.pod_sandbox_status.unwrap();
        assert_eq!(status.metadata.as_ref().unwrap().uid, "uid-p");
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    }
    drop(all);
    daemon.end();
    stage.end();
}

#[test]
fn what_happens_without_a_subscriber_or_without_a_daemon_is_told_afterwards() {
    let stage = Stage::new();
    let mut daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let (pod_id, [ends, stays, goes]) = {
        let rpc = Rpc::connect(&daemon.socket());
        let mut events = rpc.events();
        let pod_id = crictl.runp("", &pod);
        let start = |name: &str| {
            let container = stage.container(name, "exec sleep 100000", json!({}));
            crictl.start(&pod_id, &container, &pod)
        };
        let ids = ["ends", "stays", "goes"].map(start);
        expect(&mut events, &pod_id, Created);
        expect(&mut events, &pod_id, Started);
        for id in &ids {
            expect(&mut events, id, Created);
            expect(&mut events, id, Started);
        }
        (pod_id, ids)
    };
    // The daemon has noticed that its only subscriber is gone.
    let left =
        |log: &str| log.lines().any(|l| l.contains("GetContainerEvents") && l.contains("call answered"));
    wait_file(&daemon.dir().join("log"), "the subscription has ended", left);
    crictl.ok(&["rm", "-f", &goes]);
    {
        let rpc = Rpc::connect(&daemon.socket());
        let mut events = rpc.events();
        expect(&mut events, &goes, Deleted);
        expect(&mut events, &pod_id, Started);
        let mut running = [&ends, &stays];
        running.sort();
        for id in running {
            expect(&mut events, id, Started);
        }
        // A daemon that stops does not wait for those who listen.
        assert!(daemon.terminate().success(), "{}", daemon.log());
        assert!(events.receive().is_none());
        assert!(!daemon.log().contains("calls were still running"), "{}", daemon.log());
    }
    let pid = {
        let record = daemon.run_dir().join("pods").join(&pod_id).join(&ends).join("record.json");
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        i32::try_from(record["process"]["pid"].as_i64().unwrap()).unwrap()
    };
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let exit = daemon.run_dir().join("pods").join(&pod_id).join(&ends).join("exit.json");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_file(&exit, "its end is on record", |text| !text.is_empty());
    daemon.restart();
    let rpc = Rpc::connect(&daemon.socket());
    let mut events = rpc.events();
    expect(&mut events, &pod_id, Started);
    let mut both = [(&ends, Stopped), (&stays, Started)];
    both.sort_by_key(|(id, _)| *id);
    for (id, kind) in both {
        expect(&mut events, id, kind);
    }
    crictl.remove_all();
    drop(events);
    daemon.end();
    stage.end();
}

#[test]
fn crictl_shows_events() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let pod = stage.pod("p", json!({}));
    let pod_id = crictl.runp("", &pod);
    let output = stage.dir().join("shown");
    let file = std::fs::File::create(&output).unwrap();
    let mut shown =
        crictl.command(&["events", "-o", "json"]).stdout(file).stderr(Stdio::null()).spawn().unwrap();
    // Nobody was told of the pod yet.
    wait_file(&output, "the pod is shown", |text| text.contains(&pod_id));
    let id = crictl.start(&pod_id, &stage.container("c", "exit 0", json!({})), &pod);
    let text = wait_file(&output, "the end is shown", |text| text.contains("CONTAINER_STOPPED_EVENT"));
    assert!(text.contains(&id) && text.contains("CONTAINER_CREATED_EVENT"), "{text}");
    shown.kill().unwrap();
    shown.wait().unwrap();
    crictl.remove_all();
    daemon.end();
    stage.end();
}
