//! Calls that a later piece of work brings, and which.

use tonic::{Response, Status};

/// RPC and the work that owns it; equals `e2e/pending-rpcs.tsv`, which a test holds.
pub(crate) const PENDING: [(&str, &str); 1] = [("CheckpointContainer", "every promise of the CRI")];

/// The answer to a call of [`PENDING`]; names the call and its owner.
pub(crate) fn pending<T>(rpc: &'static str) -> Result<Response<T>, Status> {
    let owner = PENDING.iter().find(|(name, _)| *name == rpc).map_or("nobody", |(_, owner)| owner);
    Err(Status::unimplemented(format!("{rpc} is not implemented yet; it comes with \"{owner}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_list_is_this_one() {
        let listed = include_str!("../../../e2e/pending-rpcs.tsv");
        let listed: Vec<(&str, &str)> = listed
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split_once('\t').expect("rpc, tab, owner"))
            .collect();
        assert_eq!(listed, PENDING);
    }

    #[test]
    fn calls_in_the_source_are_the_listed_ones() {
        let source = [include_str!("runtime_service.rs"), include_str!("image_service.rs")].concat();
        for (rpc, _) in PENDING {
            assert!(source.contains(&format!("pending(\"{rpc}\")")), "{rpc} is listed but implemented");
        }
        assert_eq!(source.matches("pending(\"").count(), PENDING.len(), "a pending call is not listed");
    }
}
