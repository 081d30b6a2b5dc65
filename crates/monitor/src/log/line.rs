//! The CRI log line: `<RFC 3339 time with nanoseconds> <stream> <F|P> <bytes>\n`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Longest piece of one line; what is longer is split, all but the last piece marked `P`.
pub(super) const MAX_PIECE: usize = 16 << 10;

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Turns what was read from one stream into log lines.
#[derive(Debug)]
pub(super) struct Splitter {
    stream: Stream,
    /// The beginning of a line whose end has not come yet; shorter than [`MAX_PIECE`].
    rest: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Appends the log lines that `bytes` complete to `out`; returns their number.
    pub(super) fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> u64 {
        let mut count = 0;
        let time = timestamp();
        let mut left = bytes;
        while !left.is_empty() {
            let room = MAX_PIECE - self.rest.len();
            let window = &left[..left.len().min(room)];
            match window.iter().position(|b| *b == b'\n') {
                Some(at) => {
                    self.rest.extend_from_slice(&window[..at]);
                    self.emit(&time, b'F', out);
                    left = &left[at + 1..];
                    count += 1;
                }
                None => {
                    self.rest.extend_from_slice(window);
                    left = &left[window.len()..];
                    if self.rest.len() == MAX_PIECE {
                        // The newline, if it is here already, makes the full piece a whole line.
                        let whole = left.first() == Some(&b'\n');
                        self.emit(&time, if whole { b'F' } else { b'P' }, out);
                        left = &left[usize::from(whole)..];
                        count += 1;
                    }
                }
            }
        }
        count
    }

    /// The stream has ended: an unterminated rest is a piece (`P`). Readers of this format print a piece
    /// without a newline, so `kubectl logs` shows exactly the bytes that were written; `F` would add one.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> u64 {
        if self.rest.is_empty() {
            return 0;
        }
        self.emit(&timestamp(), b'P', out);
        1
    }

    fn emit(&mut self, time: &str, tag: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.append(&mut self.rest);
        out.push(b'\n');
    }
}

/// A line of the monitor's own about lines that were lost.
pub(super) fn marker(lost: u64, why: &str) -> Vec<u8> {
    format!("{} stderr F [gantry: {lost} lines dropped: {why}]\n", timestamp()).into_bytes()
}

/// The time as the log has it: UTC with nanoseconds.
fn timestamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs(), since.subsec_nanos())
}

fn rfc3339(seconds: u64, nanoseconds: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// Year, month and day of a day number since 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in eras of 400 years that begin on a 1 March, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]], end: bool) -> Vec<String> {
        let (mut splitter, mut out) = (Splitter::new(Stream::Stdout), Vec::new());
        let mut count = 0;
        for chunk in chunks {
            count += splitter.take(chunk, &mut out);
        }
        if end {
            count += splitter.end(&mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<String> = text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect();
        assert_eq!(count, lines.len() as u64);
        lines
    }

    #[test]
    fn lines_are_whole_and_rests_are_pieces() {
        assert_eq!(lines(&[b"a\nb", b"c\n\n"], true), ["stdout F a", "stdout F bc", "stdout F "]);
        assert_eq!(lines(&[b"no newline"], true), ["stdout P no newline"]);
        assert_eq!(lines(&[b"not yet"], false), [""; 0]);
    }

    #[test]
    fn long_lines_are_split_and_come_back() {
        for length in [MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 3 * MAX_PIECE + 7] {
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            for chunk in [1000, MAX_PIECE, 100_000] {
                let chunks: Vec<&[u8]> = line.chunks(chunk).collect();
                let pieces = lines(&chunks, true);
                let joined: String = pieces.iter().map(|p| &p["stdout F ".len()..]).collect();
                assert_eq!(joined.len(), length);
                let (last, rest) = pieces.split_last().unwrap();
                assert!(last.starts_with("stdout F"), "{length} by {chunk}");
                assert!(rest.iter().all(|p| p.starts_with("stdout P") && p.len() == 9 + MAX_PIECE));
            }
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000007Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            assert_eq!(rfc3339(seconds, 7), text);
        }
    }
}
