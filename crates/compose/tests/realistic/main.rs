//! Files as people write them for Docker, right and wrong: what they mean, what they become, and what becomes of
//! them when they are broken.

mod common;
mod config;
mod fuzz;
mod manifests;
