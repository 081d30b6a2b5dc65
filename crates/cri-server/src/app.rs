//! From a configuration to a running daemon, and back.

use crate::by_realm::ByRealm;
use crate::config::{CgroupDriver, Config, CriNetwork};
use crate::image_service::Images;
use crate::layers::{Layers, MAX_STREAMS};
use crate::listen;
use crate::local_service::LocalApi;
use crate::metrics::{Metrics, MetricsServer};
use crate::programs::Programs;
use crate::run_dir::RunDir;
use crate::runtime_service::Runtime;
use gantry_cgroup::Hierarchies;
use gantry_cri_api::MAX_MESSAGE;
use gantry_cri_api::local::v1::local_server::LocalServer;
use gantry_cri_api::v1::image_service_server::ImageServiceServer;
use gantry_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use gantry_image_store::{ImageStore, StoreConfig};
use gantry_netns::{BuiltinConfig, CniConfig, NetworkKind, Networks, NetworksConfig};
use gantry_pod_sandbox::handler::HandlerConfig;
use gantry_pod_sandbox::{ContainerPolicy, Engine, EngineConfig, Error, Kind, Realm, Result};
use gantry_stage::Stage;
use gantry_streaming::{BindError, Server as StreamServer, Streaming, TlsFiles};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

/// How long calls may go on after the daemon was told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A daemon whose sockets are bound and whose pods are taken over.
#[derive(Debug)]
pub struct App {
    parts: Parts,
    run_dir: RunDir,
}

/// Everything but the run directory, which is given back if one of these cannot be made.
#[derive(Debug)]
struct Parts {
    engine: Engine,
    cri: UnixListener,
    local: UnixListener,
    pid_file: Option<PathBuf>,
    sockets: [PathBuf; 2],
    systemd_cgroup: bool,
    cni_conf_template: Option<PathBuf>,
    streaming: Streaming,
    stream_server: StreamServer,
    metrics: Metrics,
    metrics_server: Option<MetricsServer>,
}

impl App {
    /// Makes everything that the daemon consists of: nothing is served yet but `metrics`, where the
    /// configuration wants that.
    ///
    /// # Errors
    ///
    /// What makes the node unusable as a whole; a damaged record of one pod or image does not.
    pub async fn build(config: Config, metrics: Metrics) -> Result<Self> {
        raise_open_files();
        let programs = Programs::find(config.helper_dir.as_deref())?;
        std::fs::create_dir_all(&config.root)
            .map_err(|e| Error::new(Kind::Internal, format!("create {}: {e}", config.root.display())))?;
        let run_dir = RunDir::open(&config.run_dir)?;
        match Self::assemble(config, programs, &run_dir, metrics).await {
            Ok(parts) => Ok(Self { parts, run_dir }),
            Err(error) => {
                if run_dir.has_no_pods() {
                    run_dir.close()?;
                }
                Err(error)
            }
        }
    }

    async fn assemble(
        config: Config,
        programs: Programs,
        run_dir: &RunDir,
        metrics: Metrics,
    ) -> Result<Parts> {
        let sockets = [config.listen_path(), config.local_listen_path()];
        let cri = listen::bind(&sockets[0]).await?;
        let local = listen::bind(&sockets[1]).await?;

        let store = StoreConfig {
            registries_conf: Some(config.registries_conf.clone()),
            ..StoreConfig::new(config.root.clone())
        };
        let opening = Stage::StartImages.begin();
        let (images, damaged_images) = ImageStore::open(store)?;
        drop(opening);
        for damaged in damaged_images {
            tracing::error!(path = %damaged.moved_to.display(), reason = damaged.reason, "image record set aside");
        }
        let networks = NetworksConfig {
            builtin: BuiltinConfig::new(run_dir.path().join("network")),
            cni: CniConfig {
                conf_dir: config.cni_conf_dir,
                bin_dirs: config.cni_bin_dir,
                cache_dir: config.root.join("cni"),
                limit: Duration::from_secs(config.cni_timeout.get().into()),
                gc: config.cni_gc,
            },
            netns_dir: config.netns_dir,
        };
        let opening = Stage::StartNetwork.begin();
        let (networks, damaged_attachments) = Networks::open(networks)?;
        drop(opening);
        for damaged in damaged_attachments {
            tracing::error!(?damaged, "network attachment record set aside");
        }
        let systemd_cgroup = config.cgroup_driver == CgroupDriver::Systemd;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let handlers = HandlerConfig {
            embedded: programs.runtime,
            named: config.runtimes,
            default: config.default_runtime,
            search: std::env::split_paths(&path).collect(),
        };
        let cri_network = match config.cri_network {
            CriNetwork::Builtin => NetworkKind::Builtin,
            CriNetwork::Cni => NetworkKind::Cni,
        };
        let engine = EngineConfig {
            root: config.root,
            run_dir: run_dir.path().to_owned(),
            monitor_program: programs.monitor,
            handlers,
            hierarchies: Hierarchies::detect()?,
            cgroup_driver: match systemd_cgroup {
                true => gantry_pod_sandbox::CgroupDriver::Systemd,
                false => gantry_pod_sandbox::CgroupDriver::Cgroupfs,
            },
            images,
            networks,
            cri_network,
            stats_interval: Duration::from_secs(config.stats_interval.get().into()),
            pod_metrics: config.pod_metrics.into_iter().map(Into::into).collect(),
            policy: ContainerPolicy {
                cdi_spec_dirs: config.cdi_spec_dirs,
                ulimits: config.default_ulimits,
                create_missing_mount_sources: config.create_missing_mount_sources,
                privileged_without_host_devices: config.privileged_without_host_devices,
                hostnetwork_disable_selinux: config.hostnetwork_disable_selinux,
            },
            exec_on_disconnect: config.exec_on_disconnect.into(),
        };
        let (engine, report) = Stage::StartPods.run(Engine::open(engine)).await?;
        tracing::info!(
            adopted = report.adopted,
            undone = report.undone,
            quarantined = report.quarantined.len(),
            default_runtime = engine.handlers().default_name(),
            "pods taken over"
        );
        let endpoint = Arc::new(engine.endpoint());
        let seconds = |number: u32| Duration::from_secs(number.into());
        let stream_config = gantry_streaming::Config {
            tls: match (config.stream_tls_cert, config.stream_tls_key) {
                (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
                // One alone is a contradiction that the configuration was searched for.
                _ => None,
            },
            idle: seconds(config.stream_idle_timeout.get()),
            stream_creation: seconds(config.stream_creation_timeout.get()),
            ..gantry_streaming::Config::new(config.stream_address)
        };
        let (streaming, stream_server) = Streaming::bind(stream_config, endpoint)
            .await
            .map_err(|e| Error::new(Kind::Internal, cannot_stream(&e)))?;
        let metrics_server = match &config.metrics_address {
            Some(address) => {
                Some(MetricsServer::start(address, metrics.clone(), Some(engine.clone())).await?)
            }
            None => None,
        };
        let pid_file = config.pid_file;
        Ok(Parts {
            engine,
            cri,
            local,
            pid_file,
            sockets,
            systemd_cgroup,
            cni_conf_template: config.cni_conf_template,
            streaming,
            stream_server,
            metrics,
            metrics_server,
        })
    }

    /// Serves until `stop` resolves, then lets running calls end. Pods go on; with no pod left, the
    /// host is left as it was found.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { parts, run_dir } = self;
        let (tell, told) = watch::channel(false);
        let wait = |mut told: watch::Receiver<bool>| async move {
            // The sender going away means the same.
            let _stopped = told.wait_for(|stop| *stop).await;
        };
        let (cri, local) = (parts.cri_router(), parts.local_router());
        let cri = cri.serve_with_incoming_shutdown(UnixListenerStream::new(parts.cri), wait(told.clone()));
        let local =
            local.serve_with_incoming_shutdown(UnixListenerStream::new(parts.local), wait(told.clone()));
        let streams = tokio::spawn(parts.stream_server.serve(wait(told)));
        let (cri, local) = (tokio::spawn(cri), tokio::spawn(local));
        if let Some(path) = &parts.pid_file {
            write_pid_file(path)?;
        }
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "systemd was not told that the daemon is ready");
        }
        tracing::info!(cri = %parts.sockets[0].display(), local = %parts.sockets[1].display(), streaming = parts.streaming.base_url(), "ready");

        stop.await;
        tracing::info!("stopping; pods go on running");
        tell.send_replace(true);
        // Their clients never end these by themselves.
        parts.engine.end_events();
        let drained = async {
            for server in [cri, local] {
                match server.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "a server ended with an error"),
                    Err(error) => tracing::error!(%error, "a server ended abnormally"),
                }
            }
        };
        if let Err(error) = streams.await {
            tracing::error!(%error, "the streaming server ended abnormally");
        }
        if tokio::time::timeout(DRAIN_LIMIT, drained).await.is_err() {
            tracing::warn!(seconds = DRAIN_LIMIT.as_secs(), "calls were still running when the daemon ended");
        }
        if let Some(server) = parts.metrics_server {
            server.stop();
        }
        for path in parts.sockets.iter().chain(&parts.pid_file) {
            // A new daemon replaces what is left.
            let _gone = std::fs::remove_file(path);
        }
        parts.engine.close_if_idle().await?;
        if parts.engine.pod_count() == 0 {
            run_dir.close()?;
        }
        Ok(())
    }
}

impl Parts {
    /// What the kubelet's socket serves: its own realm.
    fn cri_router(&self) -> Router<Stack<Layers, Identity>> {
        self.server(Realm::Cri)
            .add_service(self.runtime(Realm::Cri))
            .add_service(self.image_service(Realm::Cri))
    }

    /// What the command line's socket serves: both realms, by a header.
    fn local_router(&self) -> Router<Stack<Layers, Identity>> {
        let runtime = ByRealm { cri: self.runtime(Realm::Cri), local: self.runtime(Realm::Local) };
        let images = ByRealm { cri: self.image_service(Realm::Cri), local: self.image_service(Realm::Local) };
        let local_api =
            LocalServer::new(LocalApi { engine: self.engine.clone() }).max_decoding_message_size(MAX_MESSAGE);
        self.server(Realm::Local).add_service(runtime).add_service(images).add_service(local_api)
    }

    /// A server of one socket, with what every call passes.
    fn server(&self, realm: Realm) -> Server<Stack<Layers, Identity>> {
        Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .layer(Layers::new(self.metrics.clone(), realm.as_str()))
    }

    fn runtime(&self, realm: Realm) -> RuntimeServiceServer<Runtime> {
        let runtime = Runtime {
            engine: self.engine.clone(),
            streaming: self.streaming.clone(),
            realm,
            systemd_cgroup: self.systemd_cgroup,
            cni_conf_template: self.cni_conf_template.clone(),
        };
        RuntimeServiceServer::new(runtime)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn image_service(&self, realm: Realm) -> ImageServiceServer<Images> {
        let images = Images { store: self.engine.images().clone(), engine: self.engine.clone(), realm };
        ImageServiceServer::new(images)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}

/// A pod costs descriptors; the usual soft limit of 1024 is for programs that use select(2).
fn raise_open_files() {
    match gantry_sys::limits::raise_open_files() {
        Ok((soft, _)) => tracing::debug!(limit = ?soft, "open files are limited"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// What to do about a streaming server that cannot be made.
fn cannot_stream(error: &BindError) -> String {
    match error {
        BindError::Tls(_) => format!("{error}; see --stream-tls-cert and --stream-tls-key"),
        _ => format!("{error}; choose another --stream-address"),
    }
}

fn write_pid_file(path: &PathBuf) -> Result<()> {
    let mut temporary = path.clone().into_os_string();
    temporary.push(".new");
    let write = || {
        std::fs::write(&temporary, format!("{}\n", std::process::id()))?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e: std::io::Error| {
        Error::new(Kind::Internal, format!("write the pid file {}: {e}", path.display()))
    })
}
