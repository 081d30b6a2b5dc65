//! What the store knows, in memory: names, images, layers, leases. Locked only for moments.

use crate::content::document::Config;
use crate::digest::{Digest, is_hex64};
use crate::disk::records::{Layer, Lease, Ref};
use crate::names::reference::Reference;
use crate::{Image, ImageConfig, ImageId, Realm};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Fewest hex digits that may stand for an image id.
const MIN_PREFIX: usize = 4;

/// The state, shared with whoever holds a [`Pin`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything in memory.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) refs: BTreeMap<(Realm, String), Ref>,
    pub(crate) images: HashMap<Digest, Arc<ImageEntry>>,
    pub(crate) layers: BTreeMap<u64, Layer>,
    pub(crate) snapshots: BTreeMap<String, Holder>,
    by_chain: HashMap<Digest, u64>,
    /// Self-contained layers only.
    by_diff: HashMap<Digest, u64>,
    pins: HashMap<u64, usize>,
    last_number: u64,
}

/// One image, whoever names it.
#[derive(Debug)]
pub(crate) struct ImageEntry {
    pub(crate) config: ImageConfig,
    pub(crate) created: Option<String>,
    pub(crate) diff_ids: Vec<Digest>,
    /// Numbers of the layers, lowest first.
    pub(crate) layers: Vec<u64>,
}

impl ImageEntry {
    pub(crate) fn new(config: Config, layers: Vec<u64>) -> Self {
        Self { config: config.config, created: config.created, diff_ids: config.diff_ids, layers }
    }
}

/// What is known about a container's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// It leases these layers.
    Leased(Lease),
    /// Its record cannot be read: it may lease anything.
    Unreadable,
}

/// Keeps a layer from being collected while somebody works with it.
#[derive(Debug)]
pub(crate) struct Pin {
    shared: Shared,
    number: u64,
}

impl Pin {
    /// Pins a layer; `state` is the locked state of `shared`.
    pub(crate) fn new(shared: &Shared, state: &mut State, number: u64) -> Self {
        *state.pins.entry(number).or_default() += 1;
        Self { shared: shared.clone(), number }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(count) = state.pins.get_mut(&self.number) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.number);
            }
        }
    }
}

impl State {
    /// The layer of a stack: the one unpacked for it, or one that is the same everywhere.
    pub(crate) fn find_layer(&self, chain_id: &Digest, diff_id: &Digest) -> Option<u64> {
        self.by_chain.get(chain_id).or_else(|| self.by_diff.get(diff_id)).copied()
    }

    pub(crate) fn add_layer(&mut self, number: u64, layer: Layer) {
        self.by_chain.insert(layer.chain_id.clone(), number);
        if layer.self_contained {
            self.by_diff.insert(layer.diff_id.clone(), number);
        }
        self.last_number = self.last_number.max(number);
        self.layers.insert(number, layer);
    }

    pub(crate) fn remove_layer(&mut self, number: u64) {
        let Some(layer) = self.layers.remove(&number) else { return };
        for (index, key) in [(&mut self.by_chain, &layer.chain_id), (&mut self.by_diff, &layer.diff_id)] {
            if index.get(key) == Some(&number) {
                index.remove(key);
            }
        }
    }

    /// A number that no layer had since the store was opened: what is left of a deleted one may still
    /// be in its place.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Keeps a number from being given out.
    pub(crate) fn skip_number(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    /// Numbers of a stack of layers, lowest first, or the diff id of the first that is missing.
    pub(crate) fn stack(&self, diff_ids: &[Digest]) -> Result<Vec<u64>, Digest> {
        let mut below = None;
        let mut numbers = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let chain = Digest::chain(below.as_ref(), diff_id);
            numbers.push(self.find_layer(&chain, diff_id).ok_or_else(|| diff_id.clone())?);
            below = Some(chain);
        }
        Ok(numbers)
    }

    /// Names of a realm.
    pub(crate) fn refs_of(&self, realm: Realm) -> impl Iterator<Item = &Ref> {
        self.refs.range((realm, String::new())..).take_while(move |((r, _), _)| *r == realm).map(|(_, v)| v)
    }

    /// The image that a manifest or index digest is known to lead to.
    pub(crate) fn image_of_manifest(&self, digest: &Digest) -> Option<&Ref> {
        self.refs.values().find(|r| r.manifest == *digest || r.index.as_ref() == Some(digest))
    }

    /// Finds an image of a realm by id, reference or unique id prefix.
    pub(crate) fn find(&self, realm: Realm, text: &str, search: &[String]) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if is_hex64(hex) {
            let id = Digest::from_hex(hex)?;
            return self.refs.contains_key(&(realm, id.to_string())).then_some(id);
        }
        let mut names = Reference::candidates(text, search).unwrap_or_default();
        names.extend(Reference::parse(text));
        let named = names.iter().find_map(|n| self.refs.get(&(realm, n.to_string())));
        if let Some(found) = named {
            return Some(found.image.clone());
        }
        if hex.len() < MIN_PREFIX {
            return None;
        }
        let mut matching = self.refs_of(realm).map(|r| &r.image).filter(|id| id.hex().starts_with(hex));
        let first = matching.next()?;
        matching.all(|id| id == first).then(|| first.clone())
    }

    /// The image as callers see it.
    pub(crate) fn image(&self, realm: Realm, id: &Digest) -> Option<Image> {
        let names = self.refs_of(realm).filter(|r| r.image == *id);
        self.describe(id, names)
    }

    /// All images of a realm, sorted by id.
    pub(crate) fn images(&self, realm: Realm) -> Vec<Image> {
        let mut by_image: BTreeMap<&Digest, Vec<&Ref>> = BTreeMap::new();
        for name in self.refs_of(realm) {
            by_image.entry(&name.image).or_default().push(name);
        }
        by_image.into_iter().filter_map(|(id, names)| self.describe(id, names.into_iter())).collect()
    }

    /// At most `max` images of a realm with ids behind `after`, sorted by id.
    pub(crate) fn images_after(&self, realm: Realm, after: &str, max: usize) -> Vec<Image> {
        // Every image of a realm is named by its id among others.
        let behind = (Bound::Excluded((realm, after.to_owned())), Bound::Unbounded);
        let names = self.refs.range(behind).take_while(|((r, _), _)| *r == realm);
        let ids = names.filter(|((_, name), entry)| name == entry.image.as_str()).map(|(_, e)| &e.image);
        ids.filter_map(|id| self.image(realm, id)).take(max).collect()
    }

    fn describe<'a>(&self, id: &Digest, names: impl Iterator<Item = &'a Ref>) -> Option<Image> {
        let entry = self.images.get(id)?;
        let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
        let mut named = false;
        for Ref { name, .. } in names {
            named = true;
            if name.contains('@') {
                repo_digests.push(name.clone());
            } else if name != id.as_str() {
                repo_tags.push(name.clone());
            }
        }
        if !named {
            return None;
        }
        let distinct: BTreeSet<u64> = entry.layers.iter().copied().collect();
        let size = distinct.iter().filter_map(|n| self.layers.get(n)).map(|l| l.bytes).sum();
        Some(Image {
            id: ImageId(id.to_string()),
            repo_tags,
            repo_digests,
            size,
            config: entry.config.clone(),
            layers: entry.diff_ids.iter().map(ToString::to_string).collect(),
            created: entry.created.clone(),
            pinned: false,
        })
    }

    /// Images and layers that nothing names, leases or pins, taken out of the state.
    ///
    /// No layer goes while the record of some container cannot be read: it may be using it.
    pub(crate) fn collect(&mut self) -> Garbage {
        let named: HashSet<&Digest> = self.refs.values().map(|r| &r.image).collect();
        let unnamed: Vec<Digest> = self.images.keys().filter(|id| !named.contains(id)).cloned().collect();
        for id in &unnamed {
            self.images.remove(id);
        }
        if self.snapshots.values().any(|h| *h == Holder::Unreadable) {
            return Garbage { configs: unnamed, layers: Vec::new() };
        }
        let mut needed: HashSet<u64> = self.pins.keys().copied().collect();
        needed.extend(self.images.values().flat_map(|i| i.layers.iter()));
        for holder in self.snapshots.values() {
            if let Holder::Leased(lease) = holder {
                needed.extend(&lease.layers);
            }
        }
        let layers: Vec<u64> = self.layers.keys().copied().filter(|n| !needed.contains(n)).collect();
        for number in &layers {
            self.remove_layer(*number);
        }
        Garbage { configs: unnamed, layers }
    }

    /// Whether some name still leads through this manifest or index.
    pub(crate) fn uses_manifest(&self, digest: &Digest) -> bool {
        self.image_of_manifest(digest).is_some()
    }
}

/// What [`State::collect`] took out, to be deleted from disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Garbage {
    pub(crate) configs: Vec<Digest>,
    pub(crate) layers: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::unpack::Unpacked;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn layer(diff: u8, chain: u8, self_contained: bool) -> Layer {
        let used_lower = !self_contained;
        let unpacked = Unpacked { used_lower, root_placed: false, root_opaque: false, bytes: 10, inodes: 1 };
        Layer::new(digest(diff), digest(chain), digest(200), &unpacked)
    }

    fn image(state: &mut State, realm: Realm, n: u8, names: &[&str], layers: &[u64]) {
        let id = digest(n);
        for name in names.iter().map(|n| (*n).to_owned()).chain([id.to_string()]) {
            let entry = Ref::new(name.clone(), id.clone(), digest(n + 100), None);
            state.refs.insert((realm, name), entry);
        }
        let entry = ImageEntry {
            config: ImageConfig::default(),
            created: None,
            diff_ids: Vec::new(),
            layers: layers.to_vec(),
        };
        state.images.insert(id, Arc::new(entry));
    }

    #[test]
    fn layers_are_found_by_stack_and_self_contained_ones_everywhere() {
        let mut state = State::default();
        state.add_layer(1, layer(1, 11, true));
        state.add_layer(2, layer(2, 12, false));
        assert_eq!(state.find_layer(&digest(99), &digest(1)), Some(1));
        assert_eq!(state.find_layer(&digest(99), &digest(2)), None);
        assert_eq!(state.find_layer(&digest(12), &digest(2)), Some(2));
        assert_eq!(state.next_number(), 3);
        state.remove_layer(1);
        assert_eq!(state.find_layer(&digest(99), &digest(1)), None);
    }

    #[test]
    fn images_are_found_in_their_realm_only() {
        let mut state = State::default();
        let tag = "docker.io/library/busybox:latest";
        let by_digest = format!("docker.io/library/busybox@{}", digest(7));
        image(&mut state, Realm::Cri, 1, &[tag, &by_digest], &[]);
        image(&mut state, Realm::Local, 2, &["r.example/other:1"], &[]);
        let id = digest(1);
        for text in [
            "busybox",
            "docker.io/busybox:latest",
            &by_digest,
            id.as_str(),
            id.hex(),
            &id.hex()[..8],
            &id.as_str()[..15],
        ] {
            assert_eq!(state.find(Realm::Cri, text, &[]), Some(id.clone()), "{text}");
            assert_eq!(state.find(Realm::Local, text, &[]), None, "{text}");
        }
        assert_eq!(state.find(Realm::Local, "other:1", &["r.example".into()]), Some(digest(2)));
        assert_eq!(
            state.find(Realm::Cri, "busybox", &["r.example".into()]),
            Some(id.clone()),
            "docker.io too"
        );
        for text in ["", "abc", "busybox:1", "Bad:::", &id.hex()[..3]] {
            assert_eq!(state.find(Realm::Cri, text, &[]), None, "{text}");
        }
        let seen = state.image(Realm::Cri, &id).unwrap();
        assert_eq!((seen.repo_tags, seen.repo_digests), (vec![tag.to_owned()], vec![by_digest]));
        assert_eq!(state.images(Realm::Cri).len(), 1);
        assert!(state.image(Realm::Local, &id).is_none());
    }

    #[test]
    fn only_what_nobody_needs_is_collected() {
        let shared = Shared::default();
        let mut state = shared.lock();
        for n in 1..=5 {
            state.add_layer(n, layer(n as u8, n as u8 + 50, true));
        }
        image(&mut state, Realm::Cri, 1, &["a.example/a:1"], &[1]);
        let lease = Lease::new(Realm::Cri, digest(9), vec![2]);
        state.snapshots.insert("c".into(), Holder::Leased(lease));
        let pin = Pin::new(&shared, &mut state, 3);
        state.snapshots.insert("damaged".into(), Holder::Unreadable);
        assert_eq!(state.collect(), Garbage::default());
        state.snapshots.remove("damaged");
        assert_eq!(state.collect().layers, [4, 5]);
        drop(state);
        drop(pin);
        let mut state = shared.lock();
        assert_eq!(state.collect().layers, [3]);
        state.refs.clear();
        assert_eq!(state.collect(), Garbage { configs: vec![digest(1)], layers: vec![1] });
        assert_eq!(state.layers.keys().copied().collect::<Vec<_>>(), [2]);
    }
}
