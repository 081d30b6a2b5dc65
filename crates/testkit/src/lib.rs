//! Room for testkit.
