#![forbid(unsafe_code)]
//! Pods and containers as state machines: what the CRI's RuntimeService means, without gRPC.
//!
//! [`Engine`] is the entrance. Each sandbox has a monitor process that holds its namespaces and its
//! containers' output; records and undo journals on the run tmpfs let a new daemon take over at any
//! point ([`Engine::open`]). The rooms: `pod/` and `container/` hold the operations, `spec/` turns a
//! CRI configuration into an OCI one (pure), `handler` knows the OCI runtimes, `sandboxer/` what differs
//! for those with a kernel of their own.

mod apparmor;
mod cdi;
mod container;
mod engine;
mod error;
mod events;
mod exec;
#[cfg(debug_assertions)]
mod fault;
mod flight;
pub mod handler;
mod host;
mod id;
mod journal;
mod lists;
mod metrics;
mod monitor;
mod orphans;
mod pod;
mod pod_files;
mod policy;
mod record;
mod recovery;
mod sampler;
mod sandboxer;
mod scope;
mod set_aside;
mod spawner;
pub mod spec;
mod stats;
mod streaming;
mod undo;
mod view;

pub use engine::{Census, Engine, EngineConfig};
pub use error::{Error, Kind, Result};
pub use exec::{ExecOutput, MAX_EXEC_OUTPUT};
pub use lists::Cursor;
pub use metrics::MetricGroup;
pub use policy::{ContainerPolicy, Ulimit};
pub use record::{ContainerRecord, ContainerState, PodRecord, PodState, User};
pub use recovery::RecoveryReport;
pub use sandboxer::SandboxerKind;
pub use scope::CgroupDriver;
pub use streaming::{OnDisconnect, PodEndpoint};

pub use gantry_image_store::Realm;
