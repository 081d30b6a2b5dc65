//! Who is told what: any number of subscribers, each at its own place.
//!
//! A subscriber has no queue. It reads the ring when its client takes something, and remembers the ids of
//! what it told of. One that falls behind the ring is told how things are now instead: what is gone, then
//! what there is. So is one that comes when things happened that nobody was told.

use super::ring::{Next, Ring};
use super::{Kind, Message, Node, Object, Step};
use crate::flight::lock;
use gantry_cri_api::v1;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Most events that are kept for subscribers that lag.
const MAX_EVENTS: usize = 1024;

/// Most bytes of the same.
const MAX_BYTES: usize = 4 << 20;

/// Objects that are looked at together when a subscriber is told how things are.
const BATCH: usize = 32;

/// What a subscriber was told of, by id.
type Known = BTreeMap<String, Told>;

#[derive(Debug, Clone)]
struct Told {
    step: Step,
    object: Object,
}

/// One step of one object.
#[derive(Debug)]
pub(super) struct Event {
    object: Object,
    step: Step,
    message: Message,
}

/// The events of one realm.
#[derive(Debug)]
pub(super) struct Feed {
    hub: Mutex<Hub>,
    /// Number of the next event; changes wake those who wait.
    tail: watch::Sender<u64>,
}

#[derive(Debug)]
struct Hub {
    ring: Ring<Event>,
    subscribers: usize,
    /// Something happened that no subscriber was told.
    missed: bool,
    /// What the last subscriber had been told when it went.
    left: Known,
    closed: bool,
    /// Time of the newest event: the clock may be set back, the order of events is told by it.
    latest: i64,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self::sized(MAX_EVENTS, MAX_BYTES)
    }

    fn sized(events: usize, bytes: usize) -> Self {
        let hub = Hub {
            ring: Ring::new(events, bytes),
            subscribers: 0,
            // A daemon before this one may have had some.
            missed: true,
            left: Known::new(),
            closed: false,
            latest: 0,
        };
        Self { hub: Mutex::new(hub), tail: watch::Sender::new(0) }
    }

    /// Tells what has happened to `object` since `told`: all steps from there to where it is. Whoever
    /// comes second with the same news finds them told, so that steps are told in order and once.
    pub(super) fn advance(
        &self,
        object: &Object,
        told: &AtomicU8,
        reached: impl FnOnce() -> Option<Reached>,
        message: impl Fn() -> Message,
    ) {
        let mut hub = lock(&self.hub);
        let before = told.load(Ordering::Acquire);
        let Some(reached) = reached() else { return };
        let steps: Vec<Step> = reached.steps(before).collect();
        let Some(last) = steps.last() else { return };
        told.store(*last as u8, Ordering::Release);
        if hub.subscribers == 0 {
            hub.missed = true;
            return;
        }
        for step in steps {
            let mut message = message();
            hub.latest = hub.latest.max(message.timestamp);
            message.timestamp = hub.latest;
            let bytes = message.size();
            hub.ring.push(Event { object: object.clone(), step, message }, bytes);
        }
        self.tail.send_replace(hub.ring.next_number());
    }

    /// A new subscriber. Dropping it leaves nothing but the ids that it was told of, while it was the last.
    pub(super) fn subscribe<N: Node>(self: &Arc<Self>, node: N) -> Subscription<N> {
        let mut hub = lock(&self.hub);
        hub.subscribers += 1;
        let alone = hub.subscribers == 1;
        let (known, catching_up) = match alone && hub.missed {
            true => (std::mem::take(&mut hub.left), Some(CatchUp::Gone { after: String::new() })),
            false => (living(&node), None),
        };
        hub.left = Known::new();
        hub.missed = false;
        let next = hub.ring.next_number();
        let tail = self.tail.subscribe();
        drop(hub);
        Subscription { feed: self.clone(), node, known, next, settled: next, catching_up, tail }
    }

    /// Ends all subscriptions, for a daemon that stops.
    pub(super) fn close(&self) {
        lock(&self.hub).closed = true;
        self.tail.send_modify(|_| {});
    }

    #[cfg(test)]
    fn subscribers(&self) -> usize {
        lock(&self.hub).subscribers
    }
}

fn living<N: Node>(node: &N) -> Known {
    let mut known = Known::new();
    for kind in [Kind::Pod, Kind::Container] {
        let mut after = String::new();
        loop {
            let batch = node.objects(kind, &after, BATCH);
            let Some((last, _)) = batch.last() else { break };
            after.clone_from(&last.id);
            known.extend(batch.into_iter().map(|(object, step)| (object.id.clone(), Told { step, object })));
        }
    }
    known
}

/// How far an object has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// The furthest step.
    pub(super) step: Step,
    /// It ran at some time.
    pub(super) started: bool,
    /// It ended, or could not be started.
    pub(super) stopped: bool,
}

impl Reached {
    /// The steps behind the one numbered `before` (0 for none), in order. One that was never told of is not
    /// deleted for anybody.
    fn steps(self, before: u8) -> impl Iterator<Item = Step> {
        let all = [
            (Step::Created, true),
            (Step::Started, self.started),
            (Step::Stopped, self.stopped),
            (Step::Deleted, before > 0),
        ];
        let news = move |(step, happened): &(Step, bool)| {
            let first = before == 0 && self.step == Step::Deleted;
            *happened && !first && *step as u8 > before && *step <= self.step
        };
        all.into_iter().filter(news).map(|(step, _)| step)
    }
}

/// Where one is in telling how things are.
#[derive(Debug)]
enum CatchUp {
    /// At what was told of and is gone, behind this id.
    Gone { after: String },
    /// At what there is, behind this id.
    There { kind: Kind, after: String },
}

/// One who is told; see [`Subscription::next`].
#[derive(Debug)]
pub(super) struct Subscription<N: Node> {
    feed: Arc<Feed>,
    node: N,
    known: Known,
    /// Number of the event that is told next.
    next: u64,
    /// Once events up to this number are told, what is gone need not be remembered any more.
    settled: u64,
    catching_up: Option<CatchUp>,
    tail: watch::Receiver<u64>,
}

impl<N: Node> Subscription<N> {
    /// Waits for the next event; `None` when the daemon stops. Nothing is lost when it is dropped while
    /// it waits.
    pub(super) async fn next(&mut self) -> Option<v1::ContainerEventResponse> {
        loop {
            if let Some(event) = self.catch_up() {
                return Some(event);
            }
            self.tail.borrow_and_update();
            let (found, closed) = {
                let hub = lock(&self.feed.hub);
                (hub.ring.at(self.next), hub.closed)
            };
            if closed {
                return None;
            }
            match found {
                Next::Event(event) => {
                    self.next += 1;
                    if let Some(news) = self.news(&event) {
                        return Some(news);
                    }
                }
                Next::Lost => {
                    tracing::debug!("a subscriber to events lags; it is told how things are now");
                    self.next = lock(&self.feed.hub).ring.next_number();
                    self.catching_up = Some(CatchUp::Gone { after: String::new() });
                }
                // The sender lives as long as the feed.
                Next::Nothing => self.tail.changed().await.ok()?,
            }
        }
    }

    /// An event of the ring, unless its object was told to have come as far already.
    fn news(&mut self, event: &Event) -> Option<v1::ContainerEventResponse> {
        let id = &event.object.id;
        let is_news = self.known.get(id).is_none_or(|told| told.step < event.step);
        if is_news && event.step == Step::Deleted {
            self.known.remove(id);
        } else if is_news {
            self.known.insert(id.clone(), Told { step: event.step, object: event.object.clone() });
        }
        if self.next == self.settled {
            self.known.retain(|_, told| told.step != Step::Deleted);
        }
        is_news.then(|| event.message.clone().response(id, event.step))
    }

    /// The next event that tells how things are; `None` once all was told.
    fn catch_up(&mut self) -> Option<v1::ContainerEventResponse> {
        loop {
            match self.catching_up.as_mut()? {
                CatchUp::Gone { after } => {
                    let bounds = (std::ops::Bound::Excluded(after.as_str()), std::ops::Bound::Unbounded);
                    let Some((id, told)) = self.known.range_mut::<str, _>(bounds).next() else {
                        self.catching_up = Some(CatchUp::There { kind: Kind::Pod, after: String::new() });
                        continue;
                    };
                    after.clone_from(id);
                    if told.step != Step::Deleted && self.node.message(&told.object).is_none() {
                        told.step = Step::Deleted;
                        let words = self.node.last_words(&told.object);
                        return Some(words.response(id, Step::Deleted));
                    }
                }
                CatchUp::There { kind, after } => {
                    let found = self.node.objects(*kind, after, 1).pop();
                    let Some((object, step)) = found else {
                        match kind {
                            Kind::Pod => *self.catching_up.as_mut()? = start_of_containers(),
                            Kind::Container => self.end_of_catch_up(),
                        }
                        continue;
                    };
                    after.clone_from(&object.id);
                    let Some(message) = self.node.message(&object) else { continue };
                    let id = object.id.clone();
                    self.known.insert(id.clone(), Told { step, object });
                    return Some(message.response(&id, step));
                }
            }
        }
    }

    fn end_of_catch_up(&mut self) {
        self.catching_up = None;
        self.settled = lock(&self.feed.hub).ring.next_number();
        if self.settled == self.next {
            self.known.retain(|_, told| told.step != Step::Deleted);
        }
    }
}

fn start_of_containers() -> CatchUp {
    CatchUp::There { kind: Kind::Container, after: String::new() }
}

impl<N: Node> Drop for Subscription<N> {
    fn drop(&mut self) {
        let mut hub = lock(&self.feed.hub);
        hub.subscribers -= 1;
        if hub.subscribers == 0 {
            hub.missed = self.catching_up.is_some() || self.next < hub.ring.next_number();
            hub.left = std::mem::take(&mut self.known);
            hub.ring.clear();
        }
    }
}

#[cfg(test)]
mod tests;
