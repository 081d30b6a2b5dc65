//! Room for image-store.
