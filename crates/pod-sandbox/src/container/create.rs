//! CreateContainer: everything that a user can get wrong is found here, before anything runs.

use super::{CGROUP_PREFIX, Container, images, mapped, paths};
use crate::engine::{ContainerKey, Engine, Inner};
use crate::error::{Kind, io_error};
use crate::flight::{blocking, lock};
use crate::journal::{Journal, Undo};
use crate::pod::{Pod, PodNamespaces};
use crate::record::{self, ContainerRecord, ContainerState, User};
use crate::{Error, Realm, Result, sandboxer, spec};
use gantry_cri_api::v1;
use gantry_image_store::{Image, Owners};
use gantry_stage::Stage;
use prost::Message as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest container name that is taken.
const MAX_NAME: usize = 253;

impl Engine {
    /// Makes a container in a ready sandbox and returns its id; the same request again joins the
    /// running one or returns the id that it got.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`] naming the container that has the same name and attempt and another
    /// configuration; [`Kind::NotFound`] for a missing image.
    pub async fn create_container(
        &self,
        realm: Realm,
        pod_id: &str,
        config: v1::ContainerConfig,
    ) -> Result<String> {
        let inner = &self.inner;
        let pod = inner.pod(realm, pod_id)?;
        record::check_size("container", config.encoded_len())?;
        let meta = config.metadata.clone().unwrap_or_default();
        if meta.name.is_empty() || meta.name.len() > MAX_NAME || meta.name.contains(['\n', '\0', '/']) {
            let message = format!(
                "the container name {:.64?} must have 1 to {MAX_NAME} characters on one line, without '/'",
                meta.name
            );
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        if security.is_some_and(|s| s.privileged) && !is_privileged(&pod) {
            let message = format!(
                "container {} asks to be privileged, but its sandbox {} is not: make the sandbox privileged too",
                meta.name, pod.id
            );
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let name = meta.name.clone();
        {
            let pod = pod.record();
            sandboxer::check_container(pod.sandboxer, &pod.handler, &pod.config, &config)
                .map_err(|e| e.context(format!("container {name}")))?;
        }
        let key = ContainerKey { pod_id: pod.id.clone(), name: meta.name, attempt: meta.attempt };
        let (container, fresh) = {
            let image = image(inner, realm, config.image.as_ref())?;
            let mut state = lock(&inner.state);
            match state.container_keys.get(&key).and_then(|id| state.containers.get(id)) {
                Some(container) => (container.clone(), false),
                None => {
                    let container = Arc::new(new_container(&pod, config.clone(), &image)?);
                    state.container_keys.insert(key.clone(), container.id.clone());
                    state.containers.insert(container.id.clone(), container.clone());
                    (container, true)
                }
            }
        };
        if !fresh {
            let record = container.record();
            if record.config != config {
                let message = format!(
                    "container {name} of sandbox {} exists already as {}, with another configuration; \
                     remove it or use another attempt number",
                    pod.id, container.id
                );
                return Err(Error::new(Kind::AlreadyExists, message));
            }
            if record.state != ContainerState::Creating {
                return Ok(container.id.clone());
            }
        }
        let work = {
            let (inner, container) = (inner.clone(), container.clone());
            move || async move { create(&inner, &container).await }
        };
        inner.container_flights.join(key, work).await.map_err(|e| e.context(format!("container {name}")))
    }
}

/// Whether the sandbox's maker allowed privileged containers in it (CRI: `LinuxSandboxSecurityContext`).
fn is_privileged(pod: &Pod) -> bool {
    let record = pod.record();
    let security = record.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    security.is_some_and(|s| s.privileged)
}

pub(super) fn image(inner: &Inner, realm: Realm, spec: Option<&v1::ImageSpec>) -> Result<Image> {
    let wanted = spec.map(|i| i.image.as_str()).filter(|i| !i.is_empty());
    let wanted =
        wanted.ok_or_else(|| Error::new(Kind::InvalidArgument, "the configuration names no image"))?;
    inner
        .images
        .get(realm, wanted)
        .ok_or_else(|| Error::new(Kind::NotFound, format!("image {wanted} is not here; pull it first")))
}

fn new_container(pod: &Arc<Pod>, config: v1::ContainerConfig, image: &Image) -> Result<Container> {
    let id = crate::id::new_id()?;
    let dir = pod.container_dir(&id);
    let parent = pod.record().cgroup_parent.clone();
    let record = ContainerRecord {
        version: record::VERSION,
        cgroup: format!("{}/{CGROUP_PREFIX}{id}", parent.trim_end_matches('/')),
        id,
        pod_id: pod.id.clone(),
        config,
        resources: None,
        image_id: image.id.to_string(),
        image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
        created_at: record::now(),
        state: ContainerState::Creating,
        process: None,
        started_at: 0,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        log_path: None,
        own_pid_namespace: false,
        stop_signal: spec::SIGTERM,
        user: User::default(),
    };
    let journal = Journal::new(&dir);
    Ok(Container::new(pod.clone(), dir, record, journal))
}

async fn create(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<String> {
    match build(inner, container).await {
        Ok(()) => {
            tracing::info!(container = %container.id, pod = %container.pod.id, "container created");
            Ok(container.id.clone())
        }
        Err(error) => {
            Stage::ContainerUndo.run(inner.abandon_container(container)).await;
            Err(error)
        }
    }
}

async fn build(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<()> {
    let pod = &container.pod;
    let looking = Stage::ContainerSources.begin();
    let _gate = pod.gate.read().await;
    if !pod.is_ready() {
        let message = format!("sandbox {} is not ready; its containers need a new one", pod.id);
        return Err(Error::new(Kind::FailedPrecondition, message));
    }
    let config = container.record().config.clone();
    let volumes = images::wanted(inner, pod.realm, &config)?;
    let binds = config.mounts.iter().filter(|m| m.image.is_none() && !m.host_path.is_empty());
    let binds = binds.map(|m| PathBuf::from(&m.host_path)).collect();
    paths::check_sources(binds, inner.policy.create_missing_mount_sources).await?;
    let security = config.linux.as_ref().and_then(|l| l.security_context.clone()).unwrap_or_default();
    let labels = {
        let record = pod.record().clone();
        let can = inner.handlers.get(&record.handler)?.features().selinux;
        spec::selinux_labels(&security, &record.config, &pod.id, &inner.host, &inner.policy, can)?
            .filter(|_| !pod.is_sandboxed())
    };
    let apparmor = match pod.is_sandboxed() {
        true => None,
        false => inner.apparmor.default_for(&security).await?,
    };

    let userns = mapped::user_namespace(pod)?;
    std::fs::DirBuilder::new()
        // Root of a user namespace walks through it to the root filesystem.
        .mode(if userns.is_some() { 0o711 } else { 0o700 })
        .create(&container.dir)
        .map_err(io_error("create", &container.dir))?;
    drop(looking);
    container.update(|_| {})?;
    let pod_record = pod.record().clone();
    let default_log = pod_record.config.log_directory.is_empty().then(|| {
        let name = config.metadata.as_ref().map_or("container", |m| &m.name);
        pod_record.log_directory.join(format!("{name}-{}.log", &container.id[..12]))
    });
    let log_path = paths::log_path(&pod_record.log_directory, &config.log_path, default_log)?;
    if let Some(parent) = log_path.as_ref().and_then(|p| p.parent()) {
        std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }

    container.promise(Undo::RemoveSnapshot(container.id.clone()))?;
    let (images, id, realm) = (inner.images.clone(), container.id.clone(), pod.realm);
    let image_id = container.record().image_id.clone();
    let image = inner
        .images
        .get(realm, &image_id)
        .ok_or_else(|| Error::new(Kind::NotFound, format!("image {image_id} was removed meanwhile")))?;
    let leased = image.id.clone();
    let leasing = blocking(move || images.prepare(realm, &id, &leased).map(|_| ()).map_err(Error::from));
    Stage::ContainerImage.run(leasing).await?;

    images::lease(inner, container, &volumes).await?;
    let rootfs = container.rootfs();
    container.promise(Undo::Unmount(rootfs.clone()))?;
    container.promise(Undo::RemoveCgroup(container.record().cgroup.clone()))?;
    let made = {
        let (inner, container, mut config) = (inner.clone(), container.clone(), config.clone());
        move || {
            std::fs::create_dir(&rootfs).map_err(io_error("create", &rootfs))?;
            let mounting = Stage::ContainerSnapshot.begin();
            let outside = |uid, gid| userns.as_ref().and_then(|user| user.outside(uid, gid));
            let owners = userns.as_ref().map(|user| Owners { userns: user.fd.as_fd(), outside: &outside });
            let context = labels.as_ref().map(|l| l.files.as_str());
            inner.images.mount_as(&container.id, &rootfs, owners.as_ref(), context)?;
            images::mount(&inner, &container, &volumes, &mut config.mounts, owners.as_ref(), context)?;
            mapped::map_sources(&container, &mut config.mounts, userns.as_ref())?;
            drop(mounting);
            let made = super::bundle::write(&inner, &container, &config, &image, apparmor, labels.as_ref())?;
            // There is next to nothing in it yet.
            if let Err(error) = container.layer.measure(&inner, &container.id) {
                tracing::debug!(container = %container.id, %error, "space not measured");
            }
            Ok(made)
        }
    };
    let made = blocking(made).await?;
    let namespaces = PodNamespaces::of(&pod_record);
    container.update(|r| {
        r.log_path = log_path;
        r.user = made.user;
        r.stop_signal = made.stop_signal;
        r.own_pid_namespace = made.own_pid_namespace && !namespaces.host_pid;
        r.state = ContainerState::Created;
    })
}
