//! An archive that a container sends, placed below a directory of this machine.
//!
//! The container is not trusted: what it sends can neither be placed outside the directory, nor through a symbolic
//! link, nor be a link that leads out of the directory, nor a device; nor can it take memory beyond a bound.

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use tar::{Archive, Entry, EntryType, PaxExtensions};
use tokio::sync::mpsc;

/// Longest name of an entry or target of a link, as the kernel's `PATH_MAX`.
const MAX_PATH: u64 = 4096;
/// Most bytes of extended headers of one entry.
const MAX_EXTENDED: u64 = 64 << 10;

/// Entries go beneath its directory, as they are called or with another first name.
#[derive(Debug)]
pub(super) struct Extractor {
    dir: OwnedFd,
    /// What the first component of each entry must be, if the container was asked for one name.
    expected: Option<OsString>,
    /// What it becomes.
    rename: Option<OsString>,
}

/// An entry's name that cannot lead out: plain components only.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inside(PathBuf);

/// Names that come in entries of their own, in front of the one that they are for.
#[derive(Debug, Default)]
struct Long {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extractor {
    /// Places below `dir`, which must be there; symbolic links in its own path are the user's.
    pub(super) fn open(dir: &Path, expected: Option<&str>, rename: Option<OsString>) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty());
        let dir = fd.with_context(|| format!("open the directory {}", dir.display()))?;
        Ok(Self { dir, expected: expected.map(OsString::from), rename })
    }

    /// Unpacks an archive; how many entries were left out.
    pub(super) fn extract(self, from: mpsc::Receiver<Bytes>) -> Result<usize> {
        self.unpack(Receiving { from, piece: Bytes::new() })
    }

    fn unpack(self, mut from: impl Read) -> Result<usize> {
        let mut skipped = 0;
        let mut long = Long::default();
        // Raw: names of any length are read here, with a bound.
        let mut archive = Archive::new(&mut from);
        for entry in archive.entries().context("read the archive")?.raw(true) {
            let mut entry = entry.context("read the archive that the container sends")?;
            if long.take(&mut entry)? {
                continue;
            }
            let Long { path, link } = std::mem::take(&mut long);
            let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
            let link = link.or_else(|| entry.link_name_bytes().map(|l| l.into_owned()));
            if !self.place(&mut entry, &path, link.as_deref())? {
                skipped += 1;
            }
        }
        // What follows the end of the archive is padding; tar must be able to write it.
        io::copy(&mut from, &mut io::sink()).context("read the archive that the container sends")?;
        Ok(skipped)
    }

    /// Places one entry; `false` if it is left out, which was said.
    fn place(&self, entry: &mut Entry<'_, impl Read>, raw: &[u8], link: Option<&[u8]>) -> Result<bool> {
        let shown = String::from_utf8_lossy(raw).into_owned();
        let left_out = |why: &str| {
            eprintln!("gantry: {shown:?} is left out: {why}");
            Ok(false)
        };
        let Some(path) = self.inside(raw) else {
            return left_out("its name leads out of what was asked for");
        };
        let Some((parent, name)) = path.split() else { return Ok(true) };
        let failed = || format!("place {shown:?}");
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o777);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            let parent = self.parent(&parent).with_context(failed)?;
            make_directory(&parent, &name, mode).with_context(failed)?;
        } else if kind.is_file() || kind == EntryType::Continuous {
            let parent = self.parent(&parent).with_context(failed)?;
            let modified = entry.header().mtime().ok().and_then(|t| i64::try_from(t).ok());
            write_file(&parent, &name, mode, modified, entry).with_context(failed)?;
        } else if kind.is_symlink() {
            let target = link.unwrap_or_default();
            if !stays_inside(target, parent.components().count()) {
                return left_out("it is a symbolic link that leads out of the directory");
            }
            let parent = self.parent(&parent).with_context(failed)?;
            remove(&parent, &name).with_context(failed)?;
            rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, &name).with_context(failed)?;
        } else if kind.is_hard_link() {
            let Some((from, first)) = link.and_then(|l| self.inside(l)).and_then(|l| l.split()) else {
                return left_out("it is a link to something outside of what was asked for");
            };
            let from = self.parent(&from).with_context(failed)?;
            // A symbolic link in another directory could lead elsewhere.
            let what = rustix::fs::statat(&from, &first, AtFlags::SYMLINK_NOFOLLOW).with_context(failed)?;
            if FileType::from_raw_mode(what.st_mode) != FileType::RegularFile {
                return left_out("it is a second name of something that is no file");
            }
            let parent = self.parent(&parent).with_context(failed)?;
            remove(&parent, &name).with_context(failed)?;
            rustix::fs::linkat(&from, &first, &parent, &name, AtFlags::empty()).with_context(failed)?;
        } else {
            return left_out("it is no file, directory or link");
        }
        Ok(true)
    }

    /// The path of an entry below the directory.
    fn inside(&self, raw: &[u8]) -> Option<Inside> {
        let mut path = PathBuf::new();
        if raw.first() == Some(&b'/') || raw.contains(&0) || raw.len() as u64 >= MAX_PATH {
            return None;
        }
        for part in raw.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return None,
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        let Some(expected) = &self.expected else { return Some(Inside(path)) };
        let below = path.strip_prefix(expected).ok()?;
        let first = Path::new(self.rename.as_ref().unwrap_or(expected));
        Some(Inside(if below.as_os_str().is_empty() { first.to_owned() } else { first.join(below) }))
    }

    /// A directory below, which is made if it is not there. No symbolic link is followed.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut dir = self.dir.try_clone()?;
        if path.as_os_str().is_empty() {
            return Ok(dir);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        for part in path {
            make_directory(&dir, part, Mode::from_raw_mode(0o755))?;
            dir = rustix::fs::openat2(&dir, part, flags, Mode::empty(), resolve)?;
        }
        Ok(dir)
    }
}

impl Inside {
    /// Directory and name; `None` for the directory itself.
    fn split(&self) -> Option<(PathBuf, OsString)> {
        Some((self.0.parent()?.to_owned(), self.0.file_name()?.to_owned()))
    }
}

impl Long {
    /// Takes what an entry tells about the one behind it; `false` for an ordinary entry.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool> {
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            self.path = Some(name(entry)?);
        } else if kind.is_gnu_longlink() {
            self.link = Some(name(entry)?);
        } else if kind.is_pax_local_extensions() {
            let bytes = bounded(entry, MAX_EXTENDED)?;
            for extension in PaxExtensions::new(&bytes) {
                let extension = extension.context("read the archive that the container sends")?;
                match extension.key_bytes() {
                    b"path" => self.path = Some(extension.value_bytes().to_vec()),
                    b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                    b"size" => bail!("the archive has a size of the pax format, which is not understood"),
                    _ => {}
                }
            }
        } else {
            // Defaults for all that follows: times and comments, in practice.
            return Ok(kind.is_pax_global_extensions());
        }
        Ok(true)
    }
}

fn name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let mut bytes = bounded(entry, MAX_PATH)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(bytes)
}

fn bounded(entry: &mut Entry<'_, impl Read>, most: u64) -> Result<Vec<u8>> {
    if entry.header().entry_size().context("read the archive that the container sends")? > most {
        bail!("the archive has a header of more than {most} bytes");
    }
    let mut bytes = Vec::new();
    entry.take(most).read_to_end(&mut bytes).context("read the archive that the container sends")?;
    Ok(bytes)
}

/// Whether a symbolic link `depth` directories below the top leads to something below the top. Its own
/// directory is reached without links, and so are those above; after a name there may be a link, so that
/// nothing can be told of a `..` behind one.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    let (mut depth, mut named) = (depth, false);
    if target.is_empty() || target[0] == b'/' || target.contains(&0) {
        return false;
    }
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named || depth == 0 => return false,
            b".." => depth -= 1,
            _ => named = true,
        }
    }
    true
}

fn make_directory(parent: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<()> {
    // Whoever unpacks must be able to place what is in it.
    match rustix::fs::mkdirat(parent, name, mode | Mode::RWXU) {
        Err(Errno::EXIST) => {
            let what = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(what.st_mode) {
                FileType::Directory => Ok(()),
                _ => Err(Errno::NOTDIR.into()),
            }
        }
        other => Ok(other?),
    }
}

/// Makes room for something that is no directory.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn write_file(
    parent: &OwnedFd,
    name: &OsStr,
    mode: Mode,
    modified: Option<i64>,
    content: &mut impl Read,
) -> io::Result<()> {
    remove(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(fd);
    io::copy(content, &mut file)?;
    rustix::fs::fchmod(&file, mode)?;
    if let Some(seconds) = modified {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
        };
        rustix::fs::futimens(&file, &times)?;
    }
    Ok(())
}

/// The pieces of an archive as they come.
#[derive(Debug)]
struct Receiving {
    from: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Receiving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let n = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use tar::{Builder, Header};

    /// An archive by a container that ignores what it was asked for.
    #[derive(Default)]
    struct Hostile(Vec<u8>);

    impl Hostile {
        fn entry(mut self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
            let mut header = Header::new_gnu();
            // The builder refuses such names.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o4755);
            header.set_mtime(1_000_000);
            header.set_size(content.len() as u64);
            header.set_cksum();
            let mut builder = Builder::new(Vec::new());
            builder.append(&header, content).unwrap();
            let bytes = builder.into_inner().unwrap();
            self.0.extend_from_slice(&bytes[..bytes.len() - 1024]);
            self
        }

        fn file(self, path: &str, content: &str) -> Self {
            self.entry(EntryType::Regular, path, "", content.as_bytes())
        }

        fn link(self, path: &str, target: &str) -> Self {
            self.entry(EntryType::Symlink, path, target, b"")
        }

        fn unpack(mut self, dir: &Path, expected: Option<&str>, rename: Option<&str>) -> Result<usize> {
            self.0.resize(self.0.len() + 1024, 0);
            Extractor::open(dir, expected, rename.map(OsString::from))?.unpack(&self.0[..])
        }
    }

    fn tree(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![dir.to_owned()];
        while let Some(at) = left.pop() {
            for entry in std::fs::read_dir(at).unwrap().map(Result::unwrap) {
                found.push(entry.path().strip_prefix(dir).unwrap().display().to_string());
                if entry.file_type().unwrap().is_dir() {
                    left.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_tree_is_placed_under_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let skipped = Hostile::default()
            .entry(EntryType::Directory, "./a/", "", b"")
            .file("./a/x", "content")
            .file("./a/deep/er/y", "made without its directories")
            .link("./a/deep/l", "../x")
            .entry(EntryType::Link, "./a/h", "./a/x", b"")
            .unpack(dir.path(), Some("a"), Some("b"))
            .unwrap();
        assert_eq!(skipped, 0);
        assert_eq!(tree(dir.path()), ["b", "b/deep", "b/deep/er", "b/deep/er/y", "b/deep/l", "b/h", "b/x"]);
        let x = std::fs::metadata(dir.path().join("b/x")).unwrap();
        assert_eq!((x.nlink(), x.permissions().mode() & 0o7777, x.mtime()), (2, 0o755, 1_000_000));
        // Again, over what is there.
        Hostile::default().file("a/x", "new").unpack(dir.path(), Some("a"), Some("b")).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("b/x")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(dir.path().join("b/h")).unwrap(), "content");
    }

    #[test]
    fn nothing_leads_out() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("in");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(outer.path().join("secret"), "s").unwrap();
        let skipped = Hostile::default()
            .file("../escaped", "x")
            .file("a/../../escaped", "x")
            .file("/tmp/gantry-cp-escaped", "x")
            .file("other", "not asked for")
            .link("a/abs", "/etc")
            .link("a/up", "../..")
            // `here` is the directory itself, so that `..` behind it would lead out.
            .link("a/here", ".")
            .link("a/tricky", "here/../../secret")
            .entry(EntryType::Link, "a/hard", "../secret", b"")
            .entry(EntryType::Char, "a/null", "", b"")
            .entry(EntryType::Fifo, "a/fifo", "", b"")
            .unpack(&dir, Some("a"), None)
            .unwrap();
        assert_eq!(skipped, 10);
        assert_eq!(tree(outer.path()), ["in", "in/a", "in/a/here", "secret"]);
        // A symbolic link cannot be moved to where it leads out, nor be written through.
        let skipped = Hostile::default()
            .link("a/deep/l", "../../x")
            .entry(EntryType::Link, "a/l", "a/deep/l", b"")
            .unpack(&dir, Some("a"), None)
            .unwrap();
        assert_eq!(skipped, 1);
        let through = Hostile::default().link("a/dir", "deep").file("a/dir/f", "x");
        let error = through.unpack(&dir, Some("a"), None).unwrap_err();
        assert!(format!("{error:#}").contains("a/dir/f"), "{error:#}");
        std::os::unix::fs::symlink(outer.path(), dir.join("theirs")).unwrap();
        Hostile::default().file("theirs/f", "x").unpack(&dir, None, None).unwrap_err();
        Hostile::default().file("theirs", "replaces the link").unpack(&dir, None, None).unwrap();
        assert!(dir.join("theirs").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn long_names_are_bounded_and_broken_archives_end() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("a/{}/f", "n".repeat(200));
        Hostile::default()
            .entry(EntryType::GNULongName, "././@LongLink", "", long.as_bytes())
            .file("a/short", "x")
            .unpack(dir.path(), Some("a"), None)
            .unwrap();
        assert!(dir.path().join(&long).is_file());
        let longer = "n/".repeat(3000);
        let refused = Hostile::default()
            .entry(EntryType::GNULongName, "././@LongLink", "", longer.as_bytes())
            .unpack(dir.path(), Some("a"), None);
        assert!(refused.unwrap_err().to_string().contains("4096"));
        let record = "30 path=../../../../escaped\n";
        let pax = format!("{record}\n");
        let escaped = Hostile::default()
            .entry(EntryType::XHeader, "PaxHeader", "", &pax.as_bytes()[..28])
            .file("a/plain", "x")
            .unpack(dir.path(), Some("a"), None);
        // A record of another length than it says, or a name that leads out: neither is placed.
        assert!(escaped.is_err() || escaped.unwrap() == 1);
        assert!(!dir.path().join("a/plain").exists());
        Extractor::open(dir.path(), None, None).unwrap().unpack(&[7; 3000][..]).unwrap_err();
        Extractor::open(dir.path(), None, None).unwrap().unpack(io::empty()).unwrap();
    }
}
