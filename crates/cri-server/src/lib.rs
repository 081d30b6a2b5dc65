#![forbid(unsafe_code)]
//! The daemon: configuration, gRPC services, and how it starts and ends.
//!
//! Layers of settings become a [`Config`] ([`config`]), from which [`App::build`] makes everything and binds the sockets;
//! [`App::serve`] answers until it is told to stop. Pods outlive the daemon: stopping it stops nothing.

mod app;
mod by_realm;
mod code;
pub mod config;
mod image_service;
mod layers;
mod listen;
mod local_service;
pub mod logging;
mod metrics;
mod programs;
mod run_dir;
mod runtime_service;
mod streams;

pub use app::App;
pub use config::{Config, ConfigError};
pub use metrics::{Metrics, MetricsAddress};
