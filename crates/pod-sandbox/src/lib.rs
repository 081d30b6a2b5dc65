//! Room for pod-sandbox.
