#![forbid(unsafe_code)]
//! The end-to-end tests: `make e2e` runs them, as root, one after another.

mod boundaries;
mod command_line;
mod containers;
mod crash;
mod disk_full;
mod exec;
mod gvisor;
mod handlers;
mod images;
mod logs;
mod network;
mod pods;
mod retries;
mod sequence;
