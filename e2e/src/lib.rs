#![forbid(unsafe_code)]
//! What the end-to-end tests stand on: real daemons, a real registry, the real crictl.
//!
//! A test takes a [`Stage`], which remembers what the host looked like; starts one or more [`Daemon`]s
//! on it, each with directories and sockets of its own; talks to them through [`Crictl`] and the
//! `gantry` command line; ends the daemons and then the stage, which compares the host with what it was.
//! Tests run one after another (`--test-threads=1`): the host is what they compare.

mod calls;
mod command;
mod crictl;
mod daemon;
mod images;
mod leaks;
mod process;
mod registry;
mod rpc;
mod runtimes;
mod scrape;
mod stage;
mod terminal;
mod watch;

pub use calls::{assert_denied, calls_mounts, denied_calls};
pub use command::{Output, run};
pub use crictl::{Crictl, merge};
pub use daemon::{Daemon, DaemonBuilder};
pub use images::{BUSYBOX, busybox};
pub use leaks::LeakSnapshot;
pub use process::{namespace, pids_in_cgroup, wait_ended};
pub use registry::Registry;
pub use rpc::{Events, Rpc};
pub use runtimes::{HANDLERS, runsc};
pub use scrape::Scrape;
pub use stage::{Stage, dist, free_port};
pub use terminal::Terminal;
pub use watch::{LIMIT, Watch, logged, wait_file};
