//! All networks of a daemon behind one entrance: which backend makes an attachment, which one unmakes it.

use crate::cni::{Cni, CniConfig, PodCidr};
use crate::model::{AttachRequest, Attachment, Check, NetworkKind, Quarantined, RecoverReport};
use crate::network::{BuiltinConfig, BuiltinNetwork, check_id};
use crate::{Error, Result, pin};
use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the networks of a daemon are made of.
#[derive(Debug, Clone)]
pub struct NetworksConfig {
    /// The built-in network.
    pub builtin: BuiltinConfig,
    /// CNI.
    pub cni: CniConfig,
    /// Where network namespaces are pinned; `/run/netns` for agents that look there.
    pub netns_dir: PathBuf,
}

/// The built-in network and CNI. Clones share it; calls for different pods run side by side, calls for
/// one pod one after another.
#[derive(Debug, Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    builtin: BuiltinNetwork,
    cni: Cni,
    netns_dir: PathBuf,
    /// Says that the directory of pins was made by this daemon and is to go with it.
    made_dir: PathBuf,
}

impl Networks {
    /// Reads records, cache and configurations; makes nothing yet. Damaged records are set aside and
    /// reported. Within a tokio runtime.
    pub fn open(config: NetworksConfig) -> Result<(Self, Vec<Quarantined>)> {
        let made_dir = config.builtin.state_dir.join("netns-dir-made");
        let (builtin, mut damaged) = BuiltinNetwork::open(config.builtin)?;
        let (cni, more) = Cni::open(config.cni)?;
        damaged.extend(more);
        let inner = Inner { builtin, cni, netns_dir: config.netns_dir, made_dir };
        Ok((Self { inner: Arc::new(inner) }, damaged))
    }

    /// Where the namespace of a pod is pinned; also for a pod that has none yet.
    pub fn pin_path(&self, pod_id: &str) -> PathBuf {
        pin::path(&self.inner.netns_dir, pod_id)
    }

    /// Pins a pod's network namespace, so that it stays until [`Networks::unpin`]. Blocking.
    pub fn pin(&self, pod_id: &str, netns: &OwnedFd) -> Result<PathBuf> {
        check_id(pod_id)?;
        let path = self.pin_path(pod_id);
        if pin::pin(&self.inner.netns_dir, &path, netns.as_fd())? {
            std::fs::write(&self.inner.made_dir, "")
                .map_err(|e| Error::io(format!("write {}", self.inner.made_dir.display()), &e))?;
        }
        Ok(path)
    }

    /// Removes a pod's pin; succeeds when there is none. Blocking.
    ///
    /// # Errors
    ///
    /// While the pod is attached: plugins need the namespace to undo what they did.
    pub fn unpin(&self, pod_id: &str, path: &Path) -> Result<()> {
        if self.inner.cni.get(pod_id).is_some() {
            let message = "it stays pinned until the pod is detached";
            return Err(Error::failed(format!("network namespace {}", path.display()), message));
        }
        pin::unpin(path)
    }

    /// Gives a pod a network of this kind. The same request again gets the same attachment.
    ///
    /// On failure nothing is left, or it stays recorded, and [`Networks::detach`] takes it back.
    pub async fn attach(&self, kind: NetworkKind, request: AttachRequest) -> Result<Attachment> {
        match kind {
            NetworkKind::Builtin => Ok(self.inner.builtin.attach(request).await?.general(true)),
            NetworkKind::Cni => self.inner.cni.attach(request).await,
        }
    }

    /// Takes a pod's attachment back, by whatever made it; succeeds when there is none.
    pub async fn detach(&self, pod_id: &str) -> Result<()> {
        self.inner.builtin.detach(pod_id).await?;
        self.inner.cni.detach(pod_id).await
    }

    /// The attachment of a pod.
    pub fn get(&self, pod_id: &str) -> Option<Attachment> {
        let builtin = &self.inner.builtin;
        let complete = builtin.is_complete(pod_id);
        builtin.get(pod_id).map(|a| a.general(complete)).or_else(|| self.inner.cni.get(pod_id))
    }

    /// All attachments.
    pub fn list(&self) -> Vec<Attachment> {
        let builtin = &self.inner.builtin;
        let own = builtin.list().into_iter().map(|a| {
            let complete = builtin.is_complete(&a.pod_id);
            a.general(complete)
        });
        own.chain(self.inner.cni.list()).collect()
    }

    /// Why pods cannot have a network of this kind now; `None` when they can. From memory.
    pub fn problem(&self, kind: NetworkKind) -> Option<String> {
        match kind {
            NetworkKind::Builtin => None,
            NetworkKind::Cni => self.inner.cni.problem(),
        }
    }

    /// Takes the ranges of addresses that the cluster gave this node, `10.1.0.0/24` or several separated by
    /// commas, and fills in `template` with them: the result is the CNI configuration `10-gantry.conflist`.
    /// One that somebody else put there stays in effect, and nothing is written beside it. Blocking.
    ///
    /// # Errors
    ///
    /// What is no range; a template that is not understood or makes no valid configuration; what the disk
    /// refuses. The old configuration stays then.
    pub fn set_pod_cidr(&self, template: Option<&Path>, text: &str) -> Result<PodCidr> {
        self.inner.cni.set_pod_cidr(template, text)
    }

    /// Asks the plugins whether a pod's attachment is whole (CNI CHECK); the built-in network has nothing
    /// to ask.
    pub async fn verify(&self, pod_id: &str) -> Result<()> {
        self.inner.cni.verify(pod_id).await
    }

    /// After a restart: takes back what belongs to no pod in `live` or was cut off. What plugins have to
    /// undo is paid in the background.
    pub async fn recover(&self, live: &HashSet<String>) -> RecoverReport {
        let mut report = self.inner.builtin.recover(live).await;
        report.owed.extend(self.inner.cni.recover(live).owed);
        report
    }

    /// What `gantry doctor` shows; `cri` is the kind that the kubelet's pods get.
    pub async fn check(&self, cri: NetworkKind) -> Vec<Check> {
        let mut checks = self.inner.builtin.check().await;
        checks.extend(self.inner.cni.check(cri == NetworkKind::Cni).await);
        checks
    }

    /// With no attachment left: removes what was made on the host for all of them.
    pub async fn shutdown_if_idle(&self) -> Result<()> {
        self.inner.builtin.shutdown_if_idle().await?;
        let made = self.inner.made_dir.exists() && self.list().is_empty();
        if made && std::fs::remove_dir(&self.inner.netns_dir).is_ok() {
            // Nobody else pinned anything there meanwhile; the marker goes with the run directory.
            let _gone = std::fs::remove_file(&self.inner.made_dir);
        }
        Ok(())
    }
}
