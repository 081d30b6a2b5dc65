//! Making a cgroup before anything runs in it, so that it can have limits.

use crate::hierarchies::checked;
use crate::{Cgroup, Hierarchies, Layout, Limits, Result, file_error};
use std::path::Path;

impl Limits {
    /// Controllers that these limits need.
    fn controllers(&self) -> Vec<&'static str> {
        let cpu = self.cpu_shares.is_some() || self.cpu_quota.is_some() || self.cpu_period.is_some();
        let sets = self.cpuset_cpus.is_some() || self.cpuset_mems.is_some();
        let memory = self.memory.is_some() || self.memory_swap.is_some();
        let wanted =
            [("cpu", cpu), ("cpuset", sets), ("memory", memory), ("hugetlb", !self.hugepages.is_empty())];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
    }

    /// Whether there is nothing to limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Cgroup {
    /// Makes this cgroup where it is not there yet, in the hierarchies of the controllers that `limits`
    /// needs. Those above it pass the controllers on, as far as the kernel lets them (cgroup v2).
    ///
    /// # Errors
    ///
    /// [`crate::Error::File`] with the kernel's refusal to make a directory.
    pub fn ensure(&self, hierarchies: &Hierarchies, limits: &Limits) -> Result<()> {
        let relative = Path::new(checked(self.path())?);
        let make = |dir: &Path| match std::fs::create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(file_error("create", dir)(e)),
            _ => Ok(()),
        };
        let unified = hierarchies.layout() == Layout::V2 && !limits.unified.is_empty();
        let controllers = limits.controllers();
        let wanted = controllers.iter().copied().chain(unified.then_some("memory"));
        for controller in wanted {
            let Some(mount) = hierarchies.mount_of(controller) else { continue };
            let mut dir = mount.to_owned();
            for part in relative.components() {
                if hierarchies.layout() == Layout::V2 {
                    // A controller that is refused here is missed when its limit is set, by name.
                    let _refused =
                        std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
                }
                dir.push(part);
                make(&dir)?;
                if controller == "cpuset" && hierarchies.layout() == Layout::V1 {
                    inherit_sets(&dir)?;
                }
            }
        }
        Ok(())
    }
}

/// A new cpuset of v1 has no CPUs and takes no processes: it gets those of the one above.
fn inherit_sets(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(name), dir.join(name));
        let own = std::fs::read_to_string(&to).map_err(file_error("read", &to))?;
        if own.trim().is_empty() {
            let value = std::fs::read_to_string(&from).map_err(file_error("read", &from))?;
            std::fs::write(&to, value.trim()).map_err(file_error("write", &to))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_name_their_controllers() {
        let limits = Limits { memory: Some(1), cpu_quota: Some(2), ..Limits::default() };
        assert_eq!(limits.controllers(), ["cpu", "memory"]);
        assert!(!limits.is_empty() && Limits::default().is_empty());
        assert!(Limits::default().controllers().is_empty());
    }
}
