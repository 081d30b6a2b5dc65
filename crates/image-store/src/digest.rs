//! sha256 digests: the names of all content.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::Read;

/// A sha256 digest as text, `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    /// Checks a digest from outside; algorithms other than sha256 are not supported.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(Error::invalid(text, "a digest has the form sha256:<64 hex digits>"));
        };
        if algorithm != "sha256" {
            return Err(Error::unsupported(format!("digest {text}"), "only sha256 is known"));
        }
        if !is_hex64(hex) {
            return Err(Error::invalid(text, "a sha256 digest has 64 lower-case hex digits"));
        }
        Ok(Self(text.to_owned()))
    }

    /// From 64 lower-case hex digits.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        is_hex64(hex).then(|| Self(format!("{PREFIX}{hex}")))
    }

    /// Digest of some bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(Sha256::digest(bytes))))
    }

    /// The 64 hex digits.
    pub(crate) fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The whole text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Identity of a stack of layers (OCI image-spec, config.md, "Layer ChainID").
    pub(crate) fn chain(below: Option<&Self>, diff_id: &Self) -> Self {
        match below {
            None => diff_id.clone(),
            Some(below) => Self::of(format!("{below} {diff_id}").as_bytes()),
        }
    }
}

/// Whether this is 64 lower-case hex digits.
pub(crate) fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Counts and hashes what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Digest of the bytes read so far.
    pub(crate) fn digest(&self) -> Digest {
        Digest(format!("{PREFIX}{}", hex::encode(self.hasher.clone().finalize())))
    }

    /// Reads to the end, so that the digest covers everything.
    pub(crate) fn drain(&mut self) -> std::io::Result<()> {
        std::io::copy(self, &mut std::io::sink()).map(drop)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn digests_are_checked() {
        let good = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(Digest::parse(&good).unwrap().as_str(), good);
        let cases = [
            ("sha512:00", ErrorKind::Unsupported),
            ("sha256", ErrorKind::InvalidReference),
            ("sha256:00", ErrorKind::InvalidReference),
            (&good.to_uppercase().replace("SHA", "sha"), ErrorKind::InvalidReference),
            (&good.replace('0', "/"), ErrorKind::InvalidReference),
        ];
        for (text, kind) in cases {
            assert_eq!(Digest::parse(text).unwrap_err().kind(), kind, "{text}");
        }
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(Digest::chain(None, &a), a);
        assert_eq!(Digest::chain(Some(&a), &b), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
