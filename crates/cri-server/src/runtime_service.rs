//! RuntimeService: unpack the request, ask the engine, pack the answer.

use crate::code::{prepare_status, status};
use crate::streams::{Items, pages};
use futures::StreamExt as _;
use gantry_cri_api::v1;
use gantry_cri_api::v1::runtime_service_server::RuntimeService;
use gantry_pod_sandbox::{Engine, Realm};
use gantry_streaming::Streaming;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tonic::{Request, Response, Status};

/// Version of the CRI that is spoken (the kubelet's version handshake).
const CRI_VERSION: &str = "v1";

/// Version of the version handshake itself (CRI: `VersionResponse.version`).
const KUBE_API_VERSION: &str = "0.1.0";

/// RuntimeService for one realm.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) streaming: Streaming,
    pub(crate) realm: Realm,
    pub(crate) systemd_cgroup: bool,
    /// What the node's CNI configuration is made from.
    pub(crate) cni_conf_template: Option<PathBuf>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _request: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: KUBE_API_VERSION.into(),
            runtime_name: "gantry".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: CRI_VERSION.into(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let made = self.engine.run_pod(self.realm, config, &request.runtime_handler).await;
        let pod_sandbox_id = made.map_err(|e| status("RunPodSandbox", &e))?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.engine.stop_pod(self.realm, &id).await.map_err(|e| status("StopPodSandbox", &e))?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.engine.remove_pod(self.realm, &id).await.map_err(|e| status("RemovePodSandbox", &e))?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let answer = self.engine.pod_status(self.realm, &request.pod_sandbox_id, request.verbose);
        answer.map(Response::new).map_err(|e| status("PodSandboxStatus", &e))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let items = self.engine.list_pods(self.realm, request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let made = self.engine.create_container(self.realm, &request.pod_sandbox_id, config).await;
        let container_id = made.map_err(|e| status("CreateContainer", &e))?;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.engine.start_container(self.realm, &id).await.map_err(|e| status("StartContainer", &e))?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        let stopped = self.engine.stop_container(self.realm, &request.container_id, request.timeout).await;
        stopped.map_err(|e| status("StopContainer", &e))?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.engine.remove_container(self.realm, &id).await.map_err(|e| status("RemoveContainer", &e))?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let containers = self.engine.list_containers(self.realm, request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let answer = self.engine.container_status(self.realm, &request.container_id, request.verbose);
        answer.map(Response::new).map_err(|e| status("ContainerStatus", &e))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        self.engine.reopen_log(self.realm, &id).await.map_err(|e| status("ReopenContainerLog", &e))?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let run =
            self.engine.exec_sync(self.realm, &request.container_id, request.cmd, request.timeout).await;
        let output = run.map_err(|e| status("ExecSync", &e))?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let verbose = request.into_inner().verbose;
        let problem = self.engine.network_problem(self.realm);
        let network = v1::RuntimeCondition {
            r#type: "NetworkReady".into(),
            status: problem.is_none(),
            reason: problem.as_ref().map(|_| "NetworkPluginNotReady".to_owned()).unwrap_or_default(),
            message: problem.unwrap_or_default(),
        };
        let runtime =
            v1::RuntimeCondition { r#type: "RuntimeReady".into(), status: true, ..Default::default() };
        let handlers = self.engine.handlers();
        let shown = |name: &str, features: gantry_pod_sandbox::handler::Features| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only,
                user_namespaces: features.user_namespaces,
            }),
        };
        let default = handlers.get("").ok().map(|h| shown("", h.features()));
        let working = handlers.iter().filter(|h| h.broken().is_none());
        let handlers_shown = default.into_iter().chain(working.map(|h| shown(h.name(), h.features())));
        let info = if verbose { self.info() } else { BTreeMap::new() };
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions: vec![runtime, network] }),
            info,
            runtime_handlers: handlers_shown.collect(),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _request: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let driver = match self.systemd_cgroup {
            true => v1::CgroupDriver::Systemd,
            false => v1::CgroupDriver::Cgroupfs,
        };
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let asked = request.linux.unwrap_or_default();
        let updated = self.engine.update_container(self.realm, &request.container_id, asked).await;
        updated.map_err(|e| status("UpdateContainerResources", &e))?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let r = request.into_inner();
        let container =
            self.engine.exec_target(self.realm, &r.container_id).map_err(|e| status("Exec", &e))?;
        let exec = gantry_streaming::ExecRequest {
            container,
            argv: r.cmd,
            tty: r.tty,
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
        };
        let url = self.streaming.prepare_exec(exec).map_err(|e| prepare_status("Exec", &e))?;
        Ok(Response::new(v1::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        let r = request.into_inner();
        let container = self
            .engine
            .attach_target(self.realm, &r.container_id, r.tty)
            .map_err(|e| status("Attach", &e))?;
        let attach = gantry_streaming::AttachRequest {
            container,
            tty: r.tty,
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
        };
        let url = self.streaming.prepare_attach(attach).map_err(|e| prepare_status("Attach", &e))?;
        Ok(Response::new(v1::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        let r = request.into_inner();
        let pod = self
            .engine
            .port_forward_target(self.realm, &r.pod_sandbox_id)
            .map_err(|e| status("PortForward", &e))?;
        let ports: Result<Vec<u16>, _> = r.port.into_iter().map(u16::try_from).collect();
        let ports = ports.map_err(|_| Status::invalid_argument("a port is a number from 1 to 65535"))?;
        let forward = gantry_streaming::PortForwardRequest { pod, ports };
        let url =
            self.streaming.prepare_port_forward(forward).map_err(|e| prepare_status("PortForward", &e))?;
        Ok(Response::new(v1::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let stats = self.engine.container_stats(self.realm, &id).await;
        let stats = stats.map_err(|e| status("ContainerStats", &e))?;
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let stats = self.engine.list_container_stats(self.realm, request.into_inner().filter).await;
        let stats = stats.map_err(|e| status("ListContainerStats", &e))?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = self.engine.pod_stats(self.realm, &id).await;
        let stats = stats.map_err(|e| status("PodSandboxStats", &e))?;
        Ok(Response::new(v1::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = self.engine.list_pod_stats(self.realm, request.into_inner().filter).await;
        let stats = stats.map_err(|e| status("ListPodSandboxStats", &e))?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|c| c.network_config);
        let pod_cidr = network.map(|n| n.pod_cidr).unwrap_or_default();
        if !pod_cidr.is_empty() {
            let updated = self.engine.set_pod_cidr(self.cni_conf_template.clone(), &pod_cidr).await;
            updated.map_err(|e| status("UpdateRuntimeConfig", &e))?;
        }
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        let r = request.into_inner();
        let done =
            self.engine.checkpoint_container(self.realm, &r.container_id, &r.location, r.timeout).await;
        done.map_err(|e| status("CheckpointContainer", &e))?;
        Ok(Response::new(v1::CheckpointContainerResponse {}))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        let descriptors = self.engine.metric_descriptors();
        Ok(Response::new(v1::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        let metrics = self.engine.pod_metrics(self.realm).await;
        let pod_metrics = metrics.map_err(|e| status("ListPodSandboxMetrics", &e))?;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        let r = request.into_inner();
        let updated = self.engine.update_pod(self.realm, &r.pod_sandbox_id, r.overhead, r.resources).await;
        updated.map_err(|e| status("UpdatePodSandboxResources", &e))?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }

    type GetContainerEventsStream = Items<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = self.engine.events(self.realm).map(Ok);
        Ok(Response::new(Box::pin(events)))
    }

    type StreamPodSandboxesStream = Items<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let (engine, realm, filter) = (self.engine.clone(), self.realm, request.into_inner().filter);
        let next = move |mut cursor| {
            let items = engine.next_pods(realm, filter.as_ref(), &mut cursor);
            futures::future::ready(items.map(|items| (items, cursor)))
        };
        let wrap = |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes };
        Ok(Response::new(pages("StreamPodSandboxes", next, wrap)))
    }

    type StreamContainersStream = Items<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let (engine, realm, filter) = (self.engine.clone(), self.realm, request.into_inner().filter);
        let next = move |mut cursor| {
            let items = engine.next_containers(realm, filter.as_ref(), &mut cursor);
            futures::future::ready(items.map(|items| (items, cursor)))
        };
        let wrap = |containers| v1::StreamContainersResponse { containers };
        Ok(Response::new(pages("StreamContainers", next, wrap)))
    }

    type StreamContainerStatsStream = Items<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let (engine, realm) = (self.engine.clone(), self.realm);
        let filter = request.into_inner().filter.unwrap_or_default();
        let next = move |cursor| {
            let (engine, filter) = (engine.clone(), filter.clone());
            async move { engine.next_container_stats(realm, filter, cursor).await }
        };
        let wrap = |container_stats| v1::StreamContainerStatsResponse { container_stats };
        Ok(Response::new(pages("StreamContainerStats", next, wrap)))
    }

    type StreamPodSandboxStatsStream = Items<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let (engine, realm) = (self.engine.clone(), self.realm);
        let filter = request.into_inner().filter.unwrap_or_default();
        let next = move |cursor| {
            let (engine, filter) = (engine.clone(), filter.clone());
            async move { engine.next_pod_stats(realm, filter, cursor).await }
        };
        let wrap = |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(Response::new(pages("StreamPodSandboxStats", next, wrap)))
    }

    type StreamPodSandboxMetricsStream = Items<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let (engine, realm) = (self.engine.clone(), self.realm);
        let next = move |cursor| {
            let engine = engine.clone();
            async move { engine.next_pod_metrics(realm, cursor).await }
        };
        let wrap = |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(Response::new(pages("StreamPodSandboxMetrics", next, wrap)))
    }
}

impl Runtime {
    fn info(&self) -> BTreeMap<String, String> {
        let handlers = self.engine.handlers();
        let each = handlers
            .iter()
            .map(|h| serde_json::json!({"name": h.name(), "path": h.path(), "broken": h.broken()}));
        let config = serde_json::json!({
            "realm": self.realm,
            "defaultHandler": handlers.default_name(),
            "handlers": each.collect::<Vec<_>>(),
            "pods": self.engine.pod_count(),
            "podCIDR": self.engine.pod_cidr(),
        });
        BTreeMap::from([("config".to_owned(), config.to_string())])
    }
}
