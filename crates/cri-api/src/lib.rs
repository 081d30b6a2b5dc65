//! Room for cri-api.
