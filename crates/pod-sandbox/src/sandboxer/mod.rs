//! Ways to make a sandbox, one per kind of OCI runtime.
//!
//! Most runtimes put containers into namespaces that the pod's pause child holds
//! ([`SandboxerKind::Namespaces`]); everything else in this crate is written for them. A runtime with a
//! kernel of its own (gVisor) needs more, and can do less: [`SandboxerKind::OciSandbox`]. What differs is
//! here: `sandbox` starts, tells and ends the sandbox, `limits` says what is refused, `call` runs the
//! runtime. The pause child stays in both cases: it holds the network namespace, which is connected
//! before the sandbox starts, because gVisor takes over addresses and routes at that time.

pub(crate) mod call;
mod limits;
mod root;
mod sandbox;

pub(crate) use limits::{check_container, check_pod};
pub(crate) use root::{PAUSE_ROOT, prepare_pause_root};
pub(crate) use sandbox::SANDBOX_EXITED;

use serde::{Deserialize, Serialize};

/// How the handler of a pod makes its sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxerKind {
    /// Containers join the namespaces that the pause child holds; their processes are the host's.
    #[default]
    Namespaces,
    /// The runtime first makes a container that is the sandbox; the others join it by its id, through
    /// annotations. Their processes are not the host's: only the runtime can signal them or tell their end.
    OciSandbox,
}

/// Cgroup of the sandbox itself, with all its containers' processes in it; named as node agents know
/// pause containers.
pub(crate) fn sandbox_cgroup(record: &crate::PodRecord) -> String {
    format!("{}/crio-{}", record.cgroup_parent.trim_end_matches('/'), record.id)
}
