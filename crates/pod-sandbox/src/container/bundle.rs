//! The bundle: a container's `config.json`, from its request, its image and its pod.

use super::{Container, paths, relabel};
use crate::engine::Inner;
use crate::error::{Kind, io_error};
use crate::pod::{PodNamespaces, namespace_path};
use crate::record::{ContainerState, User, write_json};
use crate::spec::{
    self, ImageDefaults, Namespaces, Ns, PodFiles, SpecAdjuster, SpecError, SpecInput, UserNs,
};
use crate::{Error, Result};
use gantry_cri_api::v1::{self, NamespaceMode};
use gantry_image_store::Image;
use gantry_monitor_api::Process;
use gantry_stage::Stage;
use gantry_sys::pidfd;
use std::io::Read as _;
use std::path::Path;

/// Longest seccomp profile that is read.
const MAX_PROFILE: u64 = 1 << 20;

/// What was decided while the bundle was written.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) user: User,
    pub(super) stop_signal: i32,
    pub(super) own_pid_namespace: bool,
}

/// Writes `config.json` beside the mounted root filesystem. Blocking: reads the image's files.
pub(super) fn write(
    inner: &Inner,
    container: &Container,
    config: &v1::ContainerConfig,
    image: &Image,
    apparmor_default: Option<&str>,
    labels: Option<&spec::Labels>,
) -> Result<Made> {
    let making = Stage::ContainerSpec.begin();
    let pod = container.pod.record().clone();
    let security = config.linux.as_ref().and_then(|l| l.security_context.clone()).unwrap_or_default();
    let rootfs = container.rootfs();
    let passwd = paths::read_in_root(&rootfs, "etc/passwd")?;
    let group = paths::read_in_root(&rootfs, "etc/group")?;
    let (user, home) = spec::resolve_user(&security, &image.config.user, &passwd, &group)?;
    let profile = spec::localhost_profile(&security).map(read_profile).transpose()?;
    let namespaces = namespaces(inner, container, &security, pod.pause.map(|p| p.pid))?;
    let dir = &container.pod.dir;
    let files = PodFiles {
        hosts: dir.join("hosts"),
        hostname: dir.join("hostname"),
        resolv_conf: dir.join("resolv.conf"),
        shm: container.pod.shm_dir(),
    };
    if let Some(labels) = labels {
        let own = [&files.hosts, &files.hostname, &files.resolv_conf, &files.shm];
        relabel::own(own, &labels.files)?;
        relabel::volumes(&config.mounts, &labels.files, relabel::may_skip(&pod.config))?;
    }
    let hostname = std::fs::read_to_string(&files.hostname).map_err(io_error("read", &files.hostname))?;
    let defaults = ImageDefaults {
        env: image.config.env.clone(),
        entrypoint: image.config.entrypoint.clone(),
        cmd: image.config.cmd.clone(),
        working_dir: image.config.working_dir.clone(),
    };
    let cgroup = container.record().cgroup.clone();
    let with_host_devices = !inner.policy.privileged_without_host_devices.contains(&pod.handler);
    let all_devices = security.privileged && with_host_devices;
    let devices = crate::host::device_nodes(config.devices.iter().map(|d| d.host_path.as_str()), all_devices);
    let injected = crate::cdi::injection(&inner.policy.cdi_spec_dirs, config)?;
    let input = SpecInput {
        pod: &pod.config,
        container: config,
        pod_id: &pod.id,
        hostname: hostname.trim_end(),
        image: &defaults,
        rootfs: &rootfs,
        files: &files,
        namespaces: &namespaces,
        cgroup: &cgroup,
        user: &user,
        home: &home,
        host: &inner.host,
        localhost_seccomp: profile.as_deref(),
        apparmor_default,
        selinux: labels,
        policy: &inner.policy,
        devices: &devices,
        with_host_devices,
    };
    let adjusters: Vec<&dyn SpecAdjuster> = injected.iter().map(|i| i as &dyn SpecAdjuster).collect();
    let document = spec::container_spec(&input, &adjusters)?;
    let asked = config.linux.as_ref().and_then(|l| l.resources.as_ref()).map_or(0, |r| r.oom_score_adj);
    if document["process"]["oomScoreAdj"].as_i64() != Some(asked) {
        crate::host::warn_oom_score(asked);
    }
    drop(making);
    let _writing = Stage::ContainerBundle.begin();
    write_json(&container.dir.join("config.json"), &document)?;
    Ok(Made {
        user,
        stop_signal: spec::stop_signal(config.stop_signal, image.config.stop_signal.as_deref())?,
        own_pid_namespace: namespaces.pid == Ns::New,
    })
}

fn namespaces(
    inner: &Inner,
    container: &Container,
    security: &v1::LinuxContainerSecurityContext,
    pause: Option<i32>,
) -> Result<Namespaces> {
    let asked = PodNamespaces::of(&container.pod.record());
    let pause =
        pause.ok_or_else(|| Error::new(Kind::FailedPrecondition, "its sandbox has no pause child"))?;
    let join = |host: bool, kind: &str| match host {
        true => Ns::Host,
        false => Ns::Join(namespace_path(pause, kind)),
    };
    // The container's own word on its PID namespace counts where it gives one; the kubelet says the
    // same on the pod and on its containers, but for TARGET (debug containers).
    let mode = match &security.namespace_options {
        Some(options) => NamespaceMode::try_from(options.pid).unwrap_or(NamespaceMode::Pod),
        None if asked.shared_pid => NamespaceMode::Pod,
        None if asked.host_pid => NamespaceMode::Node,
        None => NamespaceMode::Container,
    };
    let pid = match mode {
        // In a sandbox with a kernel of its own all but the network is the sandbox's own.
        NamespaceMode::Pod if container.pod.is_sandboxed() && asked.shared_pid => Ns::Host,
        NamespaceMode::Container => Ns::New,
        NamespaceMode::Node => Ns::Host,
        NamespaceMode::Pod if asked.shared_pid => join(false, "pid"),
        // The pod has no PID namespace to share.
        NamespaceMode::Pod => Ns::New,
        NamespaceMode::Target => {
            let process = target(inner, container, security)?;
            Ns::Join(namespace_path(process.pid, "pid"))
        }
    };
    let user = crate::pod::user_namespace::wanted(&container.pod.record())?;
    let own = security.namespace_options.as_ref().and_then(|o| o.userns_options.as_ref());
    if user.is_none() && own.is_some_and(|u| u.mode == i32::from(NamespaceMode::Pod)) {
        let message = "it asks for the user namespace of its sandbox, which has none of its own";
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    if container.pod.is_sandboxed() {
        return Ok(Namespaces { net: join(false, "net"), ipc: Ns::New, uts: Ns::New, pid, user: None });
    }
    Ok(Namespaces {
        user: user.map(|maps| UserNs { path: namespace_path(pause, "user"), maps }),
        net: join(asked.host_network, "net"),
        ipc: join(asked.host_ipc, "ipc"),
        uts: join(asked.host_network, "uts"),
        pid,
    })
}

/// The process whose PID namespace a container asks to join (CRI: `NamespaceOption.target_id`).
///
/// # Errors
///
/// [`Kind::FailedPrecondition`] unless it runs in the same sandbox: the number of a process that has ended
/// may be another's by now.
pub(super) fn target(
    inner: &Inner,
    container: &Container,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Process> {
    let wanted = security.namespace_options.as_ref().map_or("", |o| o.target_id.as_str());
    let target = inner.container(container.pod.realm, wanted)?;
    let record = target.record();
    let runs = |p: &Process| {
        record.state == ContainerState::Running
            && pidfd::Process::open_exact(p.pid, p.start_time).is_ok_and(|p| !p.has_exited())
    };
    record.process.filter(|_| target.pod.id == container.pod.id).filter(runs).ok_or_else(|| {
        let message = format!("target container {} does not run in this sandbox", target.id);
        Error::new(Kind::FailedPrecondition, message)
    })
}

fn read_profile(path: &str) -> Result<String> {
    let bad = |why: String| Error::new(Kind::InvalidArgument, format!("seccomp profile {path:.256}: {why}"));
    if !path.starts_with('/') {
        return Err(bad("the path must be absolute".into()));
    }
    let file = std::fs::File::open(Path::new(path)).map_err(|e| bad(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_PROFILE).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    Ok(text)
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        Self::new(Kind::InvalidArgument, error.to_string())
    }
}
