//! Layers as tar archives, entry by entry, with nothing checked: hostile ones are wanted too.

use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::io::Write;

/// Compression of a layer's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A finished layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What a registry serves.
    pub blob: Vec<u8>,
    /// Digest of `blob`.
    pub digest: String,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// How `blob` is compressed.
    pub compression: Compression,
}

impl Layer {
    /// A layer of any bytes; the digests are right for them.
    pub fn from_bytes(tar: &[u8], compression: Compression) -> Self {
        let blob = match compression {
            Compression::None => tar.to_vec(),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).expect("compress in memory");
                encoder.finish().expect("compress in memory")
            }
            Compression::Zstd => zstd::encode_all(tar, 1).expect("compress in memory"),
        };
        Self { digest: sha256(&blob), diff_id: sha256(tar), blob, compression }
    }
}

/// `sha256:` and the digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Owner, time and mode of the next entries.
#[derive(Debug, Clone, Copy)]
struct Defaults {
    uid: u64,
    gid: u64,
    mtime: u64,
}

/// Builds the tar of a layer. Names are taken as they are.
#[derive(Debug, Clone)]
pub struct LayerBuilder {
    tar: Vec<u8>,
    defaults: Defaults,
    pax: Vec<u8>,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        let defaults = Defaults { uid: 0, gid: 0, mtime: 1_600_000_000 };
        Self { tar: Vec::new(), defaults, pax: Vec::new() }
    }

    /// Owner of the entries that follow.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.defaults.uid, self.defaults.gid) = (uid, gid);
        self
    }

    /// Modification time of the entries that follow, in seconds.
    #[must_use]
    pub fn mtime(mut self, seconds: u64) -> Self {
        self.defaults.mtime = seconds;
        self
    }

    /// A PAX record for the next entry (`SCHILY.xattr.user.x`, `mtime`, `path`, ...).
    #[must_use]
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        // The length counts itself (POSIX, pax interchange format).
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.pax.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, mode, "", &[])
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, "", content.as_ref())
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, target, &[])
    }

    /// A hard link to the entry at `target`.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, 0o644, target, &[])
    }

    /// A named pipe.
    #[must_use]
    pub fn fifo(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Fifo, mode, "", &[])
    }

    /// A character device.
    #[must_use]
    pub fn device(mut self, path: &str, mode: u32, major: u32, minor: u32) -> Self {
        let mut header = self.header(path, tar::EntryType::Char, mode, "", 0);
        header.set_device_major(major).expect("a GNU header has device numbers");
        header.set_device_minor(minor).expect("a GNU header has device numbers");
        self.append(header, &[]);
        self
    }

    /// Hides `path` of the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(p, n)| (p, n));
        let slash = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{slash}.wh.{name}"), 0, "")
    }

    /// Hides everything that the layers below have in `dir`.
    #[must_use]
    pub fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), 0, "")
    }

    /// Any entry; names that do not fit into a header go into PAX records.
    #[must_use]
    pub fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        if path.len() > 100 {
            self = self.pax("path", path.as_bytes());
        }
        if link.len() > 100 {
            self = self.pax("linkpath", link.as_bytes());
        }
        let header = self.header(path, kind, mode, link, content.len() as u64);
        self.append(header, content);
        self
    }

    /// A header of your own, with the size that it claims and the bytes that really follow it.
    #[must_use]
    pub fn raw(mut self, mut header: tar::Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.append(header, content);
        self
    }

    /// A header with this builder's defaults, for [`LayerBuilder::raw`].
    pub fn header(&self, path: &str, kind: tar::EntryType, mode: u32, link: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.defaults.uid);
        header.set_gid(self.defaults.gid);
        header.set_mtime(self.defaults.mtime);
        header.set_size(size);
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, path), (&mut old.linkname, link)] {
            let n = text.len().min(100);
            field[..n].copy_from_slice(&text.as_bytes()[..n]);
        }
        header
    }

    /// The archive with its closing blocks.
    pub fn tar(mut self) -> Vec<u8> {
        self.tar.extend_from_slice(&[0; 1024]);
        self.tar
    }

    /// The archive without closing blocks, as an interrupted writer leaves it.
    pub fn unfinished_tar(self) -> Vec<u8> {
        self.tar
    }

    /// The finished layer.
    pub fn build(self, compression: Compression) -> Layer {
        Layer::from_bytes(&self.tar(), compression)
    }

    fn append(&mut self, mut header: tar::Header, content: &[u8]) {
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            let kind = tar::EntryType::XHeader;
            let mut extended = self.header("pax", kind, 0o644, "", pax.len() as u64);
            extended.set_cksum();
            self.block(&extended, &pax);
        }
        header.set_cksum();
        self.block(&header, content);
    }

    fn block(&mut self, header: &tar::Header, content: &[u8]) {
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }
}
