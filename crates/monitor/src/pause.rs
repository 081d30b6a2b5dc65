//! The pause child: holds the pod's namespaces, and gives nothing to who looks at it.
//!
//! With a shared PID namespace it is PID 1 in front of the containers. Before anything else runs in the
//! pod it has an empty read-only root, no descriptors, no capabilities, no user that owns anything, and
//! cannot be dumped or traced by its own uid.

use gantry_monitor_api::{IdMap, Setup, UserNamespace};
use gantry_sys::fork::{NewNamespaces, close_from, fork_into, loopback_up};
use nix::sys::signal::{SigSet, Signal};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Signal as KernelSignal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::fmt::Display;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

/// User and group of the pause child: nobody's, on every distribution.
const NOBODY: u32 = 65535;

/// What the child says when it is hardened; anything else is an error message.
const READY: &[u8] = b"ready";

/// Forks the pause child and waits until it is hardened. Returns its pid.
pub(crate) fn start(setup: &Setup) -> Result<i32, String> {
    let (mut reader, writer) = std::io::pipe().map_err(|e| format!("pipe for the pause child: {e}"))?;
    let wanted = &setup.namespaces;
    let namespaces = NewNamespaces {
        user: setup.user_namespace.is_some(),
        net: wanted.net,
        ipc: wanted.ipc,
        uts: wanted.uts,
        pid: wanted.pid,
        mount: true,
    };
    let (go, mapped) = std::io::pipe().map_err(|e| format!("pipe to the pause child: {e}"))?;
    let pid = fork_into(namespaces, || child(setup, writer, go)).map_err(|e| format!("pause child: {e}"))?;
    // Forbidden where the host's root lacks CAP_SYS_RESOURCE; the pod works all the same. Root of a user
    // namespace is never allowed to: it is done from here.
    let adjust = setup.pause_oom_score_adj.to_string();
    if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), &adjust) {
        crate::note(format_args!("pause: oom_score_adj {adjust} not set, going on: {error}"));
    }
    if let Some(user) = &setup.user_namespace
        && let Err(error) = write_maps(pid, user, mapped)
    {
        // It waits for its maps and has nothing yet; its end is seen by who reaps.
        let _gone = rustix::process::Pid::from_raw(pid)
            .map(|pid| rustix::process::kill_process(pid, KernelSignal::KILL));
        return Err(error);
    }
    let said = read(&mut reader);
    if said == READY {
        return Ok(pid);
    }
    let words = String::from_utf8_lossy(&said);
    Err(match words.trim() {
        "" => "the pause child died while it was set up".to_owned(),
        words => format!("pause child: {words}"),
    })
}

/// Gives the child its identity, which only a process outside of its user namespace can, and tells it.
fn write_maps(pid: i32, user: &UserNamespace, mut tell: PipeWriter) -> Result<(), String> {
    for (file, maps) in [("uid_map", &user.uids), ("gid_map", &user.gids)] {
        let path = Path::new("/proc").join(pid.to_string()).join(file);
        std::fs::write(&path, IdMap::lines(maps)).map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    tell.write_all(&[1]).map_err(|e| format!("tell the pause child of its maps: {e}"))
}

/// Until the child closes its end, which it does when it is ready or gone. The writer's copy in this
/// process went into the closure of the fork and was dropped with it.
fn read(reader: &mut PipeReader) -> Vec<u8> {
    let mut said = Vec::new();
    // A failed read leaves what was said so far.
    let _partial = reader.take(512).read_to_end(&mut said);
    said
}

fn child(setup: &Setup, mut report: PipeWriter, go: PipeReader) {
    let entered = setup.user_namespace.as_ref().map_or(Ok(()), |_| become_root(go));
    if let Err(error) = entered.and_then(|()| prepare(setup)) {
        let _parent_gone = report.write_all(error.as_bytes());
        std::process::exit(1);
    }
    match harden(setup, &report) {
        Ok(()) => wait_for_ever(report),
        Err(error) => {
            let _parent_gone = report.write_all(error.as_bytes());
            std::process::exit(1);
        }
    }
}

/// Waits until the maps are there, then takes the identity of root in the new user namespace.
fn become_root(mut go: PipeReader) -> Result<(), String> {
    let failed =
        |what: &'static str| move |e: rustix::io::Errno| format!("{what} in the user namespace: {e}");
    go.read_exact(&mut [0]).map_err(|e| format!("wait for the maps of the user namespace: {e}"))?;
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))
}

/// The last identity of the pause child: nobody's, or where the pod's user namespace does not have that
/// one, the last that it has.
fn nobody(maps: Option<&Vec<IdMap>>) -> u32 {
    let Some(maps) = maps else { return NOBODY };
    if IdMap::outside_of(maps, NOBODY).is_some() {
        return NOBODY;
    }
    maps.iter().map(|m| m.inside.saturating_add(m.length.saturating_sub(1))).max().unwrap_or(0)
}

/// What needs rights: the contents of the new namespaces.
fn prepare(setup: &Setup) -> Result<(), String> {
    let failed = |what: &str, e: &dyn Display| format!("{what}: {e}");
    if let Some(name) = &setup.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|e| failed(&format!("sethostname({name})"), &e))?;
    }
    if setup.namespaces.net {
        loopback_up().map_err(|e| failed("loopback", &e))?;
    }
    for (name, value) in &setup.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        if name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
            return Err(format!("sysctl {name:?} is not a name such as net.ipv4.ip_forward"));
        }
        std::fs::write(&path, value).map_err(|e| failed(&format!("sysctl {name}={value}"), &e))?;
    }
    Ok(())
}

/// Gives everything away, in an order in which each step still may do what it must.
fn harden(setup: &Setup, report: &PipeWriter) -> Result<(), String> {
    // Any directory will do to mount on; root of a user namespace cannot enter the pod's own.
    let mount_point = if setup.user_namespace.is_some() { Path::new("/proc") } else { &setup.pod_dir };
    let failed = |what: &'static str| move |e: rustix::io::Errno| format!("{what}: {e}");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(failed("make mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", mount_point, "tmpfs", flags, c"size=4k,nr_inodes=2,mode=0555")
        .map_err(failed("mount the empty root"))?;
    rustix::process::chdir(mount_point).map_err(failed("chdir to the empty root"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("detach the old root"))?;
    rustix::process::chdir("/").map_err(failed("chdir"))?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"")
        .map_err(failed("remount read-only"))?;

    // The report moves to 0, everything else is closed: there is no exec that would close it.
    let kept = report.as_fd().try_clone_to_owned().map_err(|e| format!("dup: {e}"))?;
    rustix::stdio::dup2_stdin(&kept).map_err(failed("dup2"))?;
    drop(kept);

    let user = setup.user_namespace.as_ref();
    let uid = rustix::process::Uid::from_raw(nobody(user.map(|u| &u.uids)));
    let gid = rustix::process::Gid::from_raw(nobody(user.map(|u| &u.gids)));
    for number in 0..=LAST_CAPABILITY {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // A capability that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(format!("drop capability {number} from the bounding set: {e}")),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(failed("clear ambient capabilities"))?;
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).map_err(failed("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("not dumpable"))?;
    // Last: changing the uid would clear it.
    rustix::process::set_parent_process_death_signal(Some(KernelSignal::KILL))
        .map_err(failed("parent death signal"))
}

/// Highest capability number that a kernel may know: the sets are 64 bits wide.
const LAST_CAPABILITY: u32 = 63;

/// Reports, closes the last descriptor, and reaps what is orphaned to it until it is killed.
fn wait_for_ever(report: PipeWriter) -> ! {
    // Owned by nobody from here on: the numbers are closed below, not the value.
    std::mem::forget(report);
    let children = SigSet::from(Signal::SIGCHLD);
    let ready = close_from(1).is_ok()
        && children.thread_block().is_ok()
        // Fails when the monitor died meanwhile: then nobody would ever kill this child.
        && rustix::io::write(rustix::stdio::stdin(), READY).is_ok_and(|n| n == READY.len())
        && close_from(0).is_ok();
    if !ready {
        std::process::exit(1);
    }
    reap_for_ever(children)
}

/// As the first process of a container (`gantry-monitor pause`): keeps it there until it is killed.
pub(crate) fn hold() -> ! {
    let children = SigSet::from(Signal::SIGCHLD);
    if let Err(error) = children.thread_block() {
        crate::note(format_args!("pause: block signals: {error}"));
        std::process::exit(1);
    }
    reap_for_ever(children)
}

fn reap_for_ever(children: SigSet) -> ! {
    loop {
        // Interrupted or not: look whether there is anybody to reap.
        let _signal = children.wait();
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
}
