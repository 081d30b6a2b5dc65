//! Image references as Docker and Kubernetes write them: `[domain/]path[:tag][@digest]`.

use crate::digest::{Digest, is_hex64};
use crate::{Error, Result};
use std::fmt;

/// Domain of names that have none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An older name of the same.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Path of official images on the default domain.
const OFFICIAL: &str = "library/";
/// Longest `domain/path` in bytes.
const MAX_NAME: usize = 255;
/// Longest tag in bytes.
const MAX_TAG: usize = 128;

/// A complete reference: it has a domain, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    domain: String,
    path: String,
    which: Which,
}

/// The part of a reference that selects an image of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Which {
    /// A name that can move.
    Tag(String),
    /// Content; a tag beside it is ignored.
    Digest(Digest),
}

impl Reference {
    /// Parses a reference; a missing domain becomes `docker.io`, a missing tag `latest`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut all = Self::candidates(text, &[])?;
        all.pop().ok_or_else(|| Error::invalid(text, "the reference is empty"))
    }

    /// What a reference may mean: itself if it has a domain, otherwise one for each of the registries
    /// that registries.conf says to search (`docker.io` if none), in order.
    pub(crate) fn candidates(text: &str, search: &[String]) -> Result<Vec<Self>> {
        let (name, which) = split(text)?;
        if let Some((domain, path)) = split_domain(name) {
            return Ok(vec![Self::checked(text, domain, path, which)?]);
        }
        let default = [DEFAULT_DOMAIN.to_owned()];
        let domains = if search.is_empty() { &default[..] } else { search };
        domains
            .iter()
            .map(|prefix| {
                // A registry to search may carry a namespace.
                let (domain, space) = prefix.split_once('/').map_or((prefix.as_str(), ""), |(d, s)| (d, s));
                let slash = if space.is_empty() { "" } else { "/" };
                Self::checked(text, domain, &format!("{space}{slash}{name}"), which.clone())
            })
            .collect()
    }

    fn checked(text: &str, domain: &str, path: &str, which: Which) -> Result<Self> {
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(Error::invalid(text, "the name is longer than 255 bytes"));
        }
        if !is_domain(domain) {
            return Err(Error::invalid(text, format!("{domain:?} is no registry host")));
        }
        if let Some(bad) = path.split('/').find(|c| !is_path_component(c)) {
            return Err(Error::invalid(
                text,
                format!("{bad:?} is no part of a repository name (lower-case letters, digits, . _ -)"),
            ));
        }
        Ok(Self { domain: domain.to_owned(), path, which })
    }

    /// Registry host, with a port if there is one.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// What selects the image.
    pub(crate) fn which(&self) -> &Which {
        &self.which
    }

    /// `domain/path`.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository at a digest.
    pub(crate) fn at(&self, digest: &Digest) -> Self {
        Self { which: Which::Digest(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Which::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

/// Splits into the name and what selects the image.
fn split(text: &str) -> Result<(&str, Which)> {
    if text.is_empty() {
        return Err(Error::invalid(text, "the reference is empty"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|e| in_reference(text, e))?)),
        None => (text, None),
    };
    // A colon in the last component starts a tag; before it, it starts a port.
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(at) => (&rest[..last + at], Some(&rest[last + at + 1..])),
        None => (rest, None),
    };
    if is_hex64(name) {
        return Err(Error::invalid(text, "64 hex digits are an image id, not a name"));
    }
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(Error::invalid(text, format!("{tag:?} is no tag")));
    }
    let which = match digest {
        Some(digest) => Which::Digest(digest),
        None => Which::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok((name, which))
}

fn in_reference(text: &str, error: Error) -> Error {
    match error {
        Error::InvalidReference { reason, .. } => Error::invalid(text, reason),
        other => other,
    }
}

/// The domain, if the first component looks like one.
fn split_domain(name: &str) -> Option<(&str, &str)> {
    let (first, rest) = name.split_once('/')?;
    let looks =
        first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase());
    looks.then_some((first, rest))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        ("", port)
    } else {
        domain.find(':').map_or((domain, ""), |at| domain.split_at(at))
    };
    let port_is_fine = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_is_fine && (domain.starts_with('[') || host.split('.').all(label))
}

fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends =
        bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    // Between two alphanumerics stands one dot, one or two underscores, or any number of dashes.
    ends && bytes
        .split(|b| alphanumeric(*b))
        .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= MAX_TAG
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn references_are_normalised() {
        let digest = format!("@sha256:{HEX}");
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            (
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
                "registry.k8s.io/e2e-test-images/busybox:1.29-2".to_owned(),
            ),
            ("Upper.example/a__b/c--d.e", "Upper.example/a__b/c--d.e:latest".to_owned()),
            (&format!("busybox{digest}"), format!("docker.io/library/busybox{digest}")),
            (&format!("busybox:1{digest}"), format!("docker.io/library/busybox{digest}")),
        ];
        for (text, expected) in cases {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn bad_references_are_refused() {
        let long = "a/".repeat(130);
        let cases = [
            "",
            ":",
            "@",
            "busybox:",
            "busybox@",
            "busybox:-x",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a b",
            "busybox@sha256:12",
            "host:/a",
            "host:123456/a",
            "exa_mple.com/a",
            "[::x]/a",
            "../a",
            "a/../b",
            HEX,
            "-x.com/a",
            &long,
            "a:b\n",
            "ex.com/a?b",
        ];
        for text in cases {
            let error = Reference::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidReference, "{text:?}: {error}");
        }
        let unknown = Reference::parse("busybox@sha512:00").unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn short_names_are_searched_for() {
        let search = ["one.example".to_owned(), "two.example/space".to_owned(), "docker.io".to_owned()];
        let all = |text| -> Vec<String> {
            Reference::candidates(text, &search).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(all("app:1"), ["one.example/app:1", "two.example/space/app:1", "docker.io/library/app:1"]);
        assert_eq!(all("host.example/app"), ["host.example/app:latest"]);
    }
}
