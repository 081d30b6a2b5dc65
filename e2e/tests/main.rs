#![forbid(unsafe_code)]
//! The end-to-end tests: `make e2e` runs them, as root, one after another.

mod boundaries;
mod cni;
mod command_line;
mod configuration;
mod confinement;
mod containers;
mod crash;
mod details;
mod devices;
mod disk_full;
mod errors;
mod events;
mod exec;
mod gvisor;
mod handlers;
mod images;
mod kill_at_every_step;
mod lists;
mod logs;
mod metrics;
mod network;
mod pod_resources;
mod pods;
mod resources;
mod retries;
mod sequence;
mod sharing;
mod statistics;
mod streaming;
mod streaming_client;
mod streaming_modes;
mod streaming_restart;
mod user_namespaces;
mod volumes;
