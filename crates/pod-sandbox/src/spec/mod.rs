//! From a CRI configuration to an OCI one: pure functions, no system calls.
//!
//! [`container_spec`] builds the `config.json` of a bundle (OCI runtime-spec 1.0.2) as a JSON document
//! with a stable order of keys, so that golden files and people can compare two of them. What must be
//! known of the host or read from the image comes in as data ([`SpecInput`]).

mod apparmor;
mod devices;
mod linux;
mod mounts;
mod process;
pub(crate) mod resources;
mod seccomp;
mod selinux;
mod signal;
mod users;

pub(crate) use apparmor::{
    DEFAULT_NAME as DEFAULT_APPARMOR, Wanted as AppArmorWanted, default_text as apparmor_default,
    wanted as apparmor_wanted,
};
pub use devices::HostDevice;
pub(crate) use process::CAPABILITIES;
pub use process::exec_process;
pub(crate) use seccomp::localhost_profile;
pub use selinux::Labels;
pub(crate) use selinux::labels as selinux_labels;
pub use signal::{SIGTERM, cri_signal, stop_signal};
pub use users::resolve_user;

use crate::policy::ContainerPolicy;
use crate::record::User;
use gantry_cri_api::v1;
use gantry_monitor_api::UserNamespace;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Version of the OCI runtime-spec that is written; the newest that every handler reads.
const OCI_VERSION: &str = "1.0.2";

/// A configuration that cannot be carried out: the field, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct SpecError {
    /// The field of the CRI configuration, or the file of the image.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl SpecError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// What the image says about how it is to be run.
#[derive(Debug, Clone, Default)]
pub struct ImageDefaults {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Second part of the command line.
    pub cmd: Vec<String>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
}

/// Where a namespace of the container comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ns {
    /// The host's.
    Host,
    /// A new one, made by the OCI runtime.
    New,
    /// That of another process, by path.
    Join(PathBuf),
}

/// Namespaces of a container; mount namespaces are always new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub net: Ns,
    /// System V IPC and POSIX message queues.
    pub ipc: Ns,
    /// Host name.
    pub uts: Ns,
    /// Process ids.
    pub pid: Ns,
    /// Users; `None` for the host's.
    pub user: Option<UserNs>,
}

/// The pod's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNs {
    /// Where it is.
    pub path: PathBuf,
    /// Its maps.
    pub maps: UserNamespace,
}

/// Files of the pod that every container sees.
#[derive(Debug, Clone)]
pub struct PodFiles {
    /// For `/etc/hosts`.
    pub hosts: PathBuf,
    /// For `/etc/hostname`.
    pub hostname: PathBuf,
    /// For `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// For `/dev/shm`.
    pub shm: PathBuf,
}

/// What must be known of the host.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// Capabilities that a process of this host can have at all (`CAP_…`).
    pub bounding: Vec<String>,
    /// Whether control groups are version 2 alone.
    pub cgroup_v2: bool,
    /// Whether the kernel accounts swap for control groups.
    pub swap_accounting: bool,
    /// Whether the kernel has AppArmor.
    pub apparmor: bool,
    /// Whether the kernel labels with SELinux.
    pub selinux: bool,
    /// Whether there is a hugetlb controller that the OCI runtimes can use.
    pub hugetlb: bool,
    /// Whether the kernel has x32 calls (x86-64 only), which a filter must then speak of.
    pub x32: bool,
}

/// Everything that a bundle's configuration is made of.
#[derive(Debug)]
pub struct SpecInput<'a> {
    /// The sandbox, as the request gave it.
    pub pod: &'a v1::PodSandboxConfig,
    /// The container, as the request gave it.
    pub container: &'a v1::ContainerConfig,
    /// Id of the sandbox.
    pub pod_id: &'a str,
    /// Host name that the container sees.
    pub hostname: &'a str,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// The mounted root filesystem.
    pub rootfs: &'a Path,
    /// The pod's files.
    pub files: &'a PodFiles,
    /// Namespaces.
    pub namespaces: &'a Namespaces,
    /// Cgroup below the root of each hierarchy (or `slice:prefix:name` for systemd).
    pub cgroup: &'a str,
    /// Numeric user, as [`resolve_user`] found it.
    pub user: &'a User,
    /// Home directory of the user, if its image knows one.
    pub home: &'a str,
    /// The host.
    pub host: &'a HostFacts,
    /// Text of the seccomp profile that the request names by path.
    pub localhost_seccomp: Option<&'a str>,
    /// Name of the default AppArmor profile, where it is loaded.
    pub apparmor_default: Option<&'a str>,
    /// SELinux labels, where the kernel labels.
    pub selinux: Option<&'a Labels>,
    /// What holds for every container of the node.
    pub policy: &'a ContainerPolicy,
    /// Device nodes of the host: those that the request names, and all for a privileged container.
    pub devices: &'a [HostDevice],
    /// A privileged container gets all devices of the host; otherwise only those that it asks for.
    pub with_host_devices: bool,
}

/// Something that changes a finished configuration (device injection, plugins).
pub trait SpecAdjuster {
    /// Changes `spec`; an error refuses the container.
    fn adjust(&self, input: &SpecInput<'_>, spec: &mut Value) -> Result<(), SpecError>;
}

/// The OCI configuration of a container.
///
/// # Errors
///
/// What asks for something that the host or the handler cannot give: nothing is silently left out.
pub fn container_spec(input: &SpecInput<'_>, adjusters: &[&dyn SpecAdjuster]) -> Result<Value, SpecError> {
    let linux = input.container.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let mounts = mounts::mounts(input, &security)?;
    let mut linux_part = linux::linux(input, &linux, &security)?;
    if let Some(propagation) = mounts::rootfs_propagation(&input.container.mounts) {
        linux_part["rootfsPropagation"] = json!(propagation);
    }
    if let Some(labels) = input.selinux {
        linux_part["mountLabel"] = json!(labels.files);
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process::process(input, &linux, &security)?,
        "root": {"path": input.rootfs, "readonly": security.readonly_rootfs},
        "mounts": mounts,
        "linux": linux_part,
        "annotations": annotations(input),
    });
    if input.namespaces.uts == Ns::New {
        spec["hostname"] = json!(input.hostname);
    }
    for adjuster in adjusters {
        adjuster.adjust(input, &mut spec)?;
    }
    Ok(spec)
}

/// What tools and sandboxed runtimes look for, and what Kubernetes itself says about the container.
///
/// Other annotations stay with the container's record: OCI runtimes obey some of theirs
/// (`run.oci.*`, `org.systemd.property.*`), and whoever names a pod's annotations is not meant to
/// reach those.
fn annotations(input: &SpecInput<'_>) -> BTreeMap<String, String> {
    let kubernetes = |(key, _): &(&String, &String)| {
        key.split('/')
            .next()
            .is_some_and(|domain| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"))
            || key.starts_with("io.kubernetes.")
    };
    let asked = input.container.annotations.iter().filter(kubernetes);
    let mut all: BTreeMap<String, String> = asked.map(|(k, v)| (k.clone(), v.clone())).collect();
    let container = input.container.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
    let pod = input.pod.metadata.clone().unwrap_or_default();
    for (key, value) in [
        ("container-type", "container"),
        ("container-name", &container),
        ("sandbox-id", input.pod_id),
        ("sandbox-name", &pod.name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
    ] {
        all.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
    }
    all
}
