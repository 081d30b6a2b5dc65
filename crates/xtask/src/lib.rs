#![forbid(unsafe_code)]
//! Rules of the workspace that no compiler knows: which crate may depend on which, where `unsafe` may
//! stand, how long a file may get. The tests of this crate hold the workspace to them.

pub mod layers;
pub mod source;
