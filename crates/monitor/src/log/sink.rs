//! One log file: appended to, opened anew on request, and patient with a disk that is full.

use super::line::marker;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most bytes that wait for a disk that takes nothing; lines beyond are counted and dropped, so that
/// the container never waits for the disk.
const MAX_WAITING: usize = 64 << 10;

/// Shortest time between two reports of lost lines, and between two attempts to open a missing file.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// A log file.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    file: Option<File>,
    /// Whole lines that the file has not taken yet.
    waiting: Vec<u8>,
    /// Bytes of the first waiting line that the file has taken already.
    begun: usize,
    /// Lines lost since the last marker line, and since the last report.
    unmarked: u64,
    unreported: u64,
    last_report: Option<Instant>,
    last_open: Instant,
    why: String,
}

/// Lines that were lost since the last report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) lines: u64,
    pub(super) why: String,
}

impl Sink {
    /// Opens the file; where that fails, lines wait and are lost, and it is tried again.
    pub(super) fn new(path: PathBuf) -> Self {
        let mut sink = Self {
            path,
            file: None,
            waiting: Vec::new(),
            begun: 0,
            unmarked: 0,
            unreported: 0,
            last_report: None,
            last_open: Instant::now(),
            why: String::new(),
        };
        sink.open();
        sink
    }

    fn open(&mut self) {
        self.last_open = Instant::now();
        match open(&self.path) {
            Ok(file) => self.file = Some(file),
            Err(e) => self.why = format!("open {}: {e}", self.path.display()),
        }
    }

    /// Opens the path anew; the old file stays in use if that fails.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        let file = open(&self.path).map_err(|e| format!("open {}: {e}", self.path.display()))?;
        // What waits belongs to the old file if that takes it now, else to the new one: as whole lines.
        self.write_out();
        self.mend();
        self.file = Some(file);
        self.write_out();
        Ok(())
    }

    /// Appends `count` whole lines.
    pub(super) fn append(&mut self, lines: &[u8], count: u64) {
        // In the order in which they happened: the lines that wait, the gap, then these.
        self.flush();
        if !self.waiting.is_empty() && self.waiting.len() + lines.len() > MAX_WAITING {
            self.unmarked += count;
            self.unreported += count;
            return;
        }
        if self.unmarked > 0 {
            self.waiting.extend(marker(std::mem::take(&mut self.unmarked), &self.why));
        }
        if self.waiting.is_empty() {
            self.write_new(lines);
        } else {
            self.waiting.extend_from_slice(lines);
            self.write_out();
        }
    }

    /// Writes what waits, and after a loss a line that says so.
    pub(super) fn flush(&mut self) {
        if self.file.is_none() && self.last_open.elapsed() >= PACE {
            self.open();
        }
        self.write_out();
        if self.unmarked > 0 && self.waiting.is_empty() {
            self.waiting = marker(std::mem::take(&mut self.unmarked), &self.why);
            self.write_out();
        }
    }

    /// Whether the disk owes something, so that it has to be tried again.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.unmarked > 0 || self.unreported > 0
    }

    /// What was lost since the last report; not more often than each [`PACE`], unless it is the last word.
    pub(super) fn loss(&mut self, last_word: bool) -> Option<Loss> {
        let due = last_word || self.last_report.is_none_or(|at| at.elapsed() >= PACE);
        if self.unreported == 0 || !due {
            return None;
        }
        self.last_report = Some(Instant::now());
        Some(Loss { lines: std::mem::take(&mut self.unreported), why: self.why.clone() })
    }

    /// Gives up on what waits: takes a half-written line back, counts the rest as lost.
    pub(super) fn close(mut self) -> Option<Loss> {
        self.flush();
        self.mend();
        self.unreported += self.waiting.iter().filter(|b| **b == b'\n').count() as u64;
        self.loss(true)
    }

    /// Writes `lines` when nothing waits; what the file does not take waits then.
    fn write_new(&mut self, lines: &[u8]) {
        let (whole, begun) = self.write(lines, 0);
        self.waiting.extend_from_slice(&lines[whole..]);
        self.begun = begun;
    }

    fn write_out(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (whole, begun) = self.write(&waiting, self.begun);
        self.begun = begun;
        if whole < waiting.len() {
            self.waiting = waiting;
            self.waiting.drain(..whole);
        }
    }

    /// Writes `lines` from `from` on. Returns how many bytes of whole lines are written now, and how many
    /// of the line after them.
    fn write(&mut self, lines: &[u8], from: usize) -> (usize, usize) {
        let mut done = from;
        if let Some(file) = &mut self.file {
            while done < lines.len() {
                match file.write(&lines[done..]) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        self.why = reason(&e);
                        break;
                    }
                }
            }
        }
        let whole = lines[..done].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        (whole, done - whole)
    }

    /// Takes the half of a line back that the file ends with: it will be written elsewhere, or never.
    fn mend(&mut self) {
        let begun = std::mem::take(&mut self.begun) as u64;
        if begun == 0 {
            return;
        }
        if let Some(file) = &self.file
            && let Ok(meta) = file.metadata()
        {
            // A disk that does not even give room back leaves half a line, which readers skip.
            let _torn = file.set_len(meta.len().saturating_sub(begun));
        }
    }
}

/// The kernel's words, without the number that Rust appends.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
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
        std::fs::rename(&path, &old).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(sink.reopen().unwrap_err().contains("0.log"));
        sink.append(b"5\n", 1);
        assert_eq!(std::fs::read(&old).unwrap(), b"4\n5\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        // Every write to this device fails with ENOSPC.
        let path = dir.path().join("0.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut sink = Sink::new(path.clone());
        let mut line = vec![b'x'; 999];
        line.push(b'\n');
        for _ in 0..100 {
            sink.append(&line, 1);
        }
        assert!(sink.is_behind());
        let loss = Loss { lines: 35, why: "no space left on device".into() };
        assert_eq!(sink.loss(false), Some(loss));
        sink.append(&line, 1);
        assert_eq!(sink.loss(false), None, "not twice in a second");
        assert_eq!(sink.loss(true).unwrap().lines, 1);
        std::fs::remove_file(&path).unwrap();
        sink.reopen().unwrap();
        sink.flush();
        assert!(!sink.is_behind());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 66);
        assert!(text.ends_with(" stderr F [gantry: 36 lines dropped: no space left on device]\n"), "{text}");
    }

    #[test]
    fn a_line_is_never_torn_by_a_reopen() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (path, small) = (dir.path().join("0.log"), dir.path().join("small"));
        std::fs::create_dir(&small).unwrap();
        // Two pages: room for the first line and some of the second.
        let mounted = Tmpfs::mount(&small, "size=8k");
        symlink(small.join("0.log"), &path).unwrap();
        let line = |c: u8| [vec![c; 4999], vec![b'\n']].concat();
        let mut sink = Sink::new(path.clone());
        sink.append(&line(b'a'), 1);
        sink.append(&line(b'b'), 1);
        assert_eq!(sink.begun, 3192);
        std::fs::remove_file(&path).unwrap();
        sink.reopen().unwrap();
        assert_eq!(std::fs::read(small.join("0.log")).unwrap(), line(b'a'));
        assert_eq!(std::fs::read(&path).unwrap(), line(b'b'));
        assert!(!sink.is_behind());
        drop(mounted);
    }

    /// A mount for one test.
    struct Tmpfs(PathBuf);

    impl Tmpfs {
        fn mount(at: &Path, options: &str) -> Self {
            gantry_sys::mount::tmpfs(at, options, rustix::mount::MountFlags::empty()).unwrap();
            Self(at.to_owned())
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            gantry_sys::mount::detach(&self.0).unwrap();
        }
    }

    #[test]
    fn a_path_that_is_not_there_yet_loses_nothing_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/0.log");
        let mut sink = Sink::new(path.clone());
        sink.append(b"1\n", 1);
        std::fs::create_dir(dir.path().join("later")).unwrap();
        sink.reopen().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"1\n");
        let unopened = Sink::new(dir.path().join("never/0.log"));
        let mut unopened = unopened;
        unopened.append(b"1\n2\n", 2);
        assert_eq!(unopened.close().unwrap().lines, 2);
    }
}
