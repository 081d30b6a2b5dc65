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

/// The messages of [`v1`] described for programs: a serialised `google.protobuf.FileDescriptorSet`.
///
/// With it a message can be shown as JSON in the way that the CRI's own tools show it.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.binpb"));

/// The local API (`gantry.local.v1`).
pub mod local {
    /// Version 1.
    #[allow(missing_docs, clippy::all, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("gantry.local.v1");
    }
}

/// Metadata key by which a client of the local socket says whose objects a CRI call is about: `cri` or
/// `local`. Without it they are the local ones.
pub const REALM_HEADER: &str = "gantry-realm";

/// Longest message in bytes that either end takes.
pub const MAX_MESSAGE: usize = 16 << 20;
