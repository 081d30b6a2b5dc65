#![forbid(unsafe_code)]
//! What tests of several rooms share; never part of a product.
//!
//! - [`image`]: images built in memory, honest and hostile ones.
//! - [`registry`]: an OCI registry in this process that counts requests and misbehaves on demand.
//! - [`cni`]: CNI plugins that record their calls and misbehave on demand.
//! - [`net`]: network namespaces of tests.
//! - [`fs`]: directories on a real filesystem, private mounts, descriptions of trees to compare.

pub mod cni;
pub mod fs;
pub mod image;
pub mod layer;
pub mod net;
pub mod registry;
