#![forbid(unsafe_code)]
//! What Gantry asks of systemd: a scope for each pod, in the slice that the kubelet names.
//!
//! systemd owns the tree of control groups on its hosts. A scope that is started with `Delegate=yes` is
//! given away: everything below it is managed through the cgroup file system, so that starting a
//! container costs no call over D-Bus. [`Slice`] knows where a slice lies in the tree, [`Systemd`] starts
//! and stops units, waiting for the end of each job by the signal that systemd sends.

mod client;
mod properties;
mod slice;

pub use client::{Scope, Systemd};
pub use properties::Property;
pub use slice::Slice;

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text names no slice.
    #[error(
        "cgroup parent {0:.256?} is no slice; the systemd driver needs one such as kubepods-burstable.slice"
    )]
    Slice(String),
    /// A limit for which systemd has no property.
    #[error("systemd has no property for the limit {0:.64?} of a pod; set it on the containers instead")]
    NoProperty(String),
    /// A limit that cannot be understood.
    #[error("limit {name} of the pod: {value:.64?} is not understood")]
    BadLimit {
        /// Which limit.
        name: &'static str,
        /// As it was given.
        value: String,
    },
    /// The system bus could not be reached.
    #[error("systemd cannot be reached over D-Bus ({0}); is the system bus running?")]
    Unreachable(#[source] zbus::Error),
    /// The connection broke during a call.
    #[error("{call} {unit}: the connection over D-Bus broke: {source}")]
    Broken {
        /// Method of `org.freedesktop.systemd1.Manager`.
        call: &'static str,
        /// The unit.
        unit: String,
        /// What happened.
        #[source]
        source: zbus::Error,
    },
    /// systemd refused.
    #[error("systemd refused {call} {unit}: {message} ({name})")]
    Refused {
        /// Method of `org.freedesktop.systemd1.Manager`.
        call: &'static str,
        /// The unit.
        unit: String,
        /// Name of the error.
        name: String,
        /// systemd's own words.
        message: String,
    },
    /// systemd took the job and it did not succeed.
    #[error("systemd's job {call} {unit} ended with {result:?}; see journalctl --unit {unit}")]
    Job {
        /// Method of `org.freedesktop.systemd1.Manager`.
        call: &'static str,
        /// The unit.
        unit: String,
        /// `failed`, `canceled`, `timeout`, `dependency` or `skipped`.
        result: String,
    },
    /// systemd did not answer, or did not finish the job, in time.
    #[error("{call} {unit}: systemd did not answer within {seconds} s; see systemctl list-jobs")]
    Silent {
        /// Method of `org.freedesktop.systemd1.Manager`.
        call: &'static str,
        /// The unit.
        unit: String,
        /// How long was waited.
        seconds: u64,
    },
}

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
