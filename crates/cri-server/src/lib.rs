#![forbid(unsafe_code)]
//! The daemon: configuration, gRPC services, and how it starts and ends.
//!
//! [`Options`] become a [`Config`], from which [`App::build`] makes everything and binds the sockets;
//! [`App::serve`] answers until it is told to stop. Pods outlive the daemon: stopping it stops nothing.

mod app;
mod code;
mod config;
mod image_service;
mod layers;
mod listen;
mod local_service;
pub mod logging;
mod metrics;
mod pending;
mod programs;
mod run_dir;
mod runtime_service;

pub use app::App;
pub use config::{CgroupDriver, Config, ConfigError, CriNetwork, LogFormat, Options};
pub use metrics::Metrics;
