#![forbid(unsafe_code)]
//! CRI v1, generated from `proto/` at build.

/// CRI v1 (`runtime.v1`).
#[allow(missing_docs, clippy::all, unreachable_pub, deprecated)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");

    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
        }
    }

    impl std::fmt::Debug for KeyValue {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("KeyValue").field("key", &self.key).finish_non_exhaustive()
        }
    }
}

/// The local API (`gantry.local.v1`).
pub mod local {
    /// Version 1.
    #[allow(missing_docs, clippy::all, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("gantry.local.v1");
    }
}

/// Longest message in bytes that either end takes.
pub const MAX_MESSAGE: usize = 16 << 20;
