//! A tar archive as a stream of entries.
//!
//! Headers are decoded by the `tar` crate; the framing around them is done here, because that crate's
//! iterator reads extended headers of any length into memory and splits PAX records at newlines, which
//! binary attributes contain. Formats: ustar, GNU long names and links, PAX (POSIX.1-2001).

use gantry_sys::placement::{Attributes, Time};
use std::io::{self, Read};
use tar::EntryType;

const BLOCK: usize = 512;
/// Bytes that one extended header may take.
const MAX_EXTENDED: u64 = 1 << 20;
const XATTR: &str = "SCHILY.xattr.";

/// What an entry is, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Directory,
    File,
    Symlink,
    HardLink,
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
}

/// One entry; its content follows in the archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) size: u64,
    pub(crate) attributes: Attributes,
}

/// Why an archive cannot be read on.
#[derive(Debug)]
pub(crate) enum TarError {
    /// The reader below failed.
    Read(io::Error),
    /// The archive is malformed.
    Malformed(String),
    /// The archive uses something that is not known here.
    Unsupported(String),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

fn malformed(reason: impl ToString) -> TarError {
    TarError::Malformed(reason.to_string())
}

/// Reads entries from `R`; also gives out the content of the current one, as a reader itself.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes of the current entry that were not read.
    remaining: u64,
    /// Bytes after them up to the next block.
    padding: u64,
}

/// What extended headers say about the next entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, remaining: 0, padding: 0 }
    }

    /// The reader below.
    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Tells that the reader below was moved to the end of the current entry's content.
    pub(crate) fn jumped(&mut self) {
        self.remaining = 0;
    }

    /// The next entry, or `None` at the end. What was not read of the current entry is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return if pending {
                    Err(malformed("an extended header without an entry"))
                } else {
                    Ok(None)
                };
            };
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extended(&header)?;
                    extended.read_pax(&records)?;
                }
                EntryType::GNULongName => extended.path = Some(cut_at_nul(self.extended(&header)?)),
                EntryType::GNULongLink => extended.link = Some(cut_at_nul(self.extended(&header)?)),
                // Defaults for the rest of the archive; image tools write comments there only.
                EntryType::XGlobalHeader => {
                    self.start(header.entry_size().map_err(malformed)?);
                    continue;
                }
                _ => return self.entry(&header, extended).map(Some),
            }
            pending = true;
        }
    }

    fn entry(&mut self, header: &tar::Header, extended: Extended) -> Result<Entry, TarError> {
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extended
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let device = || -> Result<(u32, u32), TarError> {
            let major = header.device_major().map_err(malformed)?.unwrap_or(0);
            Ok((major, header.device_minor().map_err(malformed)?.unwrap_or(0)))
        };
        let kind = match header.entry_type() {
            // Archives from before POSIX mark directories by a slash.
            EntryType::Regular if path.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Char => device().map(|(a, b)| EntryKind::Char(a, b))?,
            EntryType::Block => device().map(|(a, b)| EntryKind::Block(a, b))?,
            other => {
                let name = String::from_utf8_lossy(&path).into_owned();
                return Err(TarError::Unsupported(format!(
                    "entry {name:?} of type {:?}",
                    char::from(other.as_byte())
                )));
            }
        };
        let size = match extended.size {
            Some(size) => size,
            None => header.entry_size().map_err(malformed)?,
        };
        // Only files have content; whatever size others claim (POSIX, ustar interchange format).
        let size = if kind == EntryKind::File { size } else { 0 };
        self.start(size);
        let id = |pax: Option<u64>, own: io::Result<u64>, what: &str| -> Result<u32, TarError> {
            let id = match pax {
                Some(id) => id,
                None => own.map_err(malformed)?,
            };
            u32::try_from(id).map_err(|_| malformed(format!("{what} {id} is out of range")))
        };
        let mtime = match extended.mtime {
            Some(time) => time,
            None => {
                let seconds = header.mtime().map_err(malformed)?;
                Time { seconds: i64::try_from(seconds).map_err(malformed)?, nanos: 0 }
            }
        };
        let attributes = Attributes {
            mode: header.mode().map_err(malformed)?,
            uid: id(extended.uid, header.uid(), "owner")?,
            gid: id(extended.gid, header.gid(), "group")?,
            mtime,
            xattrs: extended.xattrs,
        };
        Ok(Entry { path, link, kind, size, attributes })
    }

    fn start(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        for part in [self.remaining, self.padding] {
            let skipped = io::copy(&mut (&mut self.reader).take(part), &mut io::sink())?;
            if skipped < part {
                return Err(malformed("the archive ends within an entry"));
            }
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header; `None` at the end of the input or at a block of zeros.
    fn header(&mut self) -> Result<Option<tar::Header>, TarError> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(malformed("the archive ends within a header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        // The checksum counts its own field as blanks.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b }))
            .sum();
        if header.cksum().map_err(malformed)? != sum {
            return Err(malformed("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    /// Content of an extended header.
    fn extended(&mut self, header: &tar::Header) -> Result<Vec<u8>, TarError> {
        let size = header.entry_size().map_err(malformed)?;
        if size > MAX_EXTENDED {
            return Err(malformed(format!("an extended header of {size} bytes")));
        }
        self.start(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(malformed("the archive ends within an extended header"));
        }
        Ok(bytes)
    }
}

impl<R: Read> Read for Archive<R> {
    /// Reads the content of the current entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within an entry"));
        }
        self.remaining -= n as u64;
        Ok(n)
    }
}

impl Extended {
    /// Reads records of the form `<length> <key>=<value>\n`, where the length covers all of it.
    fn read_pax(&mut self, mut rest: &[u8]) -> Result<(), TarError> {
        let broken = || malformed("a PAX record is malformed");
        while !rest.is_empty() {
            let blank = rest.iter().position(|b| *b == b' ').ok_or_else(broken)?;
            let length: usize =
                std::str::from_utf8(&rest[..blank]).ok().and_then(|t| t.parse().ok()).ok_or_else(broken)?;
            let record =
                rest.get(blank + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(broken)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let key = String::from_utf8_lossy(key);
        let text = || std::str::from_utf8(value).map_err(|_| malformed(format!("PAX {key} is no text")));
        let number = || {
            text()
                .and_then(|t| t.parse::<u64>().map_err(|_| malformed(format!("PAX {key}={t} is no number"))))
        };
        match key.as_ref() {
            // An empty value takes back an earlier one (POSIX, pax extended header).
            "path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            "linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            "size" => self.size = Some(number()?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mtime" => {
                self.mtime = Some(parse_time(text()?).ok_or_else(|| malformed("PAX mtime is no time"))?);
            }
            _ if key.starts_with("GNU.sparse.") => {
                return Err(TarError::Unsupported(
                    "a sparse file (write the archive without --sparse)".into(),
                ));
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Seconds with an optional sign and fraction, as PAX writes times.
fn parse_time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        // Half a second before second -1 is half a second after second -2.
        return Some(Time { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { seconds, nanos })
}

fn cut_at_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_testkit::layer::LayerBuilder;

    fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut archive = Archive::new(tar);
        let mut all = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let mut content = Vec::new();
            archive.read_to_end(&mut content)?;
            all.push((entry, content));
        }
        Ok(all)
    }

    fn fails(tar: &[u8]) -> String {
        match read(tar).unwrap_err() {
            TarError::Malformed(reason) | TarError::Unsupported(reason) => reason,
            TarError::Read(e) => e.to_string(),
        }
    }

    #[test]
    fn entries_keep_what_the_archive_says() {
        let long = "d/".repeat(120) + "file";
        let builder = LayerBuilder::new().owner(7, 8).dir("dir/", 0o750).file(&long, 0o4755, "content");
        let builder = builder
            .pax("mtime", b"1600000000.25")
            .pax("SCHILY.xattr.user.bin", b"a\nb\0=c\n")
            .pax("uid", b"3000000000")
            .file("attributes", 0o644, vec![7; 1000])
            .hard_link("hard", "attributes")
            .symlink("soft", &long)
            .device("dev", 0o600, 1, 300);
        let all = read(&builder.clone().tar()).unwrap();
        let kinds: Vec<EntryKind> = all.iter().map(|(e, _)| e.kind).collect();
        use EntryKind::{Char, Directory, File, HardLink, Symlink};
        assert_eq!(kinds, [Directory, File, File, HardLink, Symlink, Char(1, 300)]);
        assert_eq!((all[1].0.path.as_slice(), all[1].1.as_slice()), (long.as_bytes(), &b"content"[..]));
        let a = &all[2].0.attributes;
        assert_eq!(
            (a.uid, a.gid, a.mtime),
            (3_000_000_000, 8, Time { seconds: 1_600_000_000, nanos: 250_000_000 })
        );
        assert_eq!(a.xattrs, [(b"user.bin".to_vec(), b"a\nb\0=c\n".to_vec())]);
        assert_eq!((all[2].1.len(), all[3].0.link.as_slice()), (1000, &b"attributes"[..]));
        assert_eq!(all[4].0.link, long.as_bytes());
        assert!(all[4].0.attributes.xattrs.is_empty(), "attributes are those of one entry");
        assert_eq!(read(&builder.unfinished_tar()).unwrap().len(), 6, "closing blocks may be missing");
    }

    #[test]
    fn gnu_long_names_are_read() {
        let long = "n".repeat(300);
        let b = LayerBuilder::new();
        let header = b.header("././@LongLink", tar::EntryType::GNULongName, 0, "", 301);
        let tar = b.raw(header, format!("{long}\0").as_bytes()).file("short", 0o644, "x").tar();
        assert_eq!(read(&tar).unwrap()[0].0.path, long.as_bytes());
    }

    #[test]
    fn a_size_in_pax_rules_over_the_header() {
        let b = LayerBuilder::new().pax("size", b"600");
        let header = b.header("big", tar::EntryType::Regular, 0o644, "", 0);
        let all = read(&b.raw(header, &[1; 600]).file("next", 0o644, "x").tar()).unwrap();
        assert_eq!((all[0].1.len(), all[1].0.path.as_slice()), (600, &b"next"[..]));
    }

    #[test]
    fn hostile_archives_are_refused() {
        let b = LayerBuilder::new;
        let claim = |kind, size| {
            let header = b().header("x", kind, 0o644, "", size);
            b().raw(header, b"short").unfinished_tar()
        };
        assert!(fails(&claim(tar::EntryType::Regular, 100_000)).contains("ends within"));
        assert!(fails(&claim(tar::EntryType::XHeader, 1 << 40)).contains("extended header of"));
        assert!(fails(&claim(tar::EntryType::GNULongName, 1 << 40)).contains("extended header of"));
        assert!(fails(&claim(tar::EntryType::GNULongName, 5)).contains("without an entry"));
        assert!(fails(&claim(tar::EntryType::GNUSparse, 5)).contains("of type"));
        assert!(fails(&claim(tar::EntryType::new(b'Z'), 5)).contains("of type"));
        assert!(fails(&b().pax("GNU.sparse.major", b"1").file("f", 0, "").tar()).contains("sparse"));
        for (key, value) in [("size", &b"-1"[..]), ("uid", b"x"), ("mtime", b"1.x"), ("gid", b"99999999999")]
        {
            assert!(!fails(&b().pax(key, value).file("f", 0, "").tar()).is_empty());
        }
        for records in [&b"12 path=a"[..], b"x path=a\n", b"999 path=a\n", b"2 \n", b"9 pathaa\n", b"0 a=b\n"]
        {
            let header = b().header("x", tar::EntryType::XHeader, 0, "", records.len() as u64);
            assert!(fails(&b().raw(header, records).file("f", 0, "").tar()).contains("PAX record"));
        }
        let mut bad = b().file("f", 0o644, "x").tar();
        bad[0] ^= 1;
        assert!(fails(&bad).contains("checksum"));
        assert!(fails(&b().file("f", 0o644, "x").tar()[..300]).contains("within a header"));
        assert!(fails(b"not a tar archive".repeat(100).as_slice()).len() > 3);
        assert!(read(b"").unwrap().is_empty());
    }

    #[test]
    fn times_before_1970_are_times() {
        let cases = [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("", None),
            ("1.-5", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_time(text).map(|t| (t.seconds, t.nanos)), expected, "{text}");
        }
    }
}
