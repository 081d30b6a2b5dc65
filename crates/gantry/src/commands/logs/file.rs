//! A log file in the CRI's format: `<time> <stream> <P|F> <content>` a line.

use crate::output;
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

/// Longest piece in bytes that is taken for a line; Gantry's own lines are much shorter.
const MAX_LINE: usize = 1 << 20;

/// Bytes that are looked at together on the way back from the end.
const BLOCK: usize = 64 << 10;

/// Bytes in which time, stream and tag of a line stand.
const HEAD: usize = 64;

/// Whole lines of a log file, from where the reading is.
pub(super) struct LogFile {
    lines: BufReader<File>,
    inode: u64,
    rest: Vec<u8>,
}

impl LogFile {
    /// At its beginning.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("log {}", path.display()))?;
        let inode = file.metadata()?.ino();
        Ok(Self { lines: BufReader::new(file), inode, rest: Vec::new() })
    }

    /// Goes to where the last `count` lines begin.
    pub(super) fn skip_to_tail(&mut self, count: usize) -> Result<()> {
        let offset = tail(self.lines.get_ref(), count).context("look for the end of the log")?;
        self.lines.seek(SeekFrom::Start(offset))?;
        Ok(())
    }

    /// Prints what is there.
    pub(super) fn forward(&mut self, timestamps: bool) -> Result<()> {
        let mut printer = Printer::default();
        while let Some(line) = self.next()? {
            printer.add(&line, timestamps)?;
        }
        printer.flush()
    }

    /// Whether another file has the name now.
    pub(super) fn was_replaced(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.ino() != self.inode)
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let room = MAX_LINE.saturating_sub(self.rest.len());
        (&mut self.lines).take(room as u64).read_until(b'\n', &mut self.rest)?;
        let complete = self.rest.ends_with(b"\n") || self.rest.len() >= MAX_LINE;
        Ok(complete.then(|| std::mem::take(&mut self.rest)))
    }
}

/// Where the last `count` lines begin. A line in parts counts once; memory does not depend on the count.
fn tail(file: &File, count: usize) -> std::io::Result<u64> {
    let mut before = file.metadata()?.len();
    if count == 0 {
        return Ok(before);
    }
    let mut block = vec![0; BLOCK];
    let (mut seen, mut after, mut in_line) = (0, before, false);
    while before > 0 {
        let length = usize::try_from(before).unwrap_or(BLOCK).min(BLOCK);
        before -= length as u64;
        file.read_exact_at(&mut block[..length], before)?;
        for at in (0..length).rev().filter(|at| block[*at] == b'\n') {
            let start = before + at as u64 + 1;
            // The first newline on the way back is the end of the last line.
            if in_line {
                if seen == 0 || is_whole(file, start)? {
                    seen += 1;
                }
                if seen > count {
                    return Ok(after);
                }
            }
            (in_line, after) = (true, start);
        }
    }
    // The file's first line begins at no newline.
    let first_counts = in_line && (seen == 0 || is_whole(file, 0)?);
    Ok(if first_counts && seen == count { after } else { 0 })
}

/// Whether the line that starts here is not a part that another one follows.
fn is_whole(file: &File, start: u64) -> std::io::Result<bool> {
    let mut head = [0; HEAD];
    let read = file.read_at(&mut head, start)?;
    let tag = head[..read].splitn(4, |b| *b == b' ').nth(2);
    Ok(tag != Some(b"P"))
}

/// Text for one of the two streams, gathered so that a long log does not cost a call for each line.
#[derive(Debug, Default)]
struct Printer {
    text: Vec<u8>,
    to_stderr: bool,
}

impl Printer {
    /// Adds a line for the stream that it came from.
    fn add(&mut self, line: &[u8], timestamps: bool) -> Result<()> {
        let (time, stream, whole, content) = parse(line).unwrap_or((b"", b"stdout", false, line));
        let to_stderr = stream == b"stderr";
        if to_stderr != self.to_stderr || self.text.len() >= BLOCK {
            self.flush()?;
            self.to_stderr = to_stderr;
        }
        if timestamps && !time.is_empty() {
            self.text.extend_from_slice(time);
            self.text.push(b' ');
        }
        self.text.extend_from_slice(content);
        if whole {
            self.text.push(b'\n');
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        match (text.is_empty(), self.to_stderr) {
            (true, _) => Ok(()),
            (false, true) => std::io::stderr().write_all(&text).context("write to standard error"),
            (false, false) => output::write(&text),
        }
    }
}

/// Time, stream, whether the line is whole, and its content.
type Line<'a> = (&'a [u8], &'a [u8], bool, &'a [u8]);

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.strip_suffix(b"\n")?.splitn(4, |b| *b == b' ');
    let (time, stream, tag, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((time, stream, tag == b"F", content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_cri_format() {
        let line = b"2026-01-01T00:00:00.000000001Z stderr P a b \n";
        let (time, stream, whole, content) = parse(line).unwrap();
        assert_eq!(time.len(), 30);
        assert_eq!((stream, whole, content), (&b"stderr"[..], false, &b"a b "[..]));
        assert_eq!(parse(b"t stdout F \n").unwrap().3, b"");
        assert!(parse(b"no log line\n").is_none() && parse(b"t stdout F half").is_none());
    }

    /// What is left after going to the last `count` lines.
    fn last(text: &str, count: usize) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, text).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.skip_to_tail(count).unwrap();
        let mut rest = String::new();
        while let Some(line) = log.next().unwrap() {
            rest.push_str(std::str::from_utf8(&line).unwrap());
        }
        rest
    }

    #[test]
    fn the_tail_is_made_of_whole_lines() {
        let (a, b, c) = ("t stdout F a\n", "t stdout F b\n", "t stdout F c\n");
        let all = [a, b, c].concat();
        assert_eq!(last(&all, 0), "");
        assert_eq!(last(&all, 1), c);
        assert_eq!(last(&all, 2), [b, c].concat());
        assert_eq!(last(&all, 3), all);
        assert_eq!(last(&all, usize::MAX), all);
        assert_eq!(last("", 2), "");
        assert_eq!(last(a, 1), a);
        assert_eq!(last("t stdout F unfinished", 1), "");
        assert_eq!(last(&[a, b, "t stdout F unfinis"].concat(), 1), b);
        let parts = ["t stdout P x\n", "t stdout P y\n", "t stdout F z\n"].concat();
        assert_eq!(last(&[a, &parts].concat(), 1), parts);
        assert_eq!(last(&[a, &parts, b].concat(), 2), [&parts, b].concat());
        assert_eq!(last(&[a, "t stdout P open\n"].concat(), 1), "t stdout P open\n");
        assert_eq!(last(&parts, 1), parts);
    }

    #[test]
    fn the_tail_of_a_long_file_crosses_blocks() {
        let line = |n: usize| format!("t stdout F {n:05} {}\n", "x".repeat(n % 97));
        let text: String = (0..20_000).map(line).collect();
        assert!(text.len() > 4 * BLOCK);
        for count in [1, 2, 500, 5_000, 19_999] {
            let wanted: String = (20_000 - count..20_000).map(line).collect();
            assert!(last(&text, count) == wanted, "{count}");
        }
        // Lines that end where blocks end.
        let even = format!("t stdout F {}\n", "y".repeat(BLOCK - 12));
        assert_eq!(even.len(), BLOCK);
        assert!(last(&even.repeat(4), 2) == even.repeat(2));
    }

    #[test]
    fn a_line_without_an_end_is_given_out_in_pieces() {
        let text = "z".repeat(2 * MAX_LINE + 5);
        assert_eq!(last(&text, 1).len(), 2 * MAX_LINE);
    }
}
