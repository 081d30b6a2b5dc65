//! What a daemon's metrics say at one instant, read as Prometheus does.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The answer to one scrape.
#[derive(Debug, Clone)]
pub struct Scrape {
    text: String,
}

impl Scrape {
    /// Scrapes the socket at `path`. Panics unless the answer is a page of metrics.
    #[track_caller]
    pub fn unix(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap_or_else(|e| panic!("connect {}: {e}", path.display()));
        socket.set_read_timeout(Some(crate::LIMIT)).expect("limit the time of a scrape");
        Self::read(socket)
    }

    /// Scrapes `127.0.0.1:port`. Panics unless the answer is a page of metrics.
    #[track_caller]
    pub fn tcp(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("connect to the metrics");
        socket.set_read_timeout(Some(crate::LIMIT)).expect("limit the time of a scrape");
        Self::read(socket)
    }

    #[track_caller]
    fn read(mut socket: impl std::io::Read + Write) -> Self {
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("ask for metrics");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("read metrics");
        let (head, text) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text}"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        Self { text: text.to_owned() }
    }

    /// Sum of all samples of `metric` that have each of these labels; 0 when there are none.
    #[track_caller]
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.text.lines().filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            let (shown, value) = rest.rsplit_once(' ')?;
            if !(shown.is_empty() || shown.starts_with('{')) {
                return None;
            }
            let has = |(name, value): &(&str, &str)| shown.contains(&format!("{name}=\"{value}\""));
            labels.iter().all(has).then(|| value.parse::<f64>().expect("the value of a sample"))
        });
        samples.sum()
    }

    /// The whole page.
    pub fn text(&self) -> &str {
        &self.text
    }
}
