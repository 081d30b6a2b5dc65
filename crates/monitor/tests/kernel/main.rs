//! The monitor against the kernel and a real OCI runtime: as root, with runc and a static busybox.
//!
//! `GANTRY_MONITOR=<file>` tests the static program as it is shipped (`make monitor`) instead of cargo's;
//! `OCI_RUNTIME=<file>` runs the containers by another runtime than runc.

mod by_wait;
mod escape;
mod exec;
mod failures;
mod lifecycle;
mod logs;
mod pod;
mod shipped;
