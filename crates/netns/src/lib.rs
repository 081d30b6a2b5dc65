//! Room for netns.
