//! Copies of output for attached clients. A container and its log never wait for one of them.

use super::line::Stream;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Most pipes at a time, of all containers; more are closed at once.
const MAX_TAPS: usize = 256;

/// The pipes that output is copied to.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    pipes: Vec<Tap>,
    clients: u64,
}

#[derive(Debug)]
struct Tap {
    id: String,
    /// Who attached; its pipes end together.
    client: u64,
    stream: Stream,
    fd: OwnedFd,
}

impl Taps {
    /// Copies what streams of container `id` write from now on to a client's pipes.
    pub(crate) fn add(&mut self, id: &str, pipes: impl IntoIterator<Item = (OwnedFd, Stream)>) {
        self.clients += 1;
        for (fd, stream) in pipes {
            if self.pipes.len() < MAX_TAPS && rustix::io::ioctl_fionbio(&fd, true).is_ok() {
                self.pipes.push(Tap { id: id.to_owned(), client: self.clients, stream, fd });
            }
        }
    }

    /// Copies `bytes` to whoever wants them. Who has no room for all of them is closed, with its other
    /// stream: a gap in the output could not be told from none.
    pub(crate) fn copy(&mut self, id: &str, stream: Stream, bytes: &[u8]) {
        let mut slow = Vec::new();
        for tap in self.pipes.iter().filter(|tap| tap.stream == stream && tap.id == id) {
            if !write(&tap.fd, bytes) {
                slow.push(tap.client);
            }
        }
        if !slow.is_empty() {
            self.pipes.retain(|tap| !slow.contains(&tap.client));
        }
    }

    /// Closes the pipes of one stream, or of all, of container `id`.
    pub(crate) fn end(&mut self, id: &str, stream: Option<Stream>) {
        self.pipes.retain(|tap| tap.id != id || stream.is_some_and(|s| s != tap.stream));
        if self.pipes.is_empty() {
            self.pipes = Vec::new();
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
    fn a_slow_reader_is_closed_with_both_its_streams_and_others_get_everything() {
        let pipe = || std::io::pipe().unwrap();
        let ((mut slow, slow_end), (mut slow_too, slow_too_end), (mut quick, quick_end)) =
            (pipe(), pipe(), pipe());
        let mut taps = Taps::default();
        taps.add("c", [(slow_end.into(), Stream::Stdout), (slow_too_end.into(), Stream::Stderr)]);
        taps.add("c", [(quick_end.into(), Stream::Stderr)]);
        for _ in 0..20 {
            taps.copy("c", Stream::Stdout, &[7; 8192]);
            taps.copy("other", Stream::Stderr, b"not this");
        }
        taps.copy("c", Stream::Stderr, b"all");
        assert_eq!(taps.pipes.len(), 1);
        let mut got = Vec::new();
        slow.read_to_end(&mut got).unwrap();
        assert!(got.len() <= 65536, "{}", got.len());
        got.clear();
        slow_too.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"", "it was told at once");
        taps.end("c", Some(Stream::Stdout));
        assert_eq!(taps.pipes.len(), 1);
        taps.end("c", None);
        let mut text = String::new();
        quick.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all");
    }
}
