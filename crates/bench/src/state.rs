//! A side while it is measured.

use crate::cgroups::Hierarchies;
use crate::client::{self, Client};
use crate::kubelet::{self, Pod, Template};
use crate::side::SideSpec;
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::v1;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// What all sides share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Image of the containers.
    pub(crate) image: String,
    /// Below which pods have their directories.
    pub(crate) dir: PathBuf,
    /// Below which pods have their control groups; begins with a slash.
    pub(crate) cgroup_parent: String,
    /// The first of the host ports that pods take in turn.
    pub(crate) first_port: u16,
    /// How many ports there are before the first comes again.
    pub(crate) ports: u16,
    /// Pods made so far.
    pub(crate) made: AtomicU16,
}

/// A daemon, and the handler of it that is measured. Clones are the same side.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) spec: SideSpec,
    pub(crate) client: Client,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) shared: Arc<Shared>,
}

impl Side {
    /// Dials the daemon.
    pub(crate) async fn connect(spec: SideSpec, shared: Arc<Shared>) -> Result<Self> {
        let client = Client::connect(&spec.socket).await?;
        Ok(Self { spec, client, hierarchies: Hierarchies::of_host()?, shared })
    }

    /// Dials again after a restart.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        self.client = Client::connect(&self.spec.socket).await?;
        Ok(())
    }

    /// The daemon's process.
    pub(crate) async fn daemon(&self) -> Result<i32> {
        client::listener(&self.spec.socket).await
    }

    /// Name and version as the daemon tells them.
    pub(crate) async fn version(&self) -> Result<String> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        let answer = self.client.runtime.clone().version(request).await;
        let version = answer.with_context(|| format!("{}: Version", self.spec.name))?.into_inner();
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    /// Pulls the image.
    pub(crate) async fn pull(&self) -> Result<()> {
        let image = v1::ImageSpec { image: self.shared.image.clone(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(image), ..Default::default() };
        let answer = self.client.images.clone().pull_image(request).await;
        answer.with_context(|| format!("{}: PullImage of {}", self.spec.name, self.shared.image))?;
        Ok(())
    }

    /// A new pod: its configuration, files and control group, as the kubelet prepares them.
    pub(crate) fn prepare(&self) -> Result<Pod> {
        let number = self.shared.made.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", self.spec.name);
        let template = Template {
            name: &name,
            image: &self.shared.image,
            dir: &self.shared.dir,
            cgroup_parent: &self.shared.cgroup_parent,
            host_port: self.shared.first_port + number % self.shared.ports,
        };
        let pod = template.pod();
        pod.make_files()?;
        self.hierarchies.make(&pod.cgroup)?;
        Ok(pod)
    }

    /// Takes away what [`Self::prepare`] made.
    pub(crate) fn forget(&self, pod: &Pod) -> Result<()> {
        self.hierarchies.remove(&pod.cgroup)?;
        pod.remove_files()
    }

    /// Process of a container, from the verbose status.
    pub(crate) async fn container_pid(&self, id: &str) -> Result<i32> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.client.runtime.clone().container_status(request).await;
        let info = answer.with_context(|| format!("{}: ContainerStatus", self.spec.name))?.into_inner().info;
        pid_in(&info).with_context(|| format!("{}: the verbose ContainerStatus has no pid", self.spec.name))
    }

    /// Process of a pod, from the verbose status; `None` for a pod without one.
    pub(crate) async fn sandbox_pid(&self, id: &str) -> Result<Option<i32>> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.client.runtime.clone().pod_sandbox_status(request).await;
        let info = answer.with_context(|| format!("{}: PodSandboxStatus", self.spec.name))?.into_inner().info;
        Ok(pid_in(&info))
    }

    /// Stops and removes every pod of this program that the daemon has; all are tried.
    pub(crate) async fn clean(&self) -> Result<()> {
        let mut runtime = self.client.runtime.clone();
        let label =
            BTreeMap::from([("io.kubernetes.pod.namespace".to_owned(), kubelet::NAMESPACE.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector: label, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let answer = runtime.list_pod_sandbox(request).await;
        let pods = answer.with_context(|| format!("{}: ListPodSandbox", self.spec.name))?.into_inner().items;
        let mut failed = Vec::new();
        for pod in pods {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            let stopped = runtime.stop_pod_sandbox(request).await.err();
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            let removed = runtime.remove_pod_sandbox(request).await.err();
            failed.extend(stopped.into_iter().chain(removed).map(|status| format!("{}: {status}", pod.id)));
        }
        if !failed.is_empty() {
            bail!("{}: pods are left: {}", self.spec.name, failed.join("; "));
        }
        Ok(())
    }
}

/// The pid in the JSON that containerd, CRI-O and Gantry put under `info`.
fn pid_in(info: &BTreeMap<String, String>) -> Option<i32> {
    let value: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_found_in_verbose_info() {
        let info = |text: &str| BTreeMap::from([("info".to_owned(), text.to_owned())]);
        assert_eq!(pid_in(&info(r#"{"pid": 42, "runtimeSpec": {}}"#)), Some(42));
        for none in [r#"{"pid": null}"#, r#"{"pid": 0}"#, "{}", "no JSON"] {
            assert_eq!(pid_in(&info(none)), None, "{none}");
        }
        assert_eq!(pid_in(&BTreeMap::new()), None);
    }
}
