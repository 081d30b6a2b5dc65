//! Container logs in the CRI format, written by the monitor's second thread.
//!
//! The thread alone reads the containers' output and touches log files, which may lie on a file system
//! that stalls: exits and probes never wait for it. It is started with the first log.

mod line;
mod sink;
mod tap;
mod thread;

pub(crate) use line::Stream;
pub(crate) use thread::{LogThread, Report};
