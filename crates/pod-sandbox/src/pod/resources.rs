//! Limits of a sandbox as a whole (CRI: `LinuxPodSandboxConfig.resources` and `overhead`,
//! `UpdatePodSandboxResources`).
//!
//! The cgroup of a sandbox whose maker names a parent is its maker's: the kubelet sets the limits of its
//! pods' cgroups itself, before it tells. Gantry takes note. It sets them where the cgroup is its own: for
//! sandboxes without a parent, and below the parent for handlers with a kernel of their own.

use super::Pod;
use crate::engine::{Engine, Inner, realm_cgroup};
use crate::error::Kind;
use crate::flight::{blocking, detached};
use crate::record::{PodRecord, PodState};
use crate::sandboxer::{SandboxerKind, sandbox_cgroup};
use crate::spec::resources;
use crate::{Error, Realm, Result};
use gantry_cgroup::{Applied, Cgroup};
use gantry_cri_api::v1::LinuxContainerResources;
use std::sync::Arc;

impl Engine {
    /// Changes the limits of a ready sandbox: all that is named, or none. What is `None`, 0 or empty stays.
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] for one that is not ready, and for a memory limit below what it uses;
    /// [`Kind::InvalidArgument`] for values that neither we nor the kernel understand.
    pub async fn update_pod(
        &self,
        realm: Realm,
        id: &str,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Result<()> {
        let pod = self.inner.pod(realm, id)?;
        let inner = self.inner.clone();
        detached(async move {
            let result = inner.update_pod(&pod, overhead, resources).await;
            result.map_err(|e| e.context(format!("pod sandbox {}", pod.id)))
        })
        .await
    }
}

impl Inner {
    async fn update_pod(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Result<()> {
        // One change at a time, and none of a sandbox that is taken apart.
        let _turn = pod.limits.lock().await;
        let _gate = pod.gate.read().await;
        let record = pod.record().clone();
        if record.state != PodState::Ready || pod.is_stopping() {
            return Err(Error::new(
                Kind::FailedPrecondition,
                "it is not ready; only a ready sandbox has limits",
            ));
        }
        if let Some(scope) = record.scope.as_ref().filter(|_| is_systemds(&record)) {
            let message = format!(
                "its limits are those of a unit of systemd; change them with systemctl set-property {scope}"
            );
            return Err(Error::new(Kind::FailedPrecondition, message));
        }
        let (old_resources, old_overhead) = limits_of(&record);
        let resources = resources::merged(&old_resources, &resources.unwrap_or_default());
        let overhead = resources::merged(&old_overhead, &overhead.unwrap_or_default());
        let wanted = total(&resources, &overhead);
        let cgroup = own_cgroup(&record);
        let (inner, pod) = (self.clone(), pod.clone());
        blocking(move || {
            let applied = cgroup.map(|path| inner.limit(&path, &wanted)).transpose()?.flatten();
            let changed = pod.update(|r| (r.resources, r.overhead) = (Some(resources), Some(overhead)));
            if let Err(error) = changed {
                // In memory, too, nothing has happened; the record on disk is the old one.
                let put_back = pod.update(|r| {
                    (r.resources, r.overhead) = (record.resources, record.overhead);
                });
                let reverted = applied.map_or(Ok(()), Applied::revert).map_err(Error::from);
                if let Err(left) = put_back.and(reverted) {
                    tracing::warn!(pod = %pod.id, error = %left, "a failed change of limits was not taken back whole");
                }
                return Err(error);
            }
            tracing::info!(pod = %pod.id, "limits changed");
            Ok(())
        })
        .await
    }

    /// Gives a new sandbox its limits, where its cgroup is Gantry's own. Blocking.
    pub(crate) fn limit_new_pod(&self, record: &PodRecord) -> Result<()> {
        let (resources, overhead) = limits_of(record);
        match own_cgroup(record) {
            // The OCI runtime makes the sandbox's cgroup, with the limits from its root container.
            Some(_) if record.sandboxer == SandboxerKind::OciSandbox => Ok(()),
            // A failed creation takes the whole cgroup back.
            Some(path) => self.limit(&path, &total(&resources, &overhead)).map(|_| ()),
            None => Ok(()),
        }
    }

    fn limit(&self, path: &str, wanted: &LinuxContainerResources) -> Result<Option<Applied>> {
        let mut oci = resources::oci(wanted, &self.host)?;
        // How many processes a pod has is its containers' business.
        oci.remove("pids");
        let limits = resources::limits(&oci);
        if limits.is_empty() {
            return Ok(None);
        }
        let cgroup: Cgroup = self.cgroup(path)?;
        cgroup.ensure(&self.hierarchies, &limits)?;
        Ok(Some(cgroup.set_limits(&self.hierarchies, &limits)?))
    }
}

/// What holds now: the resources and the overhead.
fn limits_of(record: &PodRecord) -> (LinuxContainerResources, LinuxContainerResources) {
    let asked = record.config.linux.as_ref();
    let resources = record.resources.as_ref().or_else(|| asked?.resources.as_ref());
    let overhead = record.overhead.as_ref().or_else(|| asked?.overhead.as_ref());
    (resources.cloned().unwrap_or_default(), overhead.cloned().unwrap_or_default())
}

/// Whether the limits are properties of the sandbox's scope: systemd puts back what is written past it.
fn is_systemds(record: &PodRecord) -> bool {
    let named = record.config.linux.as_ref().is_some_and(|l| !l.cgroup_parent.is_empty());
    record.scope.is_some() && !named && record.sandboxer == SandboxerKind::Namespaces
}

/// The cgroup of a sandbox whose limits are Gantry's to set.
fn own_cgroup(record: &PodRecord) -> Option<String> {
    match record.sandboxer {
        SandboxerKind::OciSandbox => Some(sandbox_cgroup(record)),
        SandboxerKind::Namespaces => {
            let own = record.cgroup_parent.starts_with(&format!("{}/", realm_cgroup(record.realm)));
            own.then(|| record.cgroup_parent.clone())
        }
    }
}

/// What the containers may use together, and the overhead on top. No limit stays no limit.
fn total(resources: &LinuxContainerResources, overhead: &LinuxContainerResources) -> LinuxContainerResources {
    let sum = |limit: i64, more: i64| if limit > 0 { limit.saturating_add(more.max(0)) } else { limit };
    LinuxContainerResources {
        cpu_shares: sum(resources.cpu_shares, overhead.cpu_shares),
        cpu_quota: sum(resources.cpu_quota, overhead.cpu_quota),
        memory_limit_in_bytes: sum(resources.memory_limit_in_bytes, overhead.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: sum(resources.memory_swap_limit_in_bytes, overhead.memory_limit_in_bytes),
        // A whole pod has no score: each of its processes has one.
        oom_score_adj: 0,
        ..resources.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overhead_is_on_top_of_limits_and_no_limit_by_itself() {
        let resources = LinuxContainerResources {
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1 << 26,
            oom_score_adj: 500,
            ..Default::default()
        };
        let overhead = LinuxContainerResources {
            cpu_shares: 7,
            cpu_quota: 5_000,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let both = total(&resources, &overhead);
        assert_eq!((both.cpu_quota, both.cpu_period, both.cpu_shares), (55_000, 100_000, 0));
        assert_eq!(both.memory_limit_in_bytes, (1 << 26) + (1 << 20));
        assert_eq!((both.memory_swap_limit_in_bytes, both.oom_score_adj), (0, 0));
        let unlimited = LinuxContainerResources { cpu_quota: -1, ..Default::default() };
        assert_eq!(total(&unlimited, &overhead).cpu_quota, -1);
    }
}
