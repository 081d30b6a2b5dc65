//! From the caller's configuration to one that libcontainer carries out correctly on this host.
//!
//! Three things happen to a configuration. What libcontainer cannot do is refused, before anything
//! is made. What it does wrongly or not at all is taken out and put into the [`Payload`], which does
//! it inside the container: capabilities, seccomp, mount propagation, read-only paths, the working
//! directory and the environment. And what this host forbids (raising limits, lowering
//! oom_score_adj, capabilities outside of the bounding set) is cut to what it allows, with a
//! warning each. `docs/handlers.md` lists all of it.

use crate::confine::{Capabilities, MountFix, Payload};
use crate::error::{Error, Result};
use crate::seccomp::Filter;
use caps::{CapSet, CapsHashSet};
use gantry_cgroup::{Hierarchies, Layout};
use libcontainer::capabilities::CapabilityExt as _;
use libcontainer::oci_spec::runtime::{
    Capabilities as SpecCapabilities, LinuxCapabilities, LinuxDeviceCgroup, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Spec,
};
use rustix::process::Resource;
use std::path::{Path, PathBuf};

mod limits;
mod mounts;
mod refuse;

pub(crate) use limits::no_swap;
pub(crate) use refuse::resources as refuse_resources;

/// What this host allows.
#[derive(Debug)]
pub(crate) struct Host {
    capabilities: CapsHashSet,
    /// `CAP_SYS_RESOURCE`: raise hard limits and lower oom_score_adj.
    raise_limits: bool,
    hierarchies: Hierarchies,
}

impl Host {
    /// Looks at the process that we are and at the cgroup mounts.
    pub(crate) fn detect() -> Result<Self> {
        let read =
            |set| caps::read(None, set).map_err(|e| Error::Invalid(format!("read own capabilities: {e}")));
        let capabilities = &read(CapSet::Bounding)? & &read(CapSet::Permitted)?;
        let raise_limits = capabilities.contains(&caps::Capability::CAP_SYS_RESOURCE);
        Ok(Self { capabilities, raise_limits, hierarchies: Hierarchies::detect()? })
    }

    /// v1 (also hybrid) or v2.
    pub(crate) fn layout(&self) -> Layout {
        self.hierarchies.layout()
    }

    /// Mounted hierarchies.
    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }
}

/// A container ready to be made.
#[derive(Debug)]
pub(crate) struct Plan {
    /// For libcontainer.
    pub(crate) spec: Spec,
    /// For the container's first process.
    pub(crate) payload: Payload,
    /// Root file system, absolute.
    pub(crate) rootfs: PathBuf,
    /// Path below the root of each hierarchy; `None` where systemd chooses it.
    pub(crate) cgroup: Option<String>,
    /// Rules to enforce by BPF: on cgroup v2.
    pub(crate) devices: Option<Vec<LinuxDeviceCgroup>>,
}

impl Plan {
    /// Adapts the configuration of container `id`, whose bundle is the absolute path `bundle`.
    pub(crate) fn new(mut spec: Spec, id: &str, bundle: &Path, systemd: bool, host: &Host) -> Result<Self> {
        refuse::spec(&spec, systemd, host)?;
        let missing = |what: &str| Error::Invalid(format!("{what} is missing"));
        let mut linux = spec.linux().clone().ok_or_else(|| missing("linux"))?;
        let process = spec.process().clone().ok_or_else(|| missing("process"))?;
        let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
        let rootfs = bundle.join(root.path());
        let rootfs = rootfs.canonicalize().map_err(crate::error::file("resolve root.path", &rootfs))?;

        let cgroup = if systemd { None } else { Some(cgroup_path(linux.cgroups_path().as_deref(), id)?) };
        if let Some(path) = &cgroup {
            linux.set_cgroups_path(Some(path.into()));
        }
        let seccomp = linux.seccomp().as_ref().map(Filter::compile).transpose()?;
        linux.set_seccomp(None);
        let propagation = linux.rootfs_propagation().as_deref().map(|p| p.strip_prefix('r').unwrap_or(p));
        let propagation = propagation.map(str::to_owned);
        linux.set_rootfs_propagation(propagation);

        let mut adapted = mounts::adapt(spec.mounts().iter().flatten(), bundle, cgroup.as_deref(), host);
        let readonly = linux.readonly_paths().iter().flatten();
        adapted.fixes.extend(readonly.map(|p| MountFix::ReadOnly(p.into())));
        linux.set_readonly_paths(None);
        let devices = (host.layout() == Layout::V2)
            .then(|| linux.resources().as_ref().and_then(|r| r.devices().clone()).unwrap_or_default());

        if let Some(mut resources) = linux.resources().clone() {
            no_swap(&mut resources, host.layout());
            linux.set_resources(Some(resources));
        }

        let (process, mut payload) = adapt_process(process, seccomp, true, host)?;
        payload.mounts = adapted.fixes;
        let mut root = root.clone();
        root.set_path(rootfs.clone());
        spec.set_root(Some(root)).set_linux(Some(linux)).set_process(Some(process));
        spec.set_mounts(Some(adapted.mounts));
        Ok(Self { spec, payload, rootfs, cgroup, devices })
    }
}

/// Splits a process into what libcontainer sets up and what the [`Payload`] does.
pub(crate) fn adapt_process(
    mut process: Process,
    seccomp: Option<Filter>,
    is_init: bool,
    host: &Host,
) -> Result<(Process, Payload)> {
    refuse::process(&process)?;
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(Error::Invalid("process.args is empty; name a program".into()));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(passed_sockets());
    let payload = Payload {
        is_init,
        args,
        env: env.clone(),
        cwd: process.cwd().clone(),
        uid: process.user().uid(),
        capabilities: capabilities(process.capabilities().as_ref(), host),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp,
        mounts: Vec::new(),
    };
    if !env.iter().any(|e| e.len() > "HOME=".len() && e.starts_with("HOME=")) {
        // Without a home directory libcontainer asks libc for one, which would load name service
        // libraries of the container's file system with all privileges. The payload finds the real one.
        env.push("HOME=/".into());
    }
    process.set_env(Some(env));
    process.set_cwd("/".into());
    process.set_capabilities(None);
    let limits = process.rlimits().as_ref().map(|all| all.iter().map(|l| limit(*l, host)).collect());
    process.set_rlimits(limits);
    process.set_oom_score_adj(process.oom_score_adj().filter(|score| oom_score_is_allowed(*score)));
    Ok((process, payload))
}

/// libcontainer passes on the descriptors of socket activation; this tells the program of them.
fn passed_sockets() -> Vec<String> {
    let count = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<i32>().ok()).filter(|n| *n > 0);
    count.map(|n| vec![format!("LISTEN_FDS={n}"), "LISTEN_PID=1".into()]).unwrap_or_default()
}

/// The sets asked for, cut to what this host allows; none asked for means none.
fn capabilities(asked: Option<&LinuxCapabilities>, host: &Host) -> Capabilities {
    let Some(asked) = asked else { return Capabilities::default() };
    let mut missing = CapsHashSet::new();
    let mut cut = |set: &Option<SpecCapabilities>| -> CapsHashSet {
        let set: CapsHashSet = set.iter().flatten().map(|c| c.to_cap()).collect();
        missing.extend(set.difference(&host.capabilities));
        &set & &host.capabilities
    };
    let bounding = cut(asked.bounding());
    let permitted = cut(asked.permitted());
    let effective = &cut(asked.effective()) & &permitted;
    let inheritable = &cut(asked.inheritable()) & &bounding;
    let ambient = cut(asked.ambient());
    if !missing.is_empty() {
        let mut names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        let names = names.join(", ");
        crate::report::warning(&format!("this host does not allow the capabilities {names}; left out"));
    }
    Capabilities { bounding, effective, permitted, inheritable, ambient }
}

/// Tries the score on this process, from which the container's inherits it anyway.
fn oom_score_is_allowed(score: i32) -> bool {
    let file = "/proc/self/oom_score_adj";
    match std::fs::write(file, score.to_string()) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let now = std::fs::read_to_string(file).unwrap_or_default();
            crate::report::warning(&format!(
                "this host does not allow oom_score_adj {score} (CAP_SYS_RESOURCE is missing); it stays {}",
                now.trim()
            ));
            false
        }
        // Anything else fails again in libcontainer, with its own words.
        _ => true,
    }
}

fn limit(asked: PosixRlimit, host: &Host) -> PosixRlimit {
    // RLIM_INFINITY is the largest number on both sides.
    let ceiling = rustix::process::getrlimit(resource(asked.typ())).maximum.unwrap_or(u64::MAX);
    if host.raise_limits || asked.hard() <= ceiling {
        return asked;
    }
    crate::report::warning(&format!(
        "this host does not allow the hard limit {} for {} (CAP_SYS_RESOURCE is missing); it stays {ceiling}",
        asked.hard(),
        asked.typ()
    ));
    let cut = PosixRlimitBuilder::default().typ(asked.typ()).hard(ceiling).soft(asked.soft().min(ceiling));
    // A builder whose fields all have defaults does not fail.
    cut.build().unwrap_or(asked)
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// `linux.cgroupsPath` as a path below the root of each hierarchy; `/<id>` when there is none.
fn cgroup_path(asked: Option<&Path>, id: &str) -> Result<String> {
    let Some(asked) = asked.filter(|p| !p.as_os_str().is_empty()) else { return Ok(format!("/{id}")) };
    let text = asked.to_str().ok_or_else(|| Error::Invalid(format!("cgroupsPath {asked:?} is no text")))?;
    Ok(format!("/{}", text.trim_matches('/')))
}
