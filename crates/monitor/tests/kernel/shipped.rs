//! What only the static program promises, built by `make monitor` and named by `GANTRY_MONITOR`:
//! `GANTRY_MONITOR=… cargo test -p gantry-monitor --test kernel -- --ignored --test-threads=1 --nocapture`.

use crate::pod::{NETWORKED, Pod};

/// A field of a process's memory in KiB: `Pss` is its share of what it maps, `Pss_Anon` what it wrote.
fn memory(pid: i32, field: &str) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Mean of the monitors and of the pause children.
fn mean(pods: &[Pod], what: &str) -> (u64, u64) {
    let sum = |pid: fn(&Pod) -> i32, field| {
        pods.iter().map(|p| memory(pid(p), field)).sum::<u64>() / pods.len() as u64
    };
    let monitor: fn(&Pod) -> i32 = |p| p.monitor.id() as i32;
    let (of_monitor, of_pause) = (sum(monitor, "Pss"), sum(Pod::pause, "Pss"));
    let (written, written_too) = (sum(monitor, "Pss_Anon"), sum(Pod::pause, "Pss_Anon"));
    println!(
        "{what}: {} KiB = monitor {of_monitor} ({written} anonymous) + pause child {of_pause} ({written_too})",
        of_monitor + of_pause
    );
    (of_monitor, of_pause)
}

#[test]
#[ignore = "needs the static program: GANTRY_MONITOR"]
fn twenty_monitors_with_their_pause_children_stay_under_a_quarter_of_a_mebibyte_each() {
    assert!(std::env::var_os("GANTRY_MONITOR").is_some(), "name the static program");
    let pods: Vec<Pod> = (0..20).map(|_| Pod::with(NETWORKED, |_| {})).collect();
    let (monitor, pause) = mean(&pods, "idle");
    assert!(monitor + pause < 256);
    for pod in &pods {
        pod.start("c", "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000");
    }
    let (busy, pause) = mean(&pods, "with a container that has written a thousand lines");
    for pod in &pods {
        for n in 1..10 {
            pod.start(&format!("c{n}"), "exec sleep 1000");
        }
    }
    let (more, _) = mean(&pods, "with nine more containers");
    assert!(busy + pause < 256);
    assert!(more < busy + 9 * 8);
}

#[test]
#[ignore = "needs the static program: GANTRY_MONITOR"]
fn the_pause_child_maps_nothing_but_its_sealed_self() {
    assert!(std::env::var_os("GANTRY_MONITOR").is_some(), "name the static program");
    let pod = Pod::new();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", pod.pause())).unwrap();
    let files = maps.lines().filter_map(|l| l.split_once('/').map(|(_, path)| path));
    for file in files {
        assert!(file.starts_with("memfd:gantry-monitor"), "{file} in {maps}");
    }
}
