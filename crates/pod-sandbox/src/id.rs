//! Identifiers: 64 hexadecimal digits of randomness, and unique prefixes of them.

use crate::error::Kind;
use crate::{Error, Result};

/// A new id, 256 random bits in lower-case hexadecimal.
pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::new(Kind::Internal, format!("getrandom: {e}")))?;
    debug_assert_eq!(got, bytes.len(), "requests up to 256 bytes are answered whole (getrandom(2))");
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Whether `name` has the form of an id.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id among `ids` that `wanted` names: exactly, or as the only one that starts with it.
pub(crate) fn find<'a>(
    what: &str,
    wanted: &str,
    mut ids: impl Iterator<Item = &'a String>,
) -> Result<Option<&'a String>> {
    if wanted.is_empty() {
        return Err(Error::new(Kind::InvalidArgument, format!("the {what} id is empty")));
    }
    let mut found: Option<&String> = None;
    while let Some(id) = ids.next() {
        if id == wanted {
            return Ok(Some(id));
        }
        if id.starts_with(wanted) {
            if let Some(first) = found {
                let message = format!("{what} id {wanted} is ambiguous: {first} and {id} start with it");
                // An exact match may still follow.
                return match ids.find(|id| *id == wanted) {
                    Some(exact) => Ok(Some(exact)),
                    None => Err(Error::new(Kind::InvalidArgument, message)),
                };
            }
            found = Some(id);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_unique_prefix() {
        let ids: Vec<String> = ["abc1", "abd2", "ab"].map(String::from).into();
        assert_eq!(find("pod", "abc", ids.iter()).unwrap(), Some(&ids[0]));
        assert_eq!(find("pod", "ab", ids.iter()).unwrap(), Some(&ids[2]), "exact beats prefix");
        assert!(find("pod", "a", ids.iter()).unwrap_err().to_string().contains("ambiguous"));
        assert_eq!(find("pod", "x", ids.iter()).unwrap(), None);
        assert!(find("pod", "", ids.iter()).is_err());
        let id = new_id().unwrap();
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
