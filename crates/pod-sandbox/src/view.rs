//! What the CRI shows of sandboxes and containers.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::pod::{Pod, PodNamespaces, namespace_path};
use crate::record::{ContainerState, PodState};
use crate::{Realm, Result};
use gantry_cri_api::v1;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

impl Engine {
    /// Sandboxes of `realm` that match `filter`, newest first.
    pub fn list_pods(&self, realm: Realm, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let mut items: Vec<v1::PodSandbox> = self.inner.pods(realm).iter().map(|p| pod_item(p)).collect();
        items.retain(|p| pod_matches(p, filter));
        items.sort_by_key(|p| std::cmp::Reverse(p.created_at));
        items
    }

    /// Containers of `realm` that match `filter`, newest first.
    pub fn list_containers(&self, realm: Realm, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
        let containers = self.inner.containers(realm);
        let mut items: Vec<v1::Container> = containers.iter().map(|c| container_item(c)).collect();
        items.retain(|c| container_matches(c, filter));
        items.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        items
    }

    /// Status of a sandbox and of its containers; with `verbose` the `info` that tools read.
    pub fn pod_status(&self, realm: Realm, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse> {
        let pod = self.inner.pod(realm, id)?;
        let status = pod_status(&pod);
        let statuses = container_statuses(&self.inner, &pod.id);
        let info = if verbose { info(self.pod_info(&pod)) } else { BTreeMap::new() };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(status),
            info,
            containers_statuses: statuses,
            timestamp: crate::record::now(),
        })
    }

    /// Status of a container; with `verbose` the `info` that tools read.
    pub fn container_status(
        &self,
        realm: Realm,
        id: &str,
        verbose: bool,
    ) -> Result<v1::ContainerStatusResponse> {
        let container = self.inner.container(realm, id)?;
        let info = if verbose { info(self.container_info(&container)) } else { BTreeMap::new() };
        Ok(v1::ContainerStatusResponse { status: Some(container_status(&container)), info })
    }

    fn pod_info(&self, pod: &Pod) -> serde_json::Value {
        let record = pod.record().clone();
        let attachment = self.inner.networks.get(&pod.id).and_then(|a| serde_json::to_value(a).ok());
        json!({
            "realm": record.realm,
            "runtimeHandler": record.handler,
            "sandboxer": record.sandboxer,
            "monitor": record.monitor,
            "pid": record.pause.map(|p| p.pid),
            "namespaces": record.pause.map(|p| namespace_inodes(p.pid)),
            "cgroupParent": record.cgroup_parent,
            "resources": record.resources,
            "overhead": record.overhead,
            "network": attachment,
            "directory": pod.dir,
            "reason": record.reason,
            "owed": pod.owed().iter().map(|step| format!("{step:?}")).collect::<Vec<_>>(),
            "config": record.config,
        })
    }

    fn container_info(&self, container: &Container) -> serde_json::Value {
        let record = container.record().clone();
        let image = self.inner.images.get(container.pod.realm, &record.image_id);
        let spec: Option<serde_json::Value> =
            crate::record::read_json(&container.dir.join("config.json")).ok();
        json!({
            "sandboxID": record.pod_id,
            "pid": record.process.map(|p| p.pid),
            "namespaces": record.process.filter(|_| record.state == ContainerState::Running)
                .map(|p| namespace_inodes(p.pid)),
            "cgroup": record.cgroup,
            "imageID": record.image_id,
            "layers": image.map(|i| i.layers),
            "rootfs": container.rootfs(),
            "bundle": container.dir,
            "execEnds": container.pod.exec_ends(&container.id).iter().map(|end| json!({
                "id": end.exec_id,
                "exitCode": end.exit_code,
                "finishedAt": end.finished_at,
            })).collect::<Vec<_>>(),
            "user": record.user,
            "runtimeHandler": container.pod.record().handler,
            "owed": container.owed().iter().map(|step| format!("{step:?}")).collect::<Vec<_>>(),
            "config": record.config,
            "runtimeSpec": spec,
        })
    }
}

fn info(value: serde_json::Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

/// Inode of each namespace of a process, which two processes share when they share the namespace.
fn namespace_inodes(pid: i32) -> BTreeMap<&'static str, u64> {
    ["net", "ipc", "uts", "pid", "mnt", "user", "cgroup"]
        .into_iter()
        .filter_map(|kind| Some((kind, inode(&namespace_path(pid, kind))?)))
        .collect()
}

fn inode(path: &Path) -> Option<u64> {
    // The link reads "net:[4026531840]".
    let target = std::fs::read_link(path).ok()?;
    let text = target.to_str()?;
    text.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a list with this filter shows a sandbox.
pub(crate) fn pod_matches(item: &v1::PodSandbox, filter: Option<&v1::PodSandboxFilter>) -> bool {
    filter.is_none_or(|filter| {
        item.id.starts_with(&filter.id)
            && filter.state.as_ref().is_none_or(|s| s.state == item.state)
            && has_labels(&item.labels, &filter.label_selector)
    })
}

/// Whether a list with this filter shows a container.
pub(crate) fn container_matches(item: &v1::Container, filter: Option<&v1::ContainerFilter>) -> bool {
    filter.is_none_or(|filter| {
        item.id.starts_with(&filter.id)
            && item.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
            && filter.state.as_ref().is_none_or(|s| s.state == item.state)
            && has_labels(&item.labels, &filter.label_selector)
    })
}

fn pod_state(state: PodState) -> i32 {
    match state {
        PodState::Ready => v1::PodSandboxState::SandboxReady.into(),
        PodState::Creating | PodState::Stopped => v1::PodSandboxState::SandboxNotready.into(),
    }
}

fn container_state(state: ContainerState) -> i32 {
    match state {
        ContainerState::Creating | ContainerState::Created | ContainerState::Starting => {
            v1::ContainerState::ContainerCreated.into()
        }
        ContainerState::Running => v1::ContainerState::ContainerRunning.into(),
        ContainerState::Exited => v1::ContainerState::ContainerExited.into(),
    }
}

pub(crate) fn pod_item(pod: &Pod) -> v1::PodSandbox {
    let record = pod.record();
    v1::PodSandbox {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: pod_state(record.state),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.requested_handler.clone(),
    }
}

pub(crate) fn pod_status(pod: &Pod) -> v1::PodSandboxStatus {
    let record = pod.record();
    let options = record
        .config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref())
        .and_then(|s| s.namespace_options.clone());
    let mut ips = record.ips.iter();
    // A pod on the host's network has no address of its own; the kubelet fills in the node's.
    let network = (!PodNamespaces::of(&record).host_network).then(|| v1::PodSandboxNetworkStatus {
        ip: ips.next().cloned().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip: ip.clone() }).collect(),
    });
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: pod_state(record.state),
        created_at: record.created_at,
        network: network.or_else(|| Some(v1::PodSandboxNetworkStatus::default())),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.requested_handler.clone(),
    }
}

pub(crate) fn container_item(container: &Container) -> v1::Container {
    let record = container.record();
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod_id.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_ref: record.image_id.clone(),
        state: container_state(record.state),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

/// Status of each container of a sandbox that is made, oldest first.
pub(crate) fn container_statuses(inner: &Inner, pod_id: &str) -> Vec<v1::ContainerStatus> {
    let containers = inner.containers_of(pod_id);
    let shown = containers.iter().filter(|c| c.is_visible());
    let mut statuses: Vec<v1::ContainerStatus> = shown.map(|c| container_status(c)).collect();
    statuses.sort_by_key(|c| c.created_at);
    statuses
}

fn container_status(container: &Container) -> v1::ContainerStatus {
    let record = container.record();
    let linux = record.resources().cloned();
    let user = v1::LinuxContainerUser {
        uid: record.user.uid.into(),
        gid: record.user.gid.into(),
        supplemental_groups: record.user.additional_gids.iter().map(|g| i64::from(*g)).collect(),
    };
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: container_state(record.state),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record.log_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        resources: linux.map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(v1::ContainerUser { linux: Some(user) }),
        stop_signal: crate::spec::cri_signal(record.stop_signal).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_matches_when_every_label_does() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let labels = map(&[("app", "web"), ("tier", "front")]);
        assert!(has_labels(&labels, &map(&[])));
        assert!(has_labels(&labels, &map(&[("app", "web")])));
        assert!(!has_labels(&labels, &map(&[("app", "db")])));
        assert!(!has_labels(&labels, &map(&[("app", "web"), ("x", "")])));
    }

    #[test]
    fn namespaces_of_this_process_are_found() {
        let inodes = namespace_inodes(std::process::id() as i32);
        assert!(inodes["net"] > 0 && inodes["pid"] > 0);
    }
}
