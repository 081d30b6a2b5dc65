//! Linux system calls as Gantry needs them: mounts, namespaces, pidfds, sealed programs, sockets
//! that carry file descriptors, and placement of files under a root that cannot be escaped.
//!
//! This is the only crate of the workspace that may hold `unsafe` code. Every error carries the
//! call and its arguments ([`Error`]), so that an operator sees what failed without strace.

#[cfg(feature = "attempt")]
pub mod attempt;
pub mod bpf;
pub mod console;
mod error;
pub mod fork;
pub mod heap;
pub mod idmap;
pub mod keyring;
pub mod limits;
pub mod memfd;
pub mod mount;
pub mod netns;
pub mod overlay;
pub mod pidfd;
pub mod placement;
pub mod seccomp;
pub mod seqpacket;
pub mod signal;
pub mod tree;
pub mod usage;
#[cfg(feature = "tokio")]
pub mod watched;

pub use error::{Error, Result};
