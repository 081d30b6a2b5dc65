#![forbid(unsafe_code)]
//! The end-to-end tests: `make e2e` runs them, as root, one after another.
