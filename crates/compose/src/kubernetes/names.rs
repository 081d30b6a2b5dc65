//! Names that a cluster takes, each given once.

use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Longest name that is given; leaves room for what the cluster appends to make a label of 63.
const LONGEST: usize = 50;

/// Names given in one namespace of the cluster, by kind of object.
#[derive(Debug, Default)]
pub(super) struct Names {
    given: BTreeMap<(&'static str, String), String>,
    taken: BTreeSet<(&'static str, String)>,
}

impl Names {
    /// Gives names to all; those that can stay as they are do, whatever the others are called.
    pub(super) fn give_all<'n>(
        &mut self,
        kind: &'static str,
        names: impl IntoIterator<Item = (&'n str, String)>,
    ) {
        let (same, changed): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|(_, wanted)| dns_name(wanted) == *wanted);
        for (key, wanted) in same.into_iter().chain(changed) {
            self.give(kind, key, &wanted);
        }
    }

    /// The name of `key`, as near to `wanted` as the cluster allows and nothing else of the kind has.
    pub(super) fn give(&mut self, kind: &'static str, key: &str, wanted: &str) -> String {
        let safe = dns_name(wanted);
        let mut name = safe.clone();
        let mut round = 0;
        while !self.taken.insert((kind, name.clone())) {
            let digest = Sha256::digest(format!("{key} {wanted} {round}"));
            let front: String = safe.chars().take(LONGEST - 7).collect();
            name = format!(
                "{}-{:02x}{:02x}{:02x}",
                front.trim_end_matches('-'),
                digest[0],
                digest[1],
                digest[2]
            );
            round += 1;
        }
        self.given.insert((kind, key.to_owned()), name.clone());
        name
    }

    /// Takes a name exactly as it is, if the cluster allows it and nothing has it.
    pub(super) fn take(&mut self, kind: &'static str, name: &str) -> bool {
        dns_name(name) == name && self.taken.insert((kind, name.to_owned()))
    }

    /// The name that was given to `key`.
    pub(super) fn of(&self, kind: &'static str, key: &str) -> String {
        self.given.get(&(kind, key.to_owned())).cloned().unwrap_or_else(|| dns_name(key))
    }
}

/// A name that the cluster takes for everything: small letters, digits and dashes, a letter first, at most
/// 50.
pub(super) fn dns_name(name: &str) -> String {
    let dashed: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let safe = dashed.trim_matches('-');
    let safe = match safe.chars().next() {
        None => "x".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("x-{safe}"),
        Some(_) => safe.to_owned(),
    };
    if safe.len() <= LONGEST {
        return safe;
    }
    let digest = Sha256::digest(name.as_bytes());
    let front = safe[..LONGEST - 7].trim_end_matches('-');
    format!("{front}-{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
}

/// A text that the cluster takes as the value of a label.
pub(super) fn label_value(text: &str) -> String {
    let edge = |c: char| !c.is_ascii_alphanumeric();
    let safe: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(63)
        .collect();
    safe.trim_matches(edge).to_owned()
}

/// Whether the cluster takes a text as the name of an annotation.
pub(super) fn is_annotation(name: &str) -> bool {
    let (prefix, name) = name.split_once('/').map_or((None, name), |(p, n)| (Some(p), n));
    let edge = |c: char| c.is_ascii_alphanumeric();
    let part = |text: &str, also: &str| {
        text.starts_with(edge)
            && text.ends_with(edge)
            && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    name.len() <= 63
        && part(name, "._-")
        && prefix
            .is_none_or(|p| p.len() <= 253 && p.split('.').all(|label| label.len() <= 63 && part(label, "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_by_the_cluster_and_given_once() {
        let mut names = Names::default();
        let long = "a".repeat(70);
        let all = ["my_app", "my-app", "My.App", "1st", "_", &long];
        names.give_all("x", all.iter().map(|n| (*n, (*n).to_owned())));
        let given: Vec<String> = all.iter().map(|n| names.of("x", n)).collect();
        assert_eq!(given[1], "my-app");
        assert_eq!(given[3], "x-1st");
        assert_eq!(given[4], "x");
        assert!(given[5].len() <= LONGEST);
        let distinct: BTreeSet<&String> = given.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{given:?}");
        assert!(given.iter().all(|n| dns_name(n) == *n), "{given:?}");
        assert!(!names.take("x", "my-app") && names.take("x", "other") && !names.take("x", "Other_"));
    }

    #[test]
    fn annotations_and_labels() {
        for (name, good) in
            [("a.b/c_d", true), ("traefik.http.x", true), ("-a", false), ("a..b/c", false), ("", false)]
        {
            assert_eq!(is_annotation(name), good, "{name}");
        }
        assert_eq!(label_value("shop_"), "shop");
    }
}
