//! Limits that libcgroups leaves out, put where it does not.

use gantry_cgroup::Layout;
use libcontainer::oci_spec::runtime::LinuxResources;
use std::path::Path;

/// Name of the limit on swap alone, on cgroup v2.
const SWAP_MAX: &str = "memory.swap.max";

/// Makes a limit on memory and swap together that leaves no swap a limit of 0 on swap alone.
///
/// libcgroups takes that 0 for "not said" on cgroup v2, and the container could use all of the host's swap.
/// A kernel without swap has nothing to limit.
pub(crate) fn no_swap(resources: &mut LinuxResources, layout: Layout) {
    let Some(memory) = resources.memory() else { return };
    let none_left = memory.swap().is_some_and(|swap| swap > 0 && memory.limit() == Some(swap));
    if layout == Layout::V2 && none_left && Path::new("/proc/swaps").exists() {
        let mut unified = resources.unified().clone().unwrap_or_default();
        unified.entry(SWAP_MAX.into()).or_insert_with(|| "0".into());
        resources.set_unified(Some(unified));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_a_limit_that_leaves_no_swap_is_put_elsewhere() {
        let adapted = |memory: Value, layout| {
            let unified = json!({"memory.high": "1"});
            let mut resources: LinuxResources =
                serde_json::from_value(json!({"memory": memory, "unified": unified})).unwrap();
            no_swap(&mut resources, layout);
            resources.unified().as_ref().unwrap().get(SWAP_MAX).cloned()
        };
        assert!(Path::new("/proc/swaps").exists(), "this kernel has swap");
        let same = json!({"limit": 4096, "swap": 4096});
        assert_eq!(adapted(same.clone(), Layout::V2).as_deref(), Some("0"));
        assert_eq!(adapted(same, Layout::V1), None);
        for other in [
            json!({"limit": 4096, "swap": 8192}),
            json!({"limit": 4096, "swap": -1}),
            json!({"limit": 4096}),
            json!({"limit": -1, "swap": -1}),
        ] {
            assert_eq!(adapted(other.clone(), Layout::V2), None, "{other}");
        }
    }

    #[test]
    fn what_is_said_by_the_name_of_v2_stays() {
        let text = json!({"memory": {"limit": 4096, "swap": 4096}, "unified": {(SWAP_MAX): "12288"}});
        let mut resources: LinuxResources = serde_json::from_value(text).unwrap();
        no_swap(&mut resources, Layout::V2);
        assert_eq!(resources.unified().as_ref().unwrap()[SWAP_MAX], "12288");
    }
}
