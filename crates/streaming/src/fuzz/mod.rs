//! A small fuzz driver: well-formed conversations, damaged in every way that a table has, against the parsers and
//! the state machines behind them.
//!
//! Each test runs a fixed number of inputs; with `GANTRY_FUZZ_SECONDS=600` it goes on for so long, and
//! `GANTRY_FUZZ_SEED` begins elsewhere. Time in the connections is simulated: a connection that does not end
//! is found at once, not after hours. An input that fails is printed with its seed. docs/streaming.md has the runs.

mod mutate;
mod targets;

use mutate::Random;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// Inputs of an ordinary test run.
const INPUTS: u64 = 2000;

/// Panics of this process so far: a task's own end nobody would hear of otherwise.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Prints the input at which a test ends abnormally.
struct Shown<'a> {
    what: &'static str,
    seed: u64,
    input: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{}: seed {} fails with the input {hex}", self.what, self.seed);
        }
    }
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(info);
        }));
    });
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// Runs `execute` with damaged versions of `corpus`.
fn fuzz(what: &'static str, corpus: &[Vec<u8>], mut execute: impl FnMut(&[u8], &mut Random)) {
    count_panics();
    let first = number("GANTRY_FUZZ_SEED").unwrap_or(1);
    let limit = number("GANTRY_FUZZ_SECONDS").map(Duration::from_secs);
    let begun = Instant::now();
    let (mut seed, mut bytes) = (first, 0_u64);
    while limit.map_or(seed < first + INPUTS, |limit| begun.elapsed() < limit) {
        let mut random = Random::new(seed);
        let input = mutate::input(corpus, &mut random);
        let shown = Shown { what, seed, input: &input };
        let panics = PANICS.load(Ordering::SeqCst);
        execute(&input, &mut random);
        assert_eq!(PANICS.load(Ordering::SeqCst), panics, "a task ended by a panic");
        drop(shown);
        bytes += input.len() as u64;
        seed += 1;
    }
    eprintln!("{what}: {} inputs, {} MB, {} s", seed - first, bytes / 1_000_000, begun.elapsed().as_secs());
}

/// A runtime whose clock goes forward as soon as nothing else can.
fn runtime() -> tokio::runtime::Runtime {
    let made = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    made.unwrap_or_else(|e| panic!("no runtime: {e}"))
}

/// Longer than every limit of a connection: what takes longer hangs.
const HANGS: Duration = Duration::from_secs(100 * 60 * 60);

/// Sends `input` in pieces and then nothing more, and reads until the other side closes; what came.
async fn converse(mut io: tokio::io::DuplexStream, input: Arc<[u8]>, random: &mut Random) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut cuts = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let size = random.below(input.len() + 1).max(1);
        cuts.push(at..(at + size).min(input.len()));
        at += size;
    }
    let (mut read, mut write) = tokio::io::split(&mut io);
    let writing = async {
        for cut in cuts {
            if write.write_all(&input[cut]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        // The other side may have closed already.
        let _gone = write.shutdown().await;
    };
    let mut answer = Vec::new();
    let reading = async {
        let _broken = read.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(writing, reading) };
    assert!(tokio::time::timeout(HANGS, both).await.is_ok(), "the connection does not end");
    answer
}
