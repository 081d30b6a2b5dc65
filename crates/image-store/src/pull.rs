//! Pulling: which endpoint has the image, what its reference means now, and what is missing of it.

use crate::assemble::{Order, Source, assemble};
use crate::content::document::{self, Document, Manifest};
use crate::digest::Digest;
use crate::disk::records::Ref;
use crate::flight::Flight;
use crate::names::reference::{Reference, Which};
use crate::publish::{Complete, Names};
use crate::registry::{Fetched, Session};
use crate::store::Inner;
use crate::{Credentials, Error, ErrorKind, ImageId, Progress, ProgressSender, Realm, Result};
use gantry_stage::Stage;
use std::sync::Arc;
use tokio::sync::watch;

/// Indexes that may lead from one to the next.
const MAX_NESTING: usize = 3;

/// Pulls a reference into a realm.
pub(crate) async fn pull(
    inner: Arc<Inner>,
    realm: Realm,
    text: String,
    credentials: Option<Credentials>,
    progress: ProgressSender,
) -> Result<ImageId> {
    let permit = Stage::PullQueue.run(inner.pulls.acquire()).await;
    let _permit = permit.map_err(|_| crate::content::pipe::given_up())?;
    let registries = inner.load_registries().await?;
    let candidates = Reference::candidates(&text, &registries.search)?;
    let mut errors = Vec::new();
    for reference in candidates {
        let endpoints = registries.endpoints(&reference)?;
        let resolving = resolve(&inner, &reference, &endpoints, credentials.as_ref());
        match Stage::PullResolve.run(resolving).await {
            Ok((session, fetched)) => {
                return bring(&inner, realm, &reference, session, fetched, &progress).await;
            }
            Err(error) => errors.push(error),
        }
    }
    Err(joined(&text, errors))
}

/// Asks the endpoints in order; the first that has the image is the source of all of it.
async fn resolve(
    inner: &Inner,
    reference: &Reference,
    endpoints: &[crate::names::registries::Endpoint],
    credentials: Option<&Credentials>,
) -> Result<(Session, Fetched)> {
    let mut errors = Vec::new();
    for endpoint in endpoints {
        let limits = &inner.config.limits;
        let opened = Session::open(&inner.transports, limits, endpoint, credentials, reference.which()).await;
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => errors.push(error),
        }
    }
    Err(joined(&reference.to_string(), errors))
}

/// One error for several places that were asked. The last one decides its kind, being the place that
/// the name itself says, unless it is only that one does not have it.
fn joined(object: &str, mut errors: Vec<Error>) -> Error {
    if errors.len() < 2 {
        return errors.pop().unwrap_or_else(|| Error::not_found(object, "there is nowhere to look for it"));
    }
    let reason = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let object = object.to_owned();
    match errors.last().map(Error::kind) {
        Some(ErrorKind::NotFound) => Error::NotFound { object, reason },
        Some(ErrorKind::Unauthorized) => Error::Unauthorized { object, reason },
        Some(ErrorKind::Corrupt) => Error::Corrupt { object, reason },
        Some(ErrorKind::Unsupported) => Error::Unsupported { object, reason },
        _ => Error::Unavailable { object, reason },
    }
}

/// Brings what is missing of an image, and names it.
async fn bring(
    inner: &Arc<Inner>,
    realm: Realm,
    reference: &Reference,
    session: Session,
    fetched: Fetched,
    progress: &ProgressSender,
) -> Result<ImageId> {
    let mut names = Names { digests: vec![reference.at(&fetched.digest)], ..Names::default() };
    if matches!(reference.which(), Which::Tag(_)) {
        names.tags.push(reference.clone());
    }
    let name = reference.to_string();
    let looking = Stage::PullManifest.begin();
    let (resolved, fetched) = follow(inner, &name, &session, fetched, &mut names).await?;
    if names.digests[0] != reference.at(&resolved) {
        names.digests.push(reference.at(&resolved));
    }
    let known = inner.shared.lock().image_of_manifest(&resolved).filter(|r| r.manifest == resolved).cloned();
    if let Some(known) = known
        && let Some(id) = name_known(inner, realm, known, names.clone()).await?
    {
        return Ok(id);
    }
    let (document, manifest) = match fetched {
        Some(manifest) => manifest,
        None => manifest_at(&name, &session, &resolved).await?,
    };
    drop(looking);
    let source = Arc::new(Source::Registry(Box::new(session)));
    let order = Order { source, document: (resolved, document), manifest };
    // Held until the image is published: whoever comes meanwhile joins it.
    let (image, flight) = content(inner, &order, progress).await?;
    let inner = Arc::clone(inner);
    let publishing = run_blocking(move || inner.publisher.publish(realm, &image, &names));
    let published = Stage::PullPublish.run(publishing).await;
    drop(flight);
    published
}

/// Follows indexes down to the manifest for this machine. The manifest itself is only given back when
/// it was what the registry answered with: one that an index names may be in the store already.
async fn follow(
    inner: &Inner,
    name: &str,
    session: &Session,
    fetched: Fetched,
    names: &mut Names,
) -> Result<(Digest, Option<(Vec<u8>, Manifest)>)> {
    let mut fetched = fetched;
    for _ in 0..MAX_NESTING {
        match document::parse(name, &fetched.bytes, fetched.content_type.as_deref())? {
            Document::Manifest(manifest) => return Ok((fetched.digest, Some((fetched.bytes, manifest)))),
            Document::Index(choices) => {
                let chosen = document::choose(name, &choices)?.digest.clone();
                if names.index.is_none() {
                    names.index = Some((fetched.digest, fetched.bytes));
                }
                if inner.shared.lock().image_of_manifest(&chosen).is_some_and(|r| r.manifest == chosen) {
                    return Ok((chosen, None));
                }
                fetched = session.manifest_by_digest(&chosen).await?;
            }
        }
    }
    Err(Error::corrupt(format!("image {name}"), format!("more than {MAX_NESTING} nested indexes")))
}

async fn manifest_at(name: &str, session: &Session, digest: &Digest) -> Result<(Vec<u8>, Manifest)> {
    let fetched = session.manifest_by_digest(digest).await?;
    match document::parse(name, &fetched.bytes, fetched.content_type.as_deref())? {
        Document::Manifest(manifest) => Ok((fetched.bytes, manifest)),
        Document::Index(_) => Err(Error::corrupt(format!("manifest {digest}"), "it is an index now")),
    }
}

async fn name_known(inner: &Arc<Inner>, realm: Realm, known: Ref, names: Names) -> Result<Option<ImageId>> {
    let inner = Arc::clone(inner);
    run_blocking(move || inner.publisher.name(realm, &known, &names)).await
}

/// The content of an image, together with whoever else wants it. Work that somebody else had begun and
/// that failed is begun again once: their permission may have been to blame.
async fn content(
    inner: &Arc<Inner>,
    order: &Order,
    progress: &ProgressSender,
) -> Result<(Arc<Complete>, Flight<Arc<Complete>>)> {
    let mut again = true;
    loop {
        let news = watch::Sender::new(Progress::default());
        let joined = inner.images.join(order.document.0.as_str(), news, |news| {
            assemble(Arc::clone(inner), order.clone(), (*news).clone())
        });
        let result = watched(joined.flight.clone(), &joined.news, progress).await;
        match result {
            Err(_) if !joined.started && again => again = false,
            result => return result.map(|image| (image, joined.flight)),
        }
    }
}

/// Waits for a flight and passes its news on.
async fn watched<T: Clone>(
    mut flight: Flight<T>,
    news: &watch::Sender<Progress>,
    progress: &ProgressSender,
) -> Result<T> {
    let mut news = news.subscribe();
    news.mark_changed();
    loop {
        tokio::select! {
            result = &mut flight => {
                progress.update(|p| p.clone_from(&news.borrow_and_update()));
                return result;
            }
            Ok(()) = news.changed() => progress.update(|p| p.clone_from(&news.borrow_and_update())),
        }
    }
}

/// Runs something that touches the disk where it may block.
pub(crate) async fn run_blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(f))
        .await
        .unwrap_or_else(|e| Err(crate::flight::broken(&e)))
}
