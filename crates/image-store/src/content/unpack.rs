//! One layer from its blob to a directory: decompressed, hashed twice and placed while it streams.

use super::document::Blob;
use super::pipe;
use super::tarstream::{Archive, Entry, EntryKind, TarError};
use crate::digest::{Digest, HashingReader};
use crate::{Error, Limits, Result};
use flate2::bufread::MultiGzDecoder;
use gantry_sys::placement::{Kind, PlaceError, Placer};
use std::io::{self, BufReader, Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of a zstd frame, as a power of two: 64 MiB. Decoding takes that much memory.
const ZSTD_WINDOW: u32 = 26;
const BUFFER: usize = 64 << 10;

/// What a layer must turn out to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// The compressed blob.
    pub(crate) blob: Blob,
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
}

/// What a layer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Whether the result depends on the layers below.
    pub(crate) used_lower: bool,
    /// Whether the archive describes the root directory.
    pub(crate) root_placed: bool,
    /// Whether everything below is hidden.
    pub(crate) root_opaque: bool,
    /// Disk space.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

/// Gives the directories of the layers below, topmost first; called at most once, may block.
pub(crate) type Lower<'a> = &'a mut dyn FnMut() -> Result<Vec<Arc<OwnedFd>>>;

/// Reads the blob to its end, places what it holds in the empty directory `target`, and compares both
/// digests.
pub(crate) fn unpack(
    blob: impl Read,
    expected: &Expected,
    target: &Path,
    limits: &Limits,
    lower: Lower<'_>,
) -> Result<Unpacked> {
    let object = format!("layer {}", expected.blob.digest);
    let failed = |e: io::Error| pipe::unwrap(&object, e);
    let mut compressed = HashingReader::new(blob);
    let decoder = decoder(&mut compressed).map_err(failed)?;
    let mut plain = HashingReader::new(Capped { inner: decoder, left: limits.layer_bytes, object: &object });
    let mut placer = Placer::new(target).map_err(|e| place_error(&object, e))?;
    place_all(&mut plain, &mut placer, limits, lower, &object)?;
    plain.drain().map_err(failed)?;
    let diff_id = plain.digest();
    drop(plain);
    compressed.drain().map_err(failed)?;
    if compressed.count() != expected.blob.size {
        let reason = format!("{} bytes instead of {}", compressed.count(), expected.blob.size);
        return Err(Error::corrupt(object, reason));
    }
    mismatch(&object, "the content", &compressed.digest(), &expected.blob.digest)?;
    mismatch(&object, "the uncompressed content", &diff_id, &expected.diff_id)?;
    Ok(Unpacked {
        used_lower: placer.used_lower(),
        root_placed: placer.root_placed(),
        root_opaque: placer.root_opaque(),
        bytes: placer.bytes(),
        inodes: placer.inodes(),
    })
}

fn mismatch(object: &str, what: &str, is: &Digest, should: &Digest) -> Result<()> {
    if is == should {
        return Ok(());
    }
    Err(Error::corrupt(object, format!("{what} has digest {is} instead of {should}")))
}

/// Finds out how a blob is compressed; media types are often wrong about it.
fn decoder<'a, R: Read + 'a>(mut blob: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    (&mut blob).take(ZSTD.len() as u64).read_to_end(&mut magic)?;
    let (gzip, zstd) = (magic.starts_with(&GZIP), magic.starts_with(&ZSTD));
    let whole = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(blob));
    if gzip {
        return Ok(Box::new(MultiGzDecoder::new(whole)));
    }
    if zstd {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}

/// Decompresses an archive that is to be read as a whole; plain ones pass through.
pub(crate) fn decompress<'a>(archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    decoder(archive)
}

/// Whether a file that starts like this is compressed.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&GZIP) || start.starts_with(&ZSTD)
}

fn place_all(
    plain: &mut impl Read,
    placer: &mut Placer,
    limits: &Limits,
    lower: Lower<'_>,
    object: &str,
) -> Result<()> {
    let mut archive = Archive::new(plain);
    let mut entries = 0_u64;
    while let Some(entry) = archive.next_entry().map_err(|e| tar_error(object, e))? {
        entries += 1;
        if entries > limits.layer_entries {
            return Err(Error::corrupt(object, format!("more than {} entries", limits.layer_entries)));
        }
        match placer.place(&entry.path, kind(&entry, &mut archive), &entry.attributes) {
            Err(PlaceError::NeedsLower) => {
                placer.set_lower(lower()?);
                placer.place(&entry.path, kind(&entry, &mut archive), &entry.attributes)
            }
            result => result,
        }
        .map_err(|e| place_error(object, e))?;
    }
    placer.finish().map_err(|e| place_error(object, e))
}

fn kind<'a>(entry: &'a Entry, content: &'a mut dyn Read) -> Kind<'a> {
    match entry.kind {
        EntryKind::Directory => Kind::Directory,
        EntryKind::File => Kind::File(content),
        EntryKind::Symlink => Kind::Symlink(&entry.link),
        EntryKind::HardLink => Kind::HardLink(&entry.link),
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::Char(major, minor) => Kind::Char(major, minor),
        EntryKind::Block(major, minor) => Kind::Block(major, minor),
    }
}

/// Whose fault a tar error is.
pub(crate) fn tar_error(object: &str, error: TarError) -> Error {
    match error {
        TarError::Read(e) => pipe::unwrap(object, e),
        TarError::Malformed(reason) => Error::corrupt(object, reason),
        TarError::Unsupported(reason) => Error::unsupported(object, reason),
    }
}

fn place_error(object: &str, error: PlaceError) -> Error {
    match error {
        PlaceError::Content(e) => pipe::unwrap(object, e),
        PlaceError::System(e) => Error::io("place", object, e.into()),
        refused => Error::corrupt(object, refused.to_string()),
    }
}

/// Ends in an error when more comes than a layer may hold: a small blob can inflate a thousandfold.
struct Capped<'a, R> {
    inner: R,
    left: u64,
    object: &'a str,
}

impl<R: Read> Read for Capped<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => {
                let reason = "it is larger than the limit for uncompressed layers";
                return Err(pipe::wrap(Error::corrupt(self.object, reason)));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use gantry_testkit::fs::{describe, disk_dir};
    use gantry_testkit::layer::{Compression, Layer, LayerBuilder};

    fn expected(layer: &Layer) -> Expected {
        let blob = Blob { digest: Digest::parse(&layer.digest).unwrap(), size: layer.blob.len() as u64 };
        Expected { blob, diff_id: Digest::parse(&layer.diff_id).unwrap() }
    }

    fn run(blob: &[u8], expected: &Expected, limits: &Limits) -> Result<Unpacked> {
        let dir = disk_dir();
        unpack(blob, expected, dir.path(), limits, &mut || Ok(Vec::new()))
    }

    fn sample() -> LayerBuilder {
        LayerBuilder::new().dir("d", 0o755).file("d/f", 0o644, vec![b'x'; 300_000]).symlink("l", "d/f")
    }

    #[test]
    fn all_compressions_give_the_same_tree() {
        let mut trees = Vec::new();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let layer = sample().build(compression);
            let dir = disk_dir();
            let lower = &mut || panic!("self-contained");
            let u =
                unpack(&layer.blob[..], &expected(&layer), dir.path(), &Limits::default(), lower).unwrap();
            assert_eq!((u.used_lower, u.root_placed, u.inodes), (false, false, 3));
            let mut tree = describe(dir.path());
            tree.remove(".");
            trees.push(tree);
        }
        assert!(trees[0] == trees[1] && trees[1] == trees[2]);
        assert_eq!(trees[0].len(), 3);
    }

    #[test]
    fn several_gzip_members_are_one_layer() {
        let tar = sample().tar();
        let (a, b) = tar.split_at(1000);
        let blob = [a, b].map(|part| Layer::from_bytes(part, Compression::Gzip).blob).concat();
        let layer =
            Layer { digest: gantry_testkit::layer::sha256(&blob), blob, ..sample().build(Compression::Gzip) };
        run(&layer.blob, &expected(&layer), &Limits::default()).unwrap();
    }

    #[test]
    fn content_that_is_not_what_it_should_be_is_refused() {
        let limits = Limits::default();
        let layer = sample().build(Compression::Gzip);
        let other = LayerBuilder::new().file("other", 0o644, "").build(Compression::Gzip);
        let good = expected(&layer);
        let mut cases = Vec::new();
        cases.push(("truncated", layer.blob[..layer.blob.len() / 2].to_vec(), good.clone()));
        cases.push(("other blob", other.blob.clone(), good.clone()));
        let size = Blob { size: good.blob.size + 1, ..good.blob.clone() };
        cases.push(("size", layer.blob.clone(), Expected { blob: size, ..good.clone() }));
        let diff_id = Digest::parse(&other.diff_id).unwrap();
        cases.push(("diff id", layer.blob.clone(), Expected { diff_id, ..good.clone() }));
        let digest = Digest::parse(&other.digest).unwrap();
        let blob = Blob { digest, size: good.blob.size };
        cases.push(("digest", layer.blob.clone(), Expected { blob, ..good.clone() }));
        let mut trailing = layer.blob;
        trailing.extend_from_slice(b"trailing");
        cases.push(("trailing bytes", trailing, good));
        for (name, blob, expected) in cases {
            let error = run(&blob, &expected, &limits).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        }
    }

    #[test]
    fn bombs_and_floods_are_stopped() {
        let limits = Limits { layer_bytes: 1 << 20, layer_entries: 50, ..Limits::default() };
        for compression in [Compression::Gzip, Compression::Zstd] {
            let bomb = LayerBuilder::new().file("zeros", 0o644, vec![0; 8 << 20]).build(compression);
            assert!(bomb.blob.len() < 1 << 20);
            let error = run(&bomb.blob, &expected(&bomb), &limits).unwrap_err();
            assert!(error.to_string().contains("larger than the limit"), "{error}");
        }
        // What follows the archive counts too: it is hashed.
        let mut tar = LayerBuilder::new().tar();
        tar.resize(8 << 20, 0);
        let tail = Layer::from_bytes(&tar, Compression::Gzip);
        assert_eq!(run(&tail.blob, &expected(&tail), &limits).unwrap_err().kind(), ErrorKind::Corrupt);
        let flood = (0..60).fold(LayerBuilder::new(), |b, i| b.file(&format!("f{i}"), 0o644, ""));
        let flood = flood.build(Compression::Gzip);
        let error = run(&flood.blob, &expected(&flood), &limits).unwrap_err();
        assert!(error.to_string().contains("more than 50 entries"), "{error}");
    }

    #[test]
    fn zstd_windows_are_bounded() {
        use std::io::Write;
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        let tar = LayerBuilder::new().file("f", 0o644, "x").tar();
        encoder.write_all(&tar).unwrap();
        let blob = encoder.finish().unwrap();
        let digest = gantry_testkit::layer::sha256(&blob);
        let layer = Layer {
            digest,
            diff_id: gantry_testkit::layer::sha256(&tar),
            blob,
            compression: Compression::Zstd,
        };
        assert_eq!(
            run(&layer.blob, &expected(&layer), &Limits::default()).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn a_download_that_was_given_up_is_not_complete() {
        let layer = sample().build(Compression::None);
        let (sender, receiver) = pipe::pipe();
        sender.try_send(pipe::Chunk::Data(layer.blob.clone().into())).unwrap();
        drop(sender);
        let dir = disk_dir();
        let error =
            unpack(receiver, &expected(&layer), dir.path(), &Limits::default(), &mut || Ok(Vec::new()))
                .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }

    #[test]
    fn hostile_entries_make_the_layer_corrupt() {
        let layers = [
            LayerBuilder::new().file("../escape", 0o644, "x"),
            LayerBuilder::new().file("a", 0o644, "").hard_link("b", "../../etc/passwd"),
            LayerBuilder::new().hard_link("b", "absent"),
            LayerBuilder::new().file("d/.wh...", 0o644, ""),
            LayerBuilder::new().file("file", 0o644, "").file("file/below", 0o644, ""),
            LayerBuilder::new().symlink("l", "l").file("l/x", 0o644, ""),
            LayerBuilder::new().file(&"n".repeat(300), 0o644, ""),
        ];
        for layer in layers {
            let layer = layer.build(Compression::Gzip);
            let error = run(&layer.blob, &expected(&layer), &Limits::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}
