//! The monitor against the kernel and a real OCI runtime: as root, with runc and a static busybox.

mod escape;
mod exec;
mod failures;
mod lifecycle;
mod logs;
mod pod;
