//! From a manifest to a complete image: which layers are there, which have to be fetched, and fetching
//! them in parallel, shared with every other pull that wants the same.

use crate::content::document::{Blob, Manifest, parse_config};
use crate::content::pipe::{self, Sender, pipe};
use crate::content::unpack::{Expected, unpack};
use crate::digest::Digest;
use crate::disk::records::{self, Layer};
use crate::disk::{Disk, make_dir};
use crate::flight::{Flight, broken};
use crate::import::Blobs;
use crate::layer::LayerHandle;
use crate::progress::{LayerNews, report};
use crate::publish::Complete;
use crate::registry::Session;
use crate::state::{Pin, Shared};
use crate::store::Inner;
use crate::{Error, LayerProgress, LayerState, Limits, Progress, Result};
use futures::FutureExt;
use futures::StreamExt;
use futures::future::{pending, ready, try_join_all};
use futures::stream::FuturesUnordered;
use gantry_stage::Stage;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Where the blobs of an image come from.
#[derive(Debug)]
pub(crate) enum Source {
    Registry(Box<Session>),
    Archive(Blobs),
}

impl Source {
    async fn small_blob(&self, blob: &Blob, limit: u64, what: &str) -> Result<Vec<u8>> {
        match self {
            Self::Registry(session) => session.small_blob(blob, limit, what).await,
            Self::Archive(blobs) => blobs.small(blob, limit, what).await,
        }
    }

    /// The stages of getting the configuration, and of fetching and unpacking one layer.
    fn stages(&self) -> [Stage; 3] {
        match self {
            Self::Registry(_) => [Stage::PullConfig, Stage::PullFetch, Stage::PullUnpack],
            Self::Archive(_) => [Stage::ImportConfig, Stage::ImportFetch, Stage::ImportUnpack],
        }
    }

    async fn blob(&self, blob: &Blob, pipe: &Sender, seen: impl FnMut(u64) + Send + 'static) -> Result<bool> {
        match self {
            Self::Registry(session) => session.blob(blob, pipe, seen).await,
            Self::Archive(blobs) => blobs.send(blob, pipe, seen).await,
        }
    }
}

/// What is to be assembled.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) source: Arc<Source>,
    /// Digest and bytes of the manifest.
    pub(crate) document: (Digest, Vec<u8>),
    pub(crate) manifest: Manifest,
}

/// Brings everything that a manifest names into the store or its staging.
pub(crate) async fn assemble(
    inner: Arc<Inner>,
    order: Order,
    progress: watch::Sender<Progress>,
) -> Result<Arc<Complete>> {
    let Order { source, document, manifest } = order;
    let object = || format!("manifest {}", document.0);
    let limits = &inner.config.limits;
    if manifest.layers.len() > limits.layers {
        return Err(Error::corrupt(object(), format!("more than {} layers", limits.layers)));
    }
    let id = manifest.config.digest.clone();
    let [getting, _, _] = source.stages();
    let config = source.small_blob(&manifest.config, limits.config_bytes, "image configuration");
    let config_bytes = getting.run(config).await?;
    let config = parse_config(&id, &config_bytes)?;
    if config.diff_ids.len() != manifest.layers.len() {
        let reason =
            format!("{} layers, but the configuration has {}", manifest.layers.len(), config.diff_ids.len());
        return Err(Error::corrupt(object(), reason));
    }
    progress.send_replace(Progress { layers: manifest.layers.iter().map(waiting).collect() });
    let stack = stack(&manifest.layers, &config.diff_ids);
    // Keeps what the first round brought while a second one runs.
    let mut rounds = Vec::new();
    let (layers, _flights) = loop {
        let mut round = Round::default();
        match round.run(&inner, &source, &stack, &progress).await {
            Err(_) if rounds.is_empty() && round.was_let_down() => rounds.push(round),
            result => break (result?, round.flights),
        }
    };
    Ok(Arc::new(Complete { id, config, config_bytes, manifest: document, layers, _flights }))
}

fn waiting(blob: &Blob) -> LayerProgress {
    let digest = blob.digest.to_string();
    LayerProgress { digest, total: blob.size, fetched: 0, state: LayerState::Waiting }
}

/// One layer of a stack.
#[derive(Debug, Clone)]
struct Wanted {
    expected: Expected,
    chain_id: Digest,
}

fn stack(blobs: &[Blob], diff_ids: &[Digest]) -> Vec<Wanted> {
    let mut below = None;
    let mut stack = Vec::with_capacity(blobs.len());
    for (blob, diff_id) in blobs.iter().zip(diff_ids) {
        let chain_id = Digest::chain(below.as_ref(), diff_id);
        below = Some(chain_id.clone());
        let expected = Expected { blob: blob.clone(), diff_id: diff_id.clone() };
        stack.push(Wanted { expected, chain_id });
    }
    stack
}

/// One attempt at all layers.
#[derive(Debug, Default)]
struct Round {
    flights: Vec<Flight<Arc<LayerHandle>>>,
    /// Those that another pull started.
    joined: Vec<Flight<Arc<LayerHandle>>>,
}

impl Round {
    async fn run(
        &mut self,
        inner: &Arc<Inner>,
        source: &Arc<Source>,
        stack: &[Wanted],
        progress: &watch::Sender<Progress>,
    ) -> Result<Vec<Arc<LayerHandle>>> {
        // A layer may wait for those below it. They get their permits first, in every pull, so that
        // the lowest unfinished layer of all always runs.
        let permits = Arc::new(Semaphore::new(inner.config.limits.parallel_layers.max(1)));
        for (index, wanted) in stack.iter().enumerate() {
            if let Some(handle) = present(inner, wanted) {
                report(progress, index, wanted.expected.blob.size, LayerState::Present);
                self.flights.push(ready(Ok(Arc::new(handle))).boxed().shared());
                continue;
            }
            let permit = tokio::select! {
                biased;
                error = first_failure(&self.flights) => return Err(error),
                permit = Arc::clone(&permits).acquire_owned() => permit,
            };
            let permit = permit.map_err(|_| pipe::given_up())?;
            let (inner_, source) = (Arc::clone(inner), Arc::clone(source));
            let (wanted_, lower) = (wanted.clone(), self.flights.clone());
            let joined = inner.layers.join(wanted.chain_id.as_str(), LayerNews::default(), |news| {
                fetch(inner_, source, wanted_, lower, permit, news)
            });
            joined.news.watch(progress, index);
            if !joined.started {
                self.joined.push(joined.flight.clone());
            }
            self.flights.push(joined.flight);
        }
        try_join_all(self.flights.iter().cloned()).await
    }

    /// Whether work that another pull had started failed: its permission or endpoint may be to blame.
    fn was_let_down(&self) -> bool {
        self.joined.iter().any(|f| matches!(f.peek(), Some(Err(_))))
    }
}

fn present(inner: &Inner, wanted: &Wanted) -> Option<LayerHandle> {
    let mut state = inner.shared.lock();
    let number = state.find_layer(&wanted.chain_id, &wanted.expected.diff_id)?;
    let pin = Pin::new(&inner.shared, &mut state, number);
    Some(LayerHandle::published(&inner.disk, number, pin))
}

/// Resolves when one of the flights fails; never when they all succeed.
async fn first_failure(flights: &[Flight<Arc<LayerHandle>>]) -> Error {
    let mut running: FuturesUnordered<_> = flights.iter().cloned().collect();
    while let Some(result) = running.next().await {
        if let Err(error) = result {
            return error;
        }
    }
    pending().await
}

/// Fetches one layer into staging. When this future is dropped, the unpacking thread sees its input
/// break off, and what it had placed is discarded.
async fn fetch(
    inner: Arc<Inner>,
    source: Arc<Source>,
    wanted: Wanted,
    lower: Vec<Flight<Arc<LayerHandle>>>,
    permit: OwnedSemaphorePermit,
    news: Arc<LayerNews>,
) -> Result<Arc<LayerHandle>> {
    let (sender, receiver) = pipe();
    let cancelled = CancellationToken::new();
    let _cancel = cancelled.clone().drop_guard();
    let below = Below { flights: lower, cancelled, runtime: Handle::current(), shared: inner.shared.clone() };
    let (disk, limits, blob) =
        (Arc::clone(&inner.disk), inner.config.limits.clone(), wanted.expected.blob.clone());
    let [_, fetching, unpacking] = source.stages();
    let span = tracing::Span::current();
    let unpack = move || {
        let _unpacking = unpacking.begin();
        place(&disk, receiver, &wanted, &limits, &below)
    };
    let job = tokio::task::spawn_blocking(move || span.in_scope(unpack));
    let told = Arc::clone(&news);
    let sent = fetching.run(source.blob(&blob, &sender, move |bytes| told.add(bytes))).await;
    drop(sender);
    let placed = job.await.unwrap_or_else(|e| Err(broken(&e)));
    drop(permit);
    sent?;
    let handle = placed?;
    news.done();
    Ok(Arc::new(handle))
}

/// The layers below one that is being unpacked, in case it needs them.
struct Below {
    flights: Vec<Flight<Arc<LayerHandle>>>,
    cancelled: CancellationToken,
    runtime: Handle,
    shared: Shared,
}

impl Below {
    /// Waits for them and opens them, topmost first.
    fn dirs(&self) -> Result<Vec<Arc<OwnedFd>>> {
        let layers = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancelled.cancelled() => Err(pipe::given_up()),
                layers = try_join_all(self.flights.iter().cloned()) => layers,
            }
        })?;
        let mut dirs = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            dirs.push(layer.dir()?);
            if layer.hides_the_rest(&self.shared) {
                break;
            }
        }
        Ok(dirs)
    }
}

/// Unpacks one layer into staging; runs on a thread that may block.
fn place(
    disk: &Arc<Disk>,
    blob: impl std::io::Read,
    wanted: &Wanted,
    limits: &Limits,
    below: &Below,
) -> Result<LayerHandle> {
    let Wanted { expected, chain_id } = wanted;
    let staged = disk.stage_dir()?;
    let fs = staged.path().join("fs");
    make_dir(&fs, 0o755)?;
    let unpacked = unpack(blob, expected, &fs, limits, &mut || below.dirs())?;
    let record =
        Layer::new(expected.diff_id.clone(), chain_id.clone(), expected.blob.digest.clone(), &unpacked);
    let path = staged.path().join("layer.json");
    std::fs::write(&path, records::encode(&record)?)
        .map_err(|e| Error::io("write", path.display().to_string(), e))?;
    Ok(LayerHandle::staged(disk, staged, record))
}
