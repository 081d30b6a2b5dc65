//! User namespaces: what the request asks, and whether it can be had.

use crate::error::Kind;
use crate::handler::Handler;
use crate::pod::PodNamespaces;
use crate::record::PodRecord;
use crate::{Error, Result};
use gantry_cri_api::v1::{self, NamespaceMode};
use gantry_monitor_api::{IdMap, UserNamespace};

/// Most ranges of one map that the kernel takes (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// The user namespace that a sandbox asks for; `None` for the host's.
///
/// # Errors
///
/// [`Kind::InvalidArgument`] for maps that make no sense, and for a namespace of the host's beside it:
/// root of the pod would have no rights in that one.
pub(crate) fn wanted(record: &PodRecord) -> Result<Option<UserNamespace>> {
    let linux = record.config.linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    let options = security.and_then(|s| s.namespace_options.as_ref());
    let Some(asked) = options.and_then(|o| o.userns_options.as_ref()) else { return Ok(None) };
    let bad = |message: String| Error::new(Kind::InvalidArgument, format!("user namespace: {message}"));
    match NamespaceMode::try_from(asked.mode) {
        Ok(NamespaceMode::Node) if asked.uids.is_empty() && asked.gids.is_empty() => return Ok(None),
        Ok(NamespaceMode::Node) => return Err(bad("the host's takes no maps".into())),
        Ok(NamespaceMode::Pod) => {}
        _ => return Err(bad("the mode must be POD or NODE".into())),
    }
    let namespaces = PodNamespaces::of(record);
    for (shared, which) in
        [(namespaces.host_network, "network"), (namespaces.host_ipc, "IPC"), (namespaces.host_pid, "PID")]
    {
        if shared {
            return Err(bad(format!("a pod with one of its own cannot use the host's {which} namespace")));
        }
    }
    let user = UserNamespace { uids: maps("uids", &asked.uids)?, gids: maps("gids", &asked.gids)? };
    for (what, maps) in [("user", &user.uids), ("group", &user.gids)] {
        if IdMap::outside_of(maps, 0).is_none() {
            return Err(bad(format!("{what} 0 is not mapped; containers could not be set up")));
        }
    }
    Ok(Some(user))
}

/// Checks one map.
pub(crate) fn maps(field: &str, asked: &[v1::IdMapping]) -> Result<Vec<IdMap>> {
    let bad =
        |message: String| Error::new(Kind::InvalidArgument, format!("user namespace {field}: {message}"));
    if asked.is_empty() || asked.len() > MAX_RANGES {
        return Err(bad(format!("{} ranges; give 1 to {MAX_RANGES}", asked.len())));
    }
    let mut all: Vec<IdMap> = Vec::new();
    for range in asked {
        let new = IdMap { inside: range.container_id, outside: range.host_id, length: range.length };
        let ends = |start: u32| start.checked_add(new.length).is_some();
        if new.length == 0 || !ends(new.inside) || !ends(new.outside) {
            return Err(bad(format!(
                "the range {} {} {} is empty or too long",
                new.inside, new.outside, new.length
            )));
        }
        let overlaps = |a: u32, b: u32, other: &IdMap| a < b + other.length && b < a + new.length;
        if all.iter().any(|o| overlaps(new.inside, o.inside, o) || overlaps(new.outside, o.outside, o)) {
            return Err(bad(format!("the range at {} overlaps another one", new.inside)));
        }
        all.push(new);
    }
    Ok(all)
}

/// Refuses a handler that cannot do it.
pub(crate) fn check_handler(handler: &Handler) -> Result<()> {
    match handler.features().user_namespaces {
        true => Ok(()),
        false => Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "runtime handler {:?} cannot run pods in a user namespace here; use another",
                handler.name()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let map = |ranges: &[(u32, u32, u32)]| {
            let ranges = ranges.iter().map(|(container_id, host_id, length)| v1::IdMapping {
                host_id: *host_id,
                container_id: *container_id,
                length: *length,
            });
            maps("uids", &ranges.collect::<Vec<_>>())
        };
        let good = map(&[(0, 100_000, 1000), (1000, 200_000, 5)]).unwrap();
        assert_eq!(IdMap::outside_of(&good, 1003), Some(200_003));
        assert_eq!(IdMap::outside_of(&good, 2000), None);
        for bad in [
            vec![],
            vec![(0, 1, 0)],
            vec![(0, u32::MAX, 2)],
            vec![(0, 1000, 10), (5, 3000, 1)],
            vec![(0, 1000, 10), (50, 1005, 1)],
        ] {
            assert_eq!(map(&bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad:?}");
        }
    }
}
