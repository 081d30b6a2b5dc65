//! The local API: what the command line needs beyond the CRI.

use crate::code::{image_status, status};
use gantry_cri_api::local::v1;
use gantry_cri_api::local::v1::local_server::Local;
use gantry_image_store::{ImportSource, LayerState, Progress, ProgressSender, Realm};
use gantry_pod_sandbox::Engine;
use std::pin::Pin;
use tokio::io::AsyncRead;
use tokio_stream::StreamExt as _;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming};

/// The local API: makes things in the local realm, and reads both.
#[derive(Debug, Clone)]
pub(crate) struct LocalApi {
    pub(crate) engine: Engine,
}

#[tonic::async_trait]
impl Local for LocalApi {
    async fn import_image(
        &self,
        request: Request<Streaming<v1::ImportImageRequest>>,
    ) -> Result<Response<v1::ImportImageResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap_or_default();
        let name = Some(first.name).filter(|n| !n.is_empty());
        let head = tokio_stream::once(Ok(std::io::Cursor::new(first.chunk)));
        let rest = messages.map(|m| match m {
            Ok(message) => Ok(std::io::Cursor::new(message.chunk)),
            Err(status) => Err(std::io::Error::other(status)),
        });
        let reader: Pin<Box<dyn AsyncRead + Send>> = Box::pin(StreamReader::new(head.chain(rest)));
        let store = self.engine.images();
        let fail = |e| image_status("ImportImage", e);
        let archive = store.spool(reader).await.map_err(fail)?;
        let imported =
            store.import(Realm::Local, name, ImportSource::Archive(archive)).await.map_err(fail)?;
        let images = imported
            .into_iter()
            .map(|image| v1::ImportedImage { id: image.id.to_string(), names: image.names })
            .collect();
        Ok(Response::new(v1::ImportImageResponse { images }))
    }

    type PullImageStream = Pin<Box<dyn futures::Stream<Item = Result<v1::PullProgress, Status>> + Send>>;

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let name = request.into_inner().image;
        if name.is_empty() {
            return Err(Status::invalid_argument("PullImage: the request names no image"));
        }
        let (sender, mut progress) = ProgressSender::channel();
        let store = self.engine.images().clone();
        // The pull goes on when the client leaves: what is fetched is not fetched again.
        let pull = tokio::spawn(async move { store.pull(Realm::Local, &name, None, sender).await });
        // Two messages are enough: each replaces the one before.
        let (tell, told) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            while progress.changed().await.is_ok() {
                let message = to_message(&progress.borrow_and_update());
                if tell.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            let last = match pull.await {
                Ok(Ok(id)) => {
                    let mut message = to_message(&progress.borrow());
                    message.image_id = id.to_string();
                    Ok(message)
                }
                Ok(Err(e)) => Err(image_status("PullImage", e)),
                Err(e) => Err(Status::internal(format!("the pull ended abnormally: {e}"))),
            };
            // A client that left needs no answer.
            let _gone = tell.send(last).await;
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(told))))
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Result<Response<v1::WaitResponse>, Status> {
        let v1::WaitRequest { container_id, realm } = request.into_inner();
        let ended = self.engine.wait_container(crate::by_realm::named(&realm)?, &container_id).await;
        let exit_code = ended.map_err(|e| status("Wait", &e))?;
        Ok(Response::new(v1::WaitResponse { exit_code }))
    }

    async fn doctor(
        &self,
        _request: Request<v1::DoctorRequest>,
    ) -> Result<Response<v1::DoctorResponse>, Status> {
        let mut checks: Vec<v1::DoctorCheck> = self
            .engine
            .handlers()
            .iter()
            .map(|handler| v1::DoctorCheck {
                name: format!("runtime {}", handler.name()),
                ok: handler.broken().is_none() || !handler.is_configured(),
                message: match (handler.broken(), handler.is_configured()) {
                    (None, _) => format!("{} passed its self-test", handler.path().display()),
                    (Some(why), true) => format!("{}: {why}", handler.path().display()),
                    (Some(why), false) => format!("{} is here but not usable: {why}", handler.path().display()),
                },
                remedy: match handler.broken() {
                    Some(_) if handler.is_configured() => {
                        "pods that name this handler are refused; repair it or take it out of the configuration".into()
                    }
                    _ => String::new(),
                },
            })
            .collect();
        for check in self.engine.check_networks().await {
            checks.push(v1::DoctorCheck {
                name: format!("network {}", check.name),
                ok: check.ok,
                message: check.message,
                remedy: if check.ok { String::new() } else { check.remedy },
            });
        }
        for (path, why) in self.engine.quarantined() {
            checks.push(v1::DoctorCheck {
                name: "records".into(),
                ok: false,
                message: format!("{} was set aside: {why}", path.display()),
                remedy: "look at the file, then remove its directory".into(),
            });
        }
        Ok(Response::new(v1::DoctorResponse { checks }))
    }
}

fn to_message(progress: &Progress) -> v1::PullProgress {
    let stage = |state: LayerState| match state {
        LayerState::Waiting => "waiting",
        LayerState::Fetching => "fetching",
        LayerState::Done => "done",
        LayerState::Present => "present",
    };
    let layers = progress.layers.iter().map(|layer| v1::LayerProgress {
        digest: layer.digest.clone(),
        stage: stage(layer.state).into(),
        fetched: layer.fetched,
        total: layer.total,
    });
    v1::PullProgress { layers: layers.collect(), image_id: String::new() }
}
