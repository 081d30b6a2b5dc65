//! Room for cri-server.
