//! Lists of any length, a page at a time.
//!
//! A page is made when it is asked for, from where the page before it ended: what is held between two pages
//! is one id. Every object that is there from the first page to the last is in exactly one page; the order
//! is that of ids.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::flight::{blocking, lock};
use crate::pod::Pod;
use crate::record::PodState;
use crate::{Realm, Result, metrics, stats, view};
use gantry_cri_api::v1;
use prost::Message;
use std::ops::Bound;
use std::sync::Arc;

/// Most items of a page.
const MAX_ITEMS: usize = 128;

/// Bytes from which on a page takes no more items.
const MAX_BYTES: usize = 512 << 10;

/// Objects that are looked at under one lock.
const BATCH: usize = 128;

/// How far a list was read; the default is the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    after: String,
    done: bool,
}

/// A page in the making.
struct Page<T> {
    items: Vec<T>,
    bytes: usize,
}

impl<T: Message> Page<T> {
    fn new() -> Self {
        Self { items: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, item: T) {
        self.bytes += item.encoded_len();
        self.items.push(item);
    }

    fn is_full(&self) -> bool {
        self.items.len() >= MAX_ITEMS || self.bytes >= MAX_BYTES
    }
}

/// The items behind `cursor`, as many as a page takes; empty at the end of the list.
fn page<O, T: Message>(
    cursor: &mut Cursor,
    objects: impl Fn(&str) -> Vec<Arc<O>>,
    id: impl Fn(&O) -> &str,
    item: impl Fn(&Arc<O>) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    let mut page = Page::new();
    while !cursor.done {
        let batch = objects(&cursor.after);
        cursor.done = batch.is_empty();
        for object in batch {
            id(&object).clone_into(&mut cursor.after);
            if let Some(item) = item(&object)? {
                page.push(item);
                if page.is_full() {
                    return Ok(page.items);
                }
            }
        }
    }
    Ok(page.items)
}

impl Inner {
    fn pods_behind(&self, realm: Realm, after: &str) -> Vec<Arc<Pod>> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let state = lock(&self.state);
        let visible = |p: &&Arc<Pod>| p.realm == realm && p.record().state != PodState::Creating;
        state.pods.range::<str, _>(behind).map(|(_, p)| p).filter(visible).take(BATCH).cloned().collect()
    }

    fn containers_behind(&self, realm: Realm, after: &str) -> Vec<Arc<Container>> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let state = lock(&self.state);
        let visible = |c: &&Arc<Container>| c.pod.realm == realm && c.is_visible();
        let all = state.containers.range::<str, _>(behind).map(|(_, c)| c);
        all.filter(visible).take(BATCH).cloned().collect()
    }

    fn page_of_pods<T: Message>(
        &self,
        realm: Realm,
        cursor: &mut Cursor,
        item: impl Fn(&Arc<Pod>) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        page(cursor, |after| self.pods_behind(realm, after), |p: &Pod| &p.id, item)
    }

    fn page_of_containers<T: Message>(
        &self,
        realm: Realm,
        cursor: &mut Cursor,
        item: impl Fn(&Arc<Container>) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        page(cursor, |after| self.containers_behind(realm, after), |c: &Container| &c.id, item)
    }
}

impl Engine {
    /// The next sandboxes of `realm` that match `filter`; none at the end.
    pub fn next_pods(
        &self,
        realm: Realm,
        filter: Option<&v1::PodSandboxFilter>,
        cursor: &mut Cursor,
    ) -> Result<Vec<v1::PodSandbox>> {
        let item = |pod: &Arc<Pod>| Ok(Some(view::pod_item(pod)).filter(|p| view::pod_matches(p, filter)));
        self.inner.page_of_pods(realm, cursor, item)
    }

    /// The next containers of `realm` that match `filter`; none at the end.
    pub fn next_containers(
        &self,
        realm: Realm,
        filter: Option<&v1::ContainerFilter>,
        cursor: &mut Cursor,
    ) -> Result<Vec<v1::Container>> {
        let item = |container: &Arc<Container>| {
            Ok(Some(view::container_item(container)).filter(|c| view::container_matches(c, filter)))
        };
        self.inner.page_of_containers(realm, cursor, item)
    }

    /// What the next running containers of `realm` use that match `filter`, and how far that went.
    pub async fn next_container_stats(
        &self,
        realm: Realm,
        filter: v1::ContainerStatsFilter,
        mut cursor: Cursor,
    ) -> Result<(Vec<v1::ContainerStats>, Cursor)> {
        let inner = self.inner.clone();
        blocking(move || {
            let item = |container: &Arc<Container>| match stats::container_matches(container, &filter) {
                true => stats::container_stats(&inner, container).map(Some),
                false => Ok(None),
            };
            let items = inner.page_of_containers(realm, &mut cursor, item)?;
            Ok((items, cursor))
        })
        .await
    }

    /// What the next ready sandboxes of `realm` use that match `filter`, and how far that went.
    pub async fn next_pod_stats(
        &self,
        realm: Realm,
        filter: v1::PodSandboxStatsFilter,
        mut cursor: Cursor,
    ) -> Result<(Vec<v1::PodSandboxStats>, Cursor)> {
        let inner = self.inner.clone();
        blocking(move || {
            let item = |pod: &Arc<Pod>| match stats::pod_matches(pod, &filter) {
                true => stats::pod_stats(&inner, pod).map(Some),
                false => Ok(None),
            };
            let items = inner.page_of_pods(realm, &mut cursor, item)?;
            Ok((items, cursor))
        })
        .await
    }

    /// The metrics of the next ready sandboxes of `realm`, and how far that went.
    pub async fn next_pod_metrics(
        &self,
        realm: Realm,
        mut cursor: Cursor,
    ) -> Result<(Vec<v1::PodSandboxMetrics>, Cursor)> {
        let inner = self.inner.clone();
        blocking(move || {
            let item = |pod: &Arc<Pod>| {
                let ready = pod.record().state == PodState::Ready;
                Ok(ready.then(|| metrics::of_pod(&inner, pod)))
            };
            let items = inner.page_of_pods(realm, &mut cursor, item)?;
            Ok((items, cursor))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(count: usize, size: usize, keep: impl Fn(usize) -> bool) -> Vec<Vec<v1::PodSandbox>> {
        let all: Vec<Arc<String>> = (0..count).map(|n| Arc::new(format!("{n:05}"))).collect();
        let behind = |after: &str| -> Vec<Arc<String>> {
            all.iter().filter(|id| id.as_str() > after).take(BATCH).cloned().collect()
        };
        let item = |id: &Arc<String>| {
            let handler = "x".repeat(size);
            let item = v1::PodSandbox { id: (**id).clone(), runtime_handler: handler, ..Default::default() };
            Ok(keep(id.parse().unwrap()).then_some(item))
        };
        let (mut cursor, mut pages) = (Cursor::default(), Vec::new());
        loop {
            let next = page(&mut cursor, behind, |id: &String| id, item).unwrap();
            if next.is_empty() {
                return pages;
            }
            pages.push(next);
        }
    }

    #[test]
    fn every_item_is_in_one_page_and_pages_are_bounded() {
        let small = pages(300, 10, |_| true);
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [128, 128, 44]);
        let ids: Vec<String> = small.into_iter().flatten().map(|p| p.id).collect();
        assert_eq!(ids, (0..300).map(|n| format!("{n:05}")).collect::<Vec<_>>());
        let large = pages(5, 300 << 10, |_| true);
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        let huge = pages(2, 4 << 20, |_| true);
        assert_eq!(huge.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1], "one item always fits");
        assert!(pages(0, 1, |_| true).is_empty());
    }

    #[test]
    fn a_page_is_not_ended_by_what_does_not_match() {
        let rare = pages(1000, 10, |n| n % 300 == 299);
        assert_eq!(rare.into_iter().map(|p| p.len()).collect::<Vec<_>>(), [3]);
    }
}
