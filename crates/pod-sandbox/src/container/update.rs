//! UpdateContainerResources.

use super::Container;
use crate::engine::{Engine, Inner};
use crate::error::Kind;
use crate::flight::{blocking, detached};
use crate::record::{ContainerState, read_json, write_json};
use crate::spec::resources;
use crate::{Error, Realm, Result};
use gantry_cgroup::{Applied, Cgroup, Limits};
use gantry_cri_api::v1;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Engine {
    /// Changes the limits of a container that is created or runs: all that `asked` names, or none.
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] for one that has ended, and for a memory limit below what it uses;
    /// [`Kind::InvalidArgument`] for values that neither we nor the kernel understand.
    pub async fn update_container(
        &self,
        realm: Realm,
        id: &str,
        asked: v1::LinuxContainerResources,
    ) -> Result<()> {
        let container = self.inner.container(realm, id)?;
        let inner = self.inner.clone();
        detached(async move {
            let result = inner.update_container(&container, &asked).await;
            result.map_err(|e| e.context(format!("container {}", container.id)))
        })
        .await
    }
}

impl Inner {
    async fn update_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &v1::LinuxContainerResources,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        let record = container.record().clone();
        let running = match record.state {
            ContainerState::Created => false,
            ContainerState::Running => true,
            state => {
                let message = format!("it is {state:?}; only a created or running container has limits");
                return Err(Error::new(Kind::FailedPrecondition, message.to_lowercase()));
            }
        };
        let wanted = resources::merged(&record.resources().cloned().unwrap_or_default(), asked);
        if resources::oom_score(wanted.oom_score_adj, &self.host)? != wanted.oom_score_adj {
            crate::host::warn_oom_score(wanted.oom_score_adj);
        }
        let change = Change {
            cgroup: self.cgroup(&record.cgroup)?,
            running,
            config: container.dir.join("config.json"),
            oci: resources::oci(&wanted, &self.host)?,
            oom_score_adj: resources::oom_score(wanted.oom_score_adj, &self.host)?,
        };
        let (inner, container) = (self.clone(), container.clone());
        blocking(move || {
            let done = change.carry_out(&inner)?;
            if let Err(error) = container.update(|r| r.resources = Some(wanted)) {
                // In memory, too, nothing has happened.
                container.note(|r| r.resources = record.resources);
                done.take_back();
                return Err(error);
            }
            tracing::info!(container = %container.id, "limits changed");
            Ok(())
        })
        .await
    }
}

struct Change {
    cgroup: Cgroup,
    running: bool,
    /// The bundle's configuration.
    config: PathBuf,
    oci: Map<String, Value>,
    oom_score_adj: i64,
}

/// A change that was made, and how to take it back.
struct Done {
    limits: Option<Applied>,
    config: (PathBuf, Value),
}

impl Done {
    fn take_back(self) {
        let config = write_json(&self.config.0, &self.config.1);
        let limits = self.limits.map_or(Ok(()), Applied::revert).map_err(Error::from);
        if let Err(error) = config.and(limits) {
            tracing::warn!(%error, "a failed change of limits was not taken back whole");
        }
    }
}

impl Change {
    fn carry_out(self, inner: &Inner) -> Result<Done> {
        let limits = match self.running {
            true => Some(self.limit(inner)?),
            // The OCI runtime will, from the bundle.
            false => None,
        };
        let old: Value = read_json(&self.config)?;
        let done = Done { limits, config: (self.config.clone(), old.clone()) };
        if let Err(error) = write_json(&self.config, &self.document(old)) {
            done.take_back();
            return Err(error);
        }
        if self.running {
            self.score()?;
        }
        Ok(done)
    }

    fn limit(&self, inner: &Inner) -> Result<Applied> {
        let limits: Limits = resources::limits(&self.oci);
        self.cgroup.set_limits(&inner.hierarchies, &limits).map_err(|e| match e.is_gone() {
            true if self.cgroup.pids().is_ok_and(|pids| pids.is_empty()) => {
                Error::new(Kind::FailedPrecondition, "it ended meanwhile")
            }
            _ => Error::from(e),
        })
    }

    /// The bundle's configuration with the new limits; its rules on devices stay.
    fn document(&self, mut document: Value) -> Value {
        let mut all = self.oci.clone();
        if let Some(devices) = document["linux"]["resources"].get("devices") {
            all.insert("devices".into(), devices.clone());
        }
        document["linux"]["resources"] = Value::Object(all);
        if self.oom_score_adj != 0 {
            document["process"]["oomScoreAdj"] = json!(self.oom_score_adj);
        }
        document
    }

    /// Who is to die first when the node runs out of memory.
    fn score(&self) -> Result<()> {
        if self.oom_score_adj == 0 {
            return Ok(());
        }
        for pid in self.cgroup.pids()? {
            let file = Path::new("/proc").join(pid.to_string()).join("oom_score_adj");
            match std::fs::write(&file, self.oom_score_adj.to_string()) {
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    crate::host::warn_oom_score(self.oom_score_adj);
                    return Ok(());
                }
                // A process that ended meanwhile needs no score.
                _ => {}
            }
        }
        Ok(())
    }
}
