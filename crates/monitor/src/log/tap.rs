//! Copies of output for attached clients. A container and its log never wait for one of them.

use super::line::Stream;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Most pipes at a time, of all containers; more are closed at once.
const MAX_TAPS: usize = 256;

/// The pipes that output is copied to.
#[derive(Debug, Default)]
pub(crate) struct Taps(Vec<Tap>);

#[derive(Debug)]
struct Tap {
    id: String,
    stream: Stream,
    fd: OwnedFd,
}

impl Taps {
    /// Copies what `stream` of container `id` writes from now on to the pipe `fd`.
    pub(crate) fn add(&mut self, id: &str, stream: Stream, fd: OwnedFd) {
        if self.0.len() < MAX_TAPS && rustix::io::ioctl_fionbio(&fd, true).is_ok() {
            self.0.push(Tap { id: id.to_owned(), stream, fd });
        }
    }

    /// Copies `bytes` to whoever wants them. Who has no room for all of them is closed: a gap in the
    /// output could not be told from none.
    pub(crate) fn copy(&mut self, id: &str, stream: Stream, bytes: &[u8]) {
        self.0.retain(|tap| tap.stream != stream || tap.id != id || write(&tap.fd, bytes));
    }

    /// Closes the pipes of one stream, or of all, of container `id`.
    pub(crate) fn end(&mut self, id: &str, stream: Option<Stream>) {
        self.0.retain(|tap| tap.id != id || stream.is_some_and(|s| s != tap.stream));
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

fn write(fd: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // Full, or nobody reads any more.
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_slow_reader_is_closed_and_others_get_everything() {
        let (mut slow, slow_end) = std::io::pipe().unwrap();
        let (mut quick, quick_end) = std::io::pipe().unwrap();
        let mut taps = Taps::default();
        taps.add("c", Stream::Stdout, slow_end.into());
        taps.add("c", Stream::Stderr, quick_end.into());
        for _ in 0..20 {
            taps.copy("c", Stream::Stdout, &[7; 8192]);
            taps.copy("other", Stream::Stderr, b"not this");
        }
        taps.copy("c", Stream::Stderr, b"all");
        assert_eq!(taps.0.len(), 1);
        let mut got = Vec::new();
        slow.read_to_end(&mut got).unwrap();
        assert!(got.len() <= 65536, "{}", got.len());
        taps.end("c", Some(Stream::Stdout));
        assert_eq!(taps.0.len(), 1);
        taps.end("c", None);
        let mut text = String::new();
        quick.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all");
    }
}
