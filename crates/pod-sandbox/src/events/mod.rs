//! What happens to sandboxes and containers, for the kubelet's evented PLEG (CRI: `GetContainerEvents`).
//!
//! Each object goes through [`Step`]s in one direction; whoever changes its state says so with
//! [`Events::container_changed`] or [`Events::pod_changed`], in any order and as often as it likes: the feed
//! tells each step once and in order, with the status of the pod and its containers at that moment.

mod feed;
mod ring;

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::flight::lock;
use crate::pod::Pod;
use crate::record::{self, ContainerState, PodState};
use crate::{Realm, view};
use feed::{Feed, Reached, Subscription};
use gantry_cri_api::v1;
use prost::Message as _;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What happens to an object, in the order in which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Step {
    /// It is there.
    Created = 1,
    /// It runs.
    Started,
    /// It ended.
    Stopped,
    /// It was removed.
    Deleted,
}

impl Step {
    const ALL: [Self; 4] = [Self::Created, Self::Started, Self::Stopped, Self::Deleted];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u8 == number)
    }

    fn cri(self) -> i32 {
        match self {
            Self::Created => v1::ContainerEventType::ContainerCreatedEvent.into(),
            Self::Started => v1::ContainerEventType::ContainerStartedEvent.into(),
            Self::Stopped => v1::ContainerEventType::ContainerStoppedEvent.into(),
            Self::Deleted => v1::ContainerEventType::ContainerDeletedEvent.into(),
        }
    }
}

/// Sandboxes have events as containers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Container,
}

/// Who has an event, with what must be known to tell of it when it is gone.
#[derive(Debug, Clone)]
struct Object {
    kind: Kind,
    id: String,
    pod_id: String,
    pod: Option<v1::PodSandboxMetadata>,
}

/// How a pod is.
#[derive(Debug, Clone)]
struct Message {
    timestamp: i64,
    pod: v1::PodSandboxStatus,
    containers: Vec<v1::ContainerStatus>,
}

impl Message {
    fn size(&self) -> usize {
        let containers: usize = self.containers.iter().map(prost::Message::encoded_len).sum();
        self.pod.encoded_len() + containers + size_of::<Self>()
    }

    fn response(self, id: &str, step: Step) -> v1::ContainerEventResponse {
        v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: step.cri(),
            created_at: self.timestamp,
            pod_sandbox_status: Some(self.pod),
            containers_statuses: self.containers,
        }
    }
}

/// Where one learns how things are.
trait Node: Send + Sync + 'static {
    /// At most `max` objects that were told of, with ids behind `after`, by id.
    fn objects(&self, kind: Kind, after: &str, max: usize) -> Vec<(Object, Step)>;

    /// How the pod of an object is; `None` when the object is gone.
    fn message(&self, object: &Object) -> Option<Message>;

    /// The same for an object that is gone, and its pod perhaps, too.
    fn last_words(&self, object: &Object) -> Message;
}

/// The events of both realms.
#[derive(Debug)]
pub(crate) struct Events {
    cri: Arc<Feed>,
    local: Arc<Feed>,
    engine: OnceLock<Weak<Inner>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { cri: Arc::new(Feed::new()), local: Arc::new(Feed::new()), engine: OnceLock::new() }
    }

    /// Says whose events they are; before that nothing is told.
    pub(crate) fn attach(&self, engine: &Arc<Inner>) {
        // A second call would name the same engine.
        let _same = self.engine.set(Arc::downgrade(engine));
    }

    fn feed(&self, realm: Realm) -> &Arc<Feed> {
        match realm {
            Realm::Cri => &self.cri,
            Realm::Local => &self.local,
        }
    }

    /// The state of a container may have changed. Not while its record is locked.
    pub(crate) fn container_changed(&self, container: &Container) {
        self.container(container, false);
    }

    /// A container is gone, and no listing shows it any more.
    pub(crate) fn container_removed(&self, container: &Container) {
        self.container(container, true);
    }

    fn container(&self, container: &Container, gone: bool) {
        let Some(inner) = self.engine.get().and_then(Weak::upgrade) else { return };
        let pod = &container.pod;
        let object = container_object(container);
        let reached = || {
            let record = container.record();
            let (state, started) = (record.state, record.started_at != 0);
            let stopped = state == ContainerState::Exited;
            let step = match state {
                _ if gone => Some(Step::Deleted),
                ContainerState::Creating => None,
                ContainerState::Created | ContainerState::Starting => Some(Step::Created),
                ContainerState::Running => Some(Step::Started),
                ContainerState::Exited => Some(Step::Stopped),
            };
            step.map(|step| Reached { step, started, stopped })
        };
        self.feed(pod.realm).advance(&object, &container.told, reached, || message(&inner, pod));
    }

    /// The state of a sandbox may have changed. Not while its record is locked.
    pub(crate) fn pod_changed(&self, pod: &Pod) {
        self.pod(pod, false);
    }

    /// A sandbox is gone, and no listing shows it any more.
    pub(crate) fn pod_removed(&self, pod: &Pod) {
        self.pod(pod, true);
    }

    fn pod(&self, pod: &Pod, gone: bool) {
        let Some(inner) = self.engine.get().and_then(Weak::upgrade) else { return };
        let reached = || {
            let state = pod.record().state;
            let stopped = state == PodState::Stopped;
            let step = match state {
                _ if gone => Some(Step::Deleted),
                PodState::Creating => None,
                PodState::Ready => Some(Step::Started),
                PodState::Stopped => Some(Step::Stopped),
            };
            step.map(|step| Reached { step, started: true, stopped })
        };
        self.feed(pod.realm).advance(&pod_object(pod), &pod.told, reached, || message(&inner, pod));
    }
}

/// What was told of a container that a daemon before this one left in this state.
pub(crate) fn told_of_container(state: ContainerState) -> AtomicU8 {
    AtomicU8::new(match state {
        ContainerState::Creating => 0,
        ContainerState::Created | ContainerState::Starting => Step::Created as u8,
        ContainerState::Running => Step::Started as u8,
        ContainerState::Exited => Step::Stopped as u8,
    })
}

/// What was told of a sandbox that a daemon before this one left in this state.
pub(crate) fn told_of_pod(state: PodState) -> AtomicU8 {
    AtomicU8::new(match state {
        PodState::Creating => 0,
        PodState::Ready => Step::Started as u8,
        PodState::Stopped => Step::Stopped as u8,
    })
}

fn pod_object(pod: &Pod) -> Object {
    let metadata = pod.record().config.metadata.clone();
    Object { kind: Kind::Pod, id: pod.id.clone(), pod_id: pod.id.clone(), pod: metadata }
}

fn container_object(container: &Container) -> Object {
    let pod = &container.pod;
    let metadata = pod.record().config.metadata.clone();
    Object { kind: Kind::Container, id: container.id.clone(), pod_id: pod.id.clone(), pod: metadata }
}

/// How a pod is now. Takes the engine's lock and those of records, one after another.
fn message(inner: &Inner, pod: &Pod) -> Message {
    Message {
        timestamp: record::now(),
        pod: view::pod_status(pod),
        containers: view::container_statuses(inner, &pod.id),
    }
}

/// One realm of an engine.
#[derive(Debug)]
struct RealmNode {
    inner: Arc<Inner>,
    realm: Realm,
}

impl Node for RealmNode {
    fn objects(&self, kind: Kind, after: &str, max: usize) -> Vec<(Object, Step)> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        match kind {
            Kind::Pod => {
                let pods: Vec<Arc<Pod>> = {
                    let state = lock(&self.inner.state);
                    let told = |p: &&Arc<Pod>| p.realm == self.realm && p.told.load(Ordering::Acquire) > 0;
                    state
                        .pods
                        .range::<str, _>(behind)
                        .map(|(_, p)| p)
                        .filter(told)
                        .take(max)
                        .cloned()
                        .collect()
                };
                let step = |p: &Arc<Pod>| Step::of(p.told.load(Ordering::Acquire));
                pods.iter().filter_map(|p| Some((pod_object(p), step(p)?))).collect()
            }
            Kind::Container => {
                let containers: Vec<Arc<Container>> = {
                    let state = lock(&self.inner.state);
                    let told =
                        |c: &&Arc<Container>| c.pod.realm == self.realm && c.told.load(Ordering::Acquire) > 0;
                    let all = state.containers.range::<str, _>(behind).map(|(_, c)| c);
                    all.filter(told).take(max).cloned().collect()
                };
                let step = |c: &Arc<Container>| Step::of(c.told.load(Ordering::Acquire));
                containers.iter().filter_map(|c| Some((container_object(c), step(c)?))).collect()
            }
        }
    }

    fn message(&self, object: &Object) -> Option<Message> {
        let pod = {
            let state = lock(&self.inner.state);
            let there = match object.kind {
                Kind::Pod => state.pods.contains_key(&object.id),
                Kind::Container => state.containers.contains_key(&object.id),
            };
            state.pods.get(&object.pod_id).filter(|_| there).cloned()
        };
        pod.map(|pod| message(&self.inner, &pod))
    }

    fn last_words(&self, object: &Object) -> Message {
        let pod = lock(&self.inner.state).pods.get(&object.pod_id).cloned();
        pod.map_or_else(|| epitaph(object), |pod| message(&self.inner, &pod))
    }
}

/// What is left to say of a pod that is gone.
fn epitaph(object: &Object) -> Message {
    let pod = v1::PodSandboxStatus {
        id: object.pod_id.clone(),
        metadata: object.pod.clone(),
        state: v1::PodSandboxState::SandboxNotready.into(),
        ..Default::default()
    };
    Message { timestamp: record::now(), pod, containers: Vec::new() }
}

impl Engine {
    /// What happens to the sandboxes and containers of `realm` from now on, in order; ends with the daemon.
    ///
    /// Produced as it is taken: a client that takes nothing costs no memory. One that falls behind, and one
    /// that comes when things happened that no subscriber was told, gets how things are now first: one event
    /// for each object that is gone, then one for each that is there.
    pub fn events(
        &self,
        realm: Realm,
    ) -> impl futures::Stream<Item = v1::ContainerEventResponse> + Send + use<> {
        let node = RealmNode { inner: self.inner.clone(), realm };
        let subscription = self.inner.events.feed(realm).subscribe(node);
        futures::stream::unfold(subscription, |mut subscription: Subscription<RealmNode>| async move {
            subscription.next().await.map(|event| (event, subscription))
        })
    }

    /// Ends all streams of [`Engine::events`], so that a daemon that stops need not wait for clients.
    pub fn end_events(&self) {
        self.inner.events.cri.close();
        self.inner.events.local.close();
    }
}
