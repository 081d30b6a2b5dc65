//! ImageService: images by name, as one realm sees them.

use crate::code::image_status;
use crate::streams::Items;
use gantry_cri_api::v1;
use gantry_cri_api::v1::image_service_server::ImageService;
use gantry_image_store::{Credentials, Image, ImageStore, ProgressSender, Realm};
use gantry_pod_sandbox::Engine;
use std::collections::BTreeMap;
use tonic::{Request, Response, Status};

/// ImageService for one realm.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    pub(crate) store: ImageStore,
    /// For the space of writable layers.
    pub(crate) engine: Engine,
    pub(crate) realm: Realm,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let filter = request.into_inner().filter.and_then(|f| f.image).map(|spec| spec.image);
        let images = match filter.as_deref() {
            None | Some("") => self.store.list(self.realm),
            Some(name) => self.store.get(self.realm, name).into_iter().collect(),
        };
        Ok(Response::new(v1::ListImagesResponse { images: images.into_iter().map(to_cri).collect() }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let name = name(request.image.as_ref(), "ImageStatus")?;
        let image = self.store.get(self.realm, &name);
        let info = match &image {
            Some(image) if request.verbose => info(image),
            _ => BTreeMap::new(),
        };
        // An image that is not there is an answer without an image, not an error (CRI).
        Ok(Response::new(v1::ImageStatusResponse { image: image.map(to_cri), info }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let name = name(request.image.as_ref(), "PullImage")?;
        let credentials = request.auth.map(credentials);
        let pulled = self.store.pull(self.realm, &name, credentials, ProgressSender::none()).await;
        let id = pulled.map_err(|e| image_status("PullImage", e))?;
        Ok(Response::new(v1::PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let name = name(request.into_inner().image.as_ref(), "RemoveImage")?;
        let (store, realm) = (self.store.clone(), self.realm);
        let span = tracing::Span::current();
        let remove = move || span.in_scope(|| store.remove(realm, &name));
        let removed = tokio::task::spawn_blocking(remove).await;
        match removed {
            // Removing what is not there succeeds (CRI).
            Ok(Ok(_was_there)) => Ok(Response::new(v1::RemoveImageResponse {})),
            Ok(Err(e)) => Err(image_status("RemoveImage", e)),
            Err(e) => Err(Status::internal(format!("the removal ended abnormally: {e}"))),
        }
    }

    async fn image_fs_info(
        &self,
        _request: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        let usage = self.store.usage();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let filesystem = |mountpoint: String, bytes, inodes| v1::FilesystemUsage {
            timestamp: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            inodes_used: Some(v1::UInt64Value { value: inodes }),
        };
        let images = filesystem(usage.mountpoint.display().to_string(), usage.bytes, usage.inodes);
        // The kubelet takes two names for two filesystems: where both are on one, both have one name.
        let (bytes, inodes) = self.engine.layers_usage();
        let layers = filesystem(self.engine.layers_mountpoint().to_owned(), bytes, inodes);
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![layers],
        }))
    }

    type StreamImagesStream = Items<v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let filter = request.into_inner().filter.and_then(|f| f.image).map(|spec| spec.image);
        if let Some(name) = filter.filter(|name| !name.is_empty()) {
            let found = self.store.get(self.realm, &name).map(|image| Ok(part(vec![image])));
            return Ok(Response::new(Box::pin(futures::stream::iter(found))));
        }
        let (store, realm) = (self.store.clone(), self.realm);
        let parts = futures::stream::unfold(String::new(), move |after| {
            let images = store.list_after(realm, &after, MAX_PART);
            let last = images.last().map(|image| image.id.to_string());
            futures::future::ready(last.map(|last| (Ok(part(images)), last)))
        });
        Ok(Response::new(Box::pin(parts)))
    }
}

/// Most images of one part of a streamed list.
const MAX_PART: usize = 128;

fn part(images: Vec<Image>) -> v1::StreamImagesResponse {
    v1::StreamImagesResponse { images: images.into_iter().map(to_cri).collect() }
}

fn name(spec: Option<&v1::ImageSpec>, rpc: &'static str) -> Result<String, Status> {
    match spec.map(|s| s.image.as_str()) {
        None | Some("") => Err(Status::invalid_argument(format!("{rpc}: the request names no image"))),
        Some(name) => Ok(name.to_owned()),
    }
}

fn credentials(auth: v1::AuthConfig) -> Credentials {
    let set = |text: String| Some(text).filter(|t| !t.is_empty());
    Credentials {
        username: set(auth.username),
        password: set(auth.password),
        auth: set(auth.auth),
        identity_token: set(auth.identity_token),
        registry_token: set(auth.registry_token),
        server_address: set(auth.server_address),
    }
}

/// An image as the CRI shows it; the user is a number or a name (`Image.uid`, `Image.username`).
fn to_cri(image: Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    let username = if uid.is_some() { String::new() } else { user.to_owned() };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size,
        username,
        uid: uid.map(|value| v1::Int64Value { value }),
        spec: None,
        pinned: image.pinned,
    }
}

fn info(image: &Image) -> BTreeMap<String, String> {
    let config = &image.config;
    let value = serde_json::json!({
        "layers": image.layers,
        "created": image.created,
        "imageSpec": {"config": {
            "User": config.user, "Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd,
            "WorkingDir": config.working_dir, "StopSignal": config.stop_signal, "Labels": config.labels,
        }},
    });
    BTreeMap::from([("info".to_owned(), value.to_string())])
}
