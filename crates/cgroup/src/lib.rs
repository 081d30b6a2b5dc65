//! Room for cgroup.
