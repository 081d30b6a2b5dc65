//! What happens to a container after it was created: signals, freezing, limits, deletion.

use crate::adapt::Host;
use crate::create::container_error;
use crate::error::{Error, Result};
use crate::record::{Entry, Record, Status, read_bounded};
use crate::{adapt, report};
use gantry_cgroup::{Cgroup, Hierarchies, Layout};
use gantry_sys::pidfd::Process;
use libcgroups::common::{CgroupConfig, CgroupManager as _, ControllerOpt, create_cgroup_manager};
use libcontainer::config::YoukiConfig;
use libcontainer::container::Container;
use libcontainer::oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// How long killed processes may take to be gone when a container is deleted.
const KILL_LIMIT: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;

/// Sends a signal to a container's init, or to all its processes.
pub(crate) fn kill(root: &Path, args: &crate::cli::Kill) -> Result<()> {
    let entry = Entry::open(root, &args.container_id)?;
    let signal = signal_number(&args.signal)?;
    let record = entry.load_created()?;
    let init = record.living_init();
    if args.all {
        return kill_all(&record, signal);
    }
    let init = init.ok_or_else(|| Error::NotRunning(args.container_id.clone()))?;
    let gone = |e: gantry_sys::Error| match e.errno() {
        rustix::io::Errno::SRCH => Error::NotRunning(args.container_id.clone()),
        _ => e.into(),
    };
    init.signal(signal).map_err(gone)?;
    if signal == SIGKILL {
        thaw(&record)?;
    }
    Ok(())
}

/// A process frozen on v1 does not even die; on v2 it does.
fn thaw(record: &Record) -> Result<()> {
    set_frozen(record, &Hierarchies::detect()?, false)
}

fn set_frozen(record: &Record, hierarchies: &Hierarchies, frozen: bool) -> Result<()> {
    let Some(cgroup) = record.cgroup()? else { return Ok(()) };
    let (controller, name, states) = match hierarchies.layout() {
        Layout::V1 => ("freezer", "freezer.state", ["THAWED", "FROZEN"]),
        Layout::V2 => ("", "cgroup.freeze", ["0", "1"]),
    };
    let Some(dir) = cgroup.controller_dir(hierarchies, controller) else { return Ok(()) };
    let path = dir.join(name);
    match std::fs::write(&path, states[usize::from(frozen)]) {
        // Removed meanwhile, with everything that was in it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(crate::error::file("write", &path)),
    }
}

fn kill_all(record: &Record, signal: i32) -> Result<()> {
    let Some(cgroup) = record.cgroup()? else { return Ok(()) };
    let hierarchies = Hierarchies::detect()?;
    let frozen_before = is_frozen(&cgroup, &hierarchies);
    // So that nothing forks away from the walk.
    set_frozen(record, &hierarchies, true)?;
    let sent: Result<()> = cgroup.pids().map_err(Error::from).map(|pids| {
        for process in pids.into_iter().filter_map(|pid| Process::open(pid).ok()) {
            // Gone (ESRCH) since it was listed: nothing to send to.
            let _gone = process.signal(signal);
        }
    });
    if !frozen_before || signal == SIGKILL {
        set_frozen(record, &hierarchies, false)?;
    }
    sent
}

fn is_frozen(cgroup: &Cgroup, hierarchies: &Hierarchies) -> bool {
    let (controller, name, frozen) = match hierarchies.layout() {
        Layout::V1 => ("freezer", "freezer.state", "FROZEN"),
        Layout::V2 => ("", "cgroup.freeze", "1"),
    };
    let dir = cgroup.controller_dir(hierarchies, controller);
    dir.and_then(|d| std::fs::read_to_string(d.join(name)).ok()).is_some_and(|s| s.trim() == frozen)
}

/// Takes away everything of a container; with `force` also one that runs, is half made, or is gone.
pub(crate) fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    let entry = match Entry::open(root, id) {
        Err(Error::Unknown(_)) if force => return Ok(()),
        other => other?,
    };
    let _locked = match entry.lock() {
        Err(Error::Unknown(_)) if force => return Ok(()),
        other => other?,
    };
    let record = entry.load()?;
    let status = entry.status(record.as_ref());
    if !force && !matches!(status, Status::Stopped | Status::Created) {
        let what = "stop it first, or delete it with --force";
        return Err(Error::State { id: id.into(), state: status.name(), what });
    }
    if let Some(record) = &record {
        if let Some(init) = record.living_init() {
            init.signal(SIGKILL)?;
        }
        if let Some(cgroup) = record.cgroup()? {
            // Also what outlived init: in a shared pid namespace its children do.
            cgroup.kill(KILL_LIMIT)?;
            cgroup.remove()?;
        }
        wait_for_end(record);
        run_poststop_hooks(&entry, record);
    }
    entry.remove()
}

/// Init is in no cgroup of its own if `create` was killed early; it must be gone all the same.
fn wait_for_end(record: &Record) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    if let Some(init) = record.living_init() {
        let limit = Timespec { tv_sec: KILL_LIMIT.as_secs() as i64, tv_nsec: 0 };
        // A process stuck in the kernel is reported by the cgroup's kill, before.
        let _interrupted = poll(&mut [PollFd::new(&init, PollFlags::IN)], Some(&limit));
    }
}

/// A hook that fails is told about and does not keep the container, as the specification says.
fn run_poststop_hooks(entry: &Entry, record: &Record) {
    let Ok(config) = YoukiConfig::load(entry.library_dir()) else { return };
    let Some(hooks) = config.hooks else { return };
    let Ok(mut container) = Container::load(entry.library_dir()) else { return };
    container.state.bundle.clone_from(&record.bundle);
    let run =
        libcontainer::hooks::run_hooks(hooks.poststop().as_ref(), Some(&container.state), None, None, None);
    if let Err(e) = run {
        report::warning(&format!("poststop hook of container {:?}: {e}", record.id));
    }
}

/// Freezes (`true`) or thaws a container.
pub(crate) fn freeze(root: &Path, id: &str, frozen: bool) -> Result<()> {
    let entry = Entry::open(root, id)?;
    let _locked = entry.lock()?;
    let record = entry.load_created()?;
    let (wanted, what) = if frozen {
        (Status::Running, "only a running one can be paused")
    } else {
        (Status::Paused, "only a paused one can be resumed")
    };
    let status = entry.status(Some(&record));
    if status != wanted {
        return Err(Error::State { id: id.into(), state: status.name(), what });
    }
    let doing = if frozen { "pause" } else { "resume" };
    let failed = |e: libcontainer::error::LibcontainerError| container_error(doing, id, &e);
    let mut container = Container::load(entry.library_dir()).map_err(failed)?;
    if frozen { container.pause() } else { container.resume() }.map_err(failed)
}

/// Changes limits of a container.
pub(crate) fn update(root: &Path, args: &liboci_cli::Update) -> Result<()> {
    let id = args.container_id.as_str();
    let entry = Entry::open(root, id)?;
    let _locked = entry.lock()?;
    let record = entry.load_created()?;
    if entry.status(Some(&record)) == Status::Stopped {
        return Err(Error::NotRunning(id.into()));
    }
    let mut resources = match &args.resources {
        Some(path) => resources_from(path)?,
        None => resources_of(args)?,
    };
    let layout = Host::detect()?.layout();
    adapt::refuse_resources(&resources, layout)?;
    adapt::no_swap(&mut resources, layout);
    let failed = |why: String| Error::Container { doing: "update", id: id.into(), why };
    let config = YoukiConfig::load(entry.library_dir()).map_err(|e| failed(e.to_string()))?;
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: config.cgroup_path,
        systemd_cgroup: record.systemd,
        container_name: id.into(),
    })
    .map_err(|e| failed(e.to_string()))?;
    let options = ControllerOpt {
        resources: &resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    manager.apply(&options).map_err(|e| failed(e.to_string()))
}

fn resources_from(path: &Path) -> Result<LinuxResources> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().take(crate::record::FILE_LIMIT).read_to_end(&mut bytes);
        read.map_err(crate::error::file("read", Path::new("standard input")))?;
        bytes
    } else {
        read_bounded(path)?
    };
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.into(), source })
}

fn resources_of(args: &liboci_cli::Update) -> Result<LinuxResources> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        return Err(crate::error::unsupported("update of Intel RDT schemata"));
    }
    if args.blkio_weight.is_some() {
        return Err(Error::Usage("--blkio-weight: give it as --resources FILE".into()));
    }
    let signed = |number: Option<u64>| number.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(args.cpu_share)
        .set_quota(signed(args.cpu_quota))
        .set_period(args.cpu_period)
        .set_realtime_period(args.cpu_rt_period)
        .set_realtime_runtime(signed(args.cpu_rt_runtime))
        .set_cpus(args.cpuset_cpus.clone())
        .set_mems(args.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(signed(args.memory))
        .set_reservation(signed(args.memory_reservation))
        .set_swap(args.memory_swap);
    let mut resources = LinuxResources::default();
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    if let Some(limit) = args.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// A signal by name (with or without SIG) or number, real-time ones included.
fn signal_number(text: &str) -> Result<i32> {
    let unknown =
        || Error::Usage(format!("kill: unknown signal {text:?}; give a name or a number from 1 to 64"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C library keeps 32 and 33 for itself: RTMIN is 34.
    for (base, sign, start) in [("RTMIN", "+", 34), ("RTMAX", "-", 64)] {
        if let Some(rest) = name.strip_prefix(base) {
            let offset = match rest.strip_prefix(sign) {
                Some(digits) => digits.parse::<i32>().map_err(|_| unknown())?,
                None if rest.is_empty() => 0,
                None => return Err(unknown()),
            };
            let number = if sign == "+" { start + offset } else { start - offset };
            return if (34..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
        }
    }
    let aliased = match name {
        "IOT" => "ABRT",
        "POLL" => "IO",
        "CLD" => "CHLD",
        other => other,
    };
    let signal: nix::sys::signal::Signal = format!("SIG{aliased}").parse().map_err(|_| unknown())?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, want) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("BUS", 7),
            ("SIGPOLL", 29),
            ("SIGIOT", 6),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-14", 50),
            ("64", 64),
        ] {
            assert_eq!(signal_number(text).unwrap(), want, "{text}");
        }
        for bad in ["0", "65", "-1", "", "SIG", "NOPE", "RTMIN+31", "RTMAX+1", "RTMIN3"] {
            assert!(signal_number(bad).is_err(), "{bad}");
        }
    }
}
