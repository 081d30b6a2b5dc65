//! Where files come from: the caller hands in a file system, so that this crate touches none itself.

use std::collections::BTreeMap;
use std::io;

/// A file system to read from; paths are absolute.
pub trait Files {
    /// The whole file.
    ///
    /// # Errors
    /// What the file system says. A file larger than `limit` bytes is an error too.
    fn read(&self, path: &str, limit: usize) -> io::Result<Vec<u8>>;
}

/// Files in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(pub BTreeMap<String, Vec<u8>>);

impl MemoryFiles {
    /// Files by path and text.
    pub fn new<P: Into<String>, T: Into<Vec<u8>>>(files: impl IntoIterator<Item = (P, T)>) -> Self {
        Self(files.into_iter().map(|(path, text)| (path.into(), text.into())).collect())
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        let content = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        if content.len() > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        Ok(content.clone())
    }
}

/// A path without `.`, `..` and doubled slashes, made absolute with `base`; `~` is `home`.
///
/// # Errors
/// None; a leading `~user` is left as a name.
pub fn absolute(path: &str, base: &str, home: Option<&str>) -> String {
    let expanded = match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
        _ => path.to_owned(),
    };
    if expanded.starts_with('/') { clean(&expanded) } else { clean(&format!("{base}/{expanded}")) }
}

/// A path without `.`, `..` and doubled slashes.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Folder that a path is in.
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}
