//! One log file: appended to, opened anew on request, and patient with a full disk.

use super::line::marker;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Most bytes that wait for a disk that takes nothing; lines beyond are counted and dropped, so that
/// the container never waits for the disk.
const MAX_WAITING: usize = 64 << 10;

/// A log file.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    file: Option<File>,
    /// Bytes that the file has not taken yet; begins anywhere in a line, ends at the end of one.
    waiting: Vec<u8>,
    lost: u64,
    why: String,
}

/// Lines that were lost since the last report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) lines: u64,
    pub(super) why: String,
}

impl Sink {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut sink = Self { path, file: None, waiting: Vec::new(), lost: 0, why: String::new() };
        match open(&sink.path) {
            Ok(file) => sink.file = Some(file),
            Err(e) => sink.why = e.to_string(),
        }
        sink
    }

    /// Opens the path anew; the old file stays in use if that fails.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        let file = open(&self.path).map_err(|e| format!("open {}: {e}", self.path.display()))?;
        // What waits belongs to the old file if that takes it now, else to the new one.
        self.write_out();
        self.file = Some(file);
        Ok(())
    }

    /// Appends `count` lines. Returns what was lost, once the file takes lines again.
    pub(super) fn append(&mut self, lines: &[u8], count: u64) -> Option<Loss> {
        if self.waiting.len() + lines.len() > MAX_WAITING {
            self.write_out();
        }
        if self.waiting.len() + lines.len() > MAX_WAITING && !self.waiting.is_empty() {
            self.lost += count;
            return None;
        }
        self.waiting.extend_from_slice(lines);
        self.flush()
    }

    /// Writes what waits, and after a loss a line that says so.
    pub(super) fn flush(&mut self) -> Option<Loss> {
        self.write_out();
        if self.lost == 0 || !self.waiting.is_empty() {
            return None;
        }
        let loss = Loss { lines: std::mem::take(&mut self.lost), why: self.why.clone() };
        self.waiting = marker(loss.lines, &loss.why);
        self.write_out();
        Some(loss)
    }

    fn write_out(&mut self) {
        let Some(file) = &mut self.file else { return };
        let mut done = 0;
        while done < self.waiting.len() {
            match file.write(&self.waiting[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.why = e.to_string();
                    break;
                }
            }
        }
        self.waiting.drain(..done);
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_appends_and_a_failure_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut sink = Sink::new(path.clone());
        sink.append(b"1\n", 1);
        sink.reopen().unwrap();
        sink.append(b"2\n", 1);
        assert_eq!(std::fs::read(&path).unwrap(), b"1\n2\n", "without a rename nothing is lost");
        let old = dir.path().join("0.log.old");
        std::fs::rename(&path, &old).unwrap();
        sink.append(b"3\n", 1);
        sink.reopen().unwrap();
        sink.append(b"4\n", 1);
        assert_eq!(std::fs::read(&old).unwrap(), b"1\n2\n3\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"4\n");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(sink.reopen().unwrap_err().contains("0.log"));
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        // Every write to this device fails with ENOSPC.
        let path = dir.path().join("0.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut sink = Sink::new(path.clone());
        let line = vec![b'x'; 1000];
        for _ in 0..100 {
            assert_eq!(sink.append(&line, 1), None);
        }
        assert_eq!(sink.lost, 35);
        std::fs::remove_file(&path).unwrap();
        sink.reopen().unwrap();
        let loss = sink.flush().unwrap();
        assert_eq!(loss.lines, 35);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("lines dropped: No space left on device (os error 28)]\n"),
            "{}",
            &text[65_000..]
        );
    }
}
