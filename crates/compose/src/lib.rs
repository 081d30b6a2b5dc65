#![forbid(unsafe_code)]
//! Compose files, understood exactly.
//!
//! This crate is pure: the caller hands in a file system and an environment.

pub mod canonical;
pub mod consistency;
pub mod dotenv;
pub mod error;
pub mod files;
pub mod finish;
pub mod interpolate;
pub mod kubernetes;
pub mod load;
pub mod merge;
pub mod node;
pub mod paths;
pub mod plan;
pub mod print;
pub mod project;
pub mod report;
pub mod schema;
pub mod short;
pub mod units;
pub mod yaml;

pub use error::{Error, Result};
pub use load::{ComposeFile, Environment};
pub use project::{Project, Request};
