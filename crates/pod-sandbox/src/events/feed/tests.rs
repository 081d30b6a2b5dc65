use super::*;
use futures::FutureExt as _;

/// Objects and how far they have come, as an engine knows them.
#[derive(Debug, Clone, Default)]
struct World {
    objects: Arc<Mutex<BTreeMap<String, Known>>>,
}

type Known = (Kind, Arc<AtomicU8>);

impl World {
    /// Takes an object to a step, as if all steps before it had gone unnoticed.
    fn go(&self, feed: &Feed, id: &str, step: Step) {
        let told = {
            let mut objects = lock(&self.objects);
            let kind = if id.starts_with("pod") { Kind::Pod } else { Kind::Container };
            let (_, told) = objects.entry(id.into()).or_insert((kind, Arc::default())).clone();
            if step == Step::Deleted {
                objects.remove(id);
            }
            told
        };
        let reached = Reached { step, started: step >= Step::Started, stopped: step >= Step::Stopped };
        feed.advance(&object(id), &told, || Some(reached), || self.message());
    }

    fn message(&self) -> Message {
        Message { timestamp: 1, pod: v1::PodSandboxStatus::default(), containers: Vec::new() }
    }
}

fn object(id: &str) -> Object {
    let kind = if id.starts_with("pod") { Kind::Pod } else { Kind::Container };
    Object { kind, id: id.into(), pod_id: "pod".into(), pod: None }
}

impl Node for World {
    fn objects(&self, kind: Kind, after: &str, max: usize) -> Vec<(Object, Step)> {
        let objects = lock(&self.objects);
        let of_kind = objects.iter().filter(|(id, (k, _))| *k == kind && id.as_str() > after);
        let told = of_kind.filter_map(|(id, (_, told))| {
            Some((object(id), crate::events::Step::of(told.load(Ordering::Acquire))?))
        });
        told.take(max).collect()
    }

    fn message(&self, object: &Object) -> Option<Message> {
        lock(&self.objects).contains_key(&object.id).then(|| World::message(self))
    }

    fn last_words(&self, _object: &Object) -> Message {
        World::message(self)
    }
}

/// What `subscription` is told without waiting: the first letter of the step and the id.
fn heard<N: Node>(subscription: &mut Subscription<N>) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(Some(event)) = subscription.next().now_or_never() {
        let word = ["created", "started", "stopped", "deleted"][event.container_event_type as usize];
        all.push(format!("{} {word}", event.container_id));
    }
    all
}

/// A feed whose present state nobody misses.
fn quiet(events: usize) -> Arc<Feed> {
    let feed = Arc::new(Feed::sized(events, 1 << 20));
    lock(&feed.hub).missed = false;
    feed
}

#[test]
fn steps_are_told_once_and_in_order_whoever_reports_them() {
    let (feed, world) = (quiet(100), World::default());
    let mut one = feed.subscribe(world.clone());
    world.go(&feed, "pod", Step::Started);
    world.go(&feed, "c1", Step::Created);
    let mut two = feed.subscribe(world.clone());
    // Its end is heard of before its start.
    world.go(&feed, "c1", Step::Stopped);
    world.go(&feed, "c1", Step::Started);
    world.go(&feed, "c1", Step::Stopped);
    world.go(&feed, "c1", Step::Deleted);
    let late = ["c1 started", "c1 stopped", "c1 deleted"];
    assert_eq!(heard(&mut one), [&["pod created", "pod started", "c1 created"], &late[..]].concat());
    assert_eq!(heard(&mut two), late, "from its subscription on");
    assert!(one.known.contains_key("pod") && !one.known.contains_key("c1"));
}

#[test]
fn a_container_that_never_ran_is_not_said_to_have_started() {
    let reached = |step, started, stopped, before| {
        Reached { step, started, stopped }.steps(before).map(|s| s as u8).collect::<Vec<_>>()
    };
    assert_eq!(reached(Step::Deleted, false, false, 1), [4]);
    assert_eq!(reached(Step::Stopped, false, true, 1), [3], "it could not be started");
    assert_eq!(reached(Step::Stopped, true, true, 0), [1, 2, 3]);
    assert!(reached(Step::Deleted, false, false, 0).is_empty(), "nobody was told of it");
    assert!(reached(Step::Started, true, false, 3).is_empty());
}

#[test]
fn who_falls_behind_is_told_how_things_are() {
    let (feed, world) = (quiet(4), World::default());
    world.go(&feed, "pod", Step::Started);
    lock(&feed.hub).missed = false;
    let mut slow = feed.subscribe(world.clone());
    world.go(&feed, "c1", Step::Created);
    world.go(&feed, "c2", Step::Created);
    assert_eq!(heard(&mut slow), ["c1 created", "c2 created"]);
    world.go(&feed, "c1", Step::Deleted);
    for n in 3..9 {
        world.go(&feed, &format!("c{n}"), Step::Started);
    }
    world.go(&feed, "c2", Step::Stopped);
    assert!(lock(&feed.hub).ring.next_number() > 4 + slow.next);
    let now = heard(&mut slow);
    assert_eq!(now[..4], ["c1 deleted", "pod started", "c2 stopped", "c3 started"]);
    assert_eq!((now.len(), now.last().map(String::as_str)), (9, Some("c8 started")));
    assert!(slow.known.values().all(|told| told.step != Step::Deleted), "the gone are forgotten");
    world.go(&feed, "c8", Step::Stopped);
    assert_eq!(heard(&mut slow), ["c8 stopped"], "and from there on what happens");
}

#[test]
fn what_happens_while_one_is_told_how_things_are_is_told_once() {
    let (feed, world) = (quiet(4), World::default());
    let mut slow = feed.subscribe(world.clone());
    for id in ["pod", "c1", "c2"] {
        world.go(&feed, id, Step::Started);
    }
    let first = slow.next().now_or_never().flatten().unwrap();
    assert_eq!(first.container_id, "pod");
    world.go(&feed, "c1", Step::Stopped);
    world.go(&feed, "c2", Step::Deleted);
    // The end of c1 is in its state; that of c2, of which nothing could be told, is an event.
    assert_eq!(heard(&mut slow), ["c1 stopped", "c2 stopped", "c2 deleted"]);
}

#[test]
fn the_next_one_is_told_what_nobody_was() {
    let (feed, world) = (quiet(100), World::default());
    let mut first = feed.subscribe(world.clone());
    world.go(&feed, "pod", Step::Started);
    world.go(&feed, "c1", Step::Started);
    assert_eq!(heard(&mut first).len(), 4);
    drop(first);
    assert_eq!(feed.subscribers(), 0);
    let mut second = feed.subscribe(world.clone());
    assert!(heard(&mut second).is_empty(), "nothing happened meanwhile");
    drop(second);
    world.go(&feed, "c1", Step::Deleted);
    world.go(&feed, "c2", Step::Created);
    assert_eq!(lock(&feed.hub).ring.at(0), Next::Lost, "nothing is kept for nobody");
    let mut third = feed.subscribe(world.clone());
    assert_eq!(heard(&mut third), ["c1 deleted", "pod started", "c2 created"]);
    // One that leaves without having taken all leaves the rest to the next.
    world.go(&feed, "c2", Step::Started);
    drop(third);
    assert_eq!(heard(&mut feed.subscribe(world)), ["pod started", "c2 started"]);
}

#[test]
fn a_stop_of_the_daemon_ends_all() {
    let (feed, world) = (quiet(100), World::default());
    let mut one = feed.subscribe(world);
    assert!(one.next().now_or_never().is_none());
    feed.close();
    assert!(one.next().now_or_never().unwrap().is_none());
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.step == other.step && self.object.id == other.object.id
    }
}
