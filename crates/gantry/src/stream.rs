//! The client side of exec, attach and port-forward: channels over a WebSocket (`v5.channel.k8s.io`) to a URL
//! that the daemon gave.

mod dial;
mod pumps;
mod terminal;

pub(crate) use dial::{CloseChannel, Incoming, Socket, Trust, connect, receive, send_all};
pub(crate) use pumps::{Pump, read_stdin, write_to};
pub(crate) use terminal::Terminal;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use std::os::fd::AsFd as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Channel of standard input.
pub(crate) const STDIN: u8 = 0;
/// Channel of standard output, or the terminal's.
pub(crate) const STDOUT: u8 = 1;
/// Channel of standard error.
pub(crate) const STDERR: u8 = 2;
/// Channel on which the end is told.
pub(crate) const ERROR: u8 = 3;
/// Channel of the terminal's sizes.
const RESIZE: u8 = 4;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The command's exit status.
    Code(i32),
    /// The user typed the keys for it.
    Detached,
    /// This signal asked the client to end.
    Signal(i32),
}

/// Standard streams joined to a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined {
    /// Standard input is sent.
    pub(crate) stdin: bool,
    /// The session has a terminal; ours, if standard input is one, is raw meanwhile.
    pub(crate) tty: bool,
}

/// Joins this program's standard streams to the session until it ends, the user detaches, or a signal comes.
pub(crate) async fn join(socket: Socket, joined: Joined) -> Result<End> {
    // Before the terminal is raw: from then on a signal must not end the program where it stands.
    let signals = Signals::watch()?;
    let terminal = match joined.tty {
        true => Terminal::raw()?,
        false => None,
    };
    let (sink, stream) = socket;
    let (send, queue) = mpsc::channel(2);
    let sending = tokio::spawn(dial::send_all(sink, queue));
    let stdout = write_to(std::io::stdout().as_fd())?;
    let stderr = write_to(std::io::stderr().as_fd())?;

    let input = send.clone();
    let typed = async {
        if joined.stdin {
            // Keys are looked at only where a person types them.
            send_input(input, terminal.is_some()).await
        } else {
            std::future::pending().await
        }
    };
    let sizes = async {
        match &terminal {
            Some(terminal) => follow_size(terminal, &send).await,
            None => std::future::pending().await,
        }
    };
    let output = print(stream, &stdout, &stderr);
    let end = tokio::select! {
        end = output => end,
        end = typed => end,
        end = sizes => end,
        signal = signals.next() => Ok(End::Signal(signal)),
    };
    // The terminal first: what follows may wait for who reads our output.
    drop(terminal);
    sending.abort();
    if !matches!(end, Ok(End::Signal(_))) {
        stdout.finish().await?;
        stderr.finish().await?;
    }
    end
}

/// Most bytes of standard error that [`pipe`] keeps: the last ones.
const MAX_SAID: usize = 4 << 10;

/// Joins a session without a terminal to `input` and `output`; its end, and the last that it said on standard error.
/// Ends early if nobody takes the output any more.
pub(crate) async fn pipe(
    socket: Socket,
    input: Option<mpsc::Receiver<Bytes>>,
    output: Option<mpsc::Sender<Bytes>>,
) -> Result<(End, String)> {
    let (sink, mut stream) = socket;
    let (send, queue) = mpsc::channel(2);
    let upload = async move {
        if let Some(mut input) = input {
            while let Some(bytes) = input.recv().await {
                if send.send(message(STDIN, &bytes)).await.is_err() {
                    break;
                }
            }
            // The end of the connection is seen, and told, by who reads it.
            let _gone = send.send(CloseChannel(STDIN).into()).await;
        }
        // The connection stays until the other side ends it.
        send.closed().await;
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(upload);
    tasks.spawn(dial::send_all(sink, queue));
    let (mut status, mut said) = (Vec::new(), Vec::new());
    loop {
        let Incoming { channel, bytes } = match receive(&mut stream).await {
            Ok(Some(incoming)) => incoming,
            Ok(None) => break,
            Err(_) if !status.is_empty() => break,
            Err(error) => return Err(error),
        };
        match channel {
            STDOUT => {
                if let Some(output) = &output
                    && output.send(bytes).await.is_err()
                {
                    bail!("the output of the command is not taken any more");
                }
            }
            STDERR => {
                said.extend_from_slice(&bytes);
                said.drain(..said.len().saturating_sub(MAX_SAID));
            }
            ERROR if status.len() < MAX_STATUS => status.extend_from_slice(&bytes),
            _ => {}
        }
    }
    Ok((ending(&status)?, String::from_utf8_lossy(&said).trim().replace('\n', "; ")))
}

/// Sends standard input; with `keys`, Ctrl-P Ctrl-Q ends it. Otherwise never comes back: the session's end is
/// told by the other side.
async fn send_input(send: mpsc::Sender<Bytes>, keys: bool) -> Result<End> {
    let mut input = read_stdin()?;
    let mut detach = DetachKeys::default();
    while let Some(bytes) = input.recv().await {
        let bytes = bytes.context("read standard input")?;
        let (bytes, detached) = match keys {
            true => detach.pass(&bytes),
            false => (bytes.into(), false),
        };
        if !bytes.is_empty() && send.send(message(STDIN, &bytes)).await.is_err() {
            break;
        }
        if detached {
            return Ok(End::Detached);
        }
    }
    // The end of the connection is seen, and told, by who reads it.
    let _gone = send.send(CloseChannel(STDIN).into()).await;
    std::future::pending().await
}

/// A message on `channel`.
pub(crate) fn message(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    message.into()
}

/// Sends the terminal's size, at once and whenever it changes.
async fn follow_size(terminal: &Terminal, send: &mpsc::Sender<Bytes>) -> Result<End> {
    let mut changed = signal(SignalKind::window_change()).context("watch the terminal's size")?;
    loop {
        if let Some((columns, rows)) = terminal.size() {
            let size = json!({"Width": columns, "Height": rows}).to_string();
            if send.send(message(RESIZE, size.as_bytes())).await.is_err() {
                break;
            }
        }
        if changed.recv().await.is_none() {
            break;
        }
    }
    std::future::pending().await
}

/// Signals that would end the program with the terminal left raw.
struct Signals([Signal; 4]);

impl Signals {
    fn watch() -> Result<Self> {
        let watch = |kind| signal(kind).context("watch for signals");
        Ok(Self([
            watch(SignalKind::hangup())?,
            watch(SignalKind::interrupt())?,
            watch(SignalKind::quit())?,
            watch(SignalKind::terminate())?,
        ]))
    }

    /// The number of the next one.
    async fn next(mut self) -> i32 {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        let kind = tokio::select! {
            _ = hangup.recv() => SignalKind::hangup(),
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = quit.recv() => SignalKind::quit(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
        kind.as_raw_value()
    }
}

/// Passes output on until the other side has told the end.
async fn print(mut stream: dial::Stream, stdout: &Pump, stderr: &Pump) -> Result<End> {
    let mut status = Vec::new();
    loop {
        let Incoming { channel, bytes } = match receive(&mut stream).await {
            Ok(Some(incoming)) => incoming,
            // A connection that breaks after it has said all is as good as one that is closed.
            Ok(None) => break,
            Err(_) if !status.is_empty() => break,
            Err(error) => return Err(error),
        };
        match channel {
            STDOUT => stdout.write(bytes).await?,
            STDERR => stderr.write(bytes).await?,
            // One message that the server keeps below 1 MiB; anything beyond is not looked at.
            ERROR if status.len() < MAX_STATUS => status.extend_from_slice(&bytes),
            _ => {}
        }
    }
    ending(&status)
}

/// Most bytes of the status that are kept.
const MAX_STATUS: usize = 64 << 10;

/// What the error channel says.
fn ending(text: &[u8]) -> Result<End> {
    if text.is_empty() {
        bail!("the connection ended before the end was told; was the daemon stopped?");
    }
    let status: Value = serde_json::from_slice(text).context("the end is told in an unknown way")?;
    if status["status"] == "Success" {
        return Ok(End::Code(0));
    }
    if status["reason"] == "NonZeroExitCode" {
        let causes = status["details"]["causes"].as_array();
        let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
        if let Some(code) = code.and_then(|c| c["message"].as_str()?.parse().ok()) {
            return Ok(End::Code(code));
        }
    }
    let causes = status["details"]["causes"].as_array();
    let cause = causes.and_then(|c| c.first()?["message"].as_str());
    bail!("{}", cause.or(status["message"].as_str()).unwrap_or("it failed without a reason"))
}

/// Looks for Ctrl-P Ctrl-Q in what is typed. A Ctrl-P that is followed by something else is passed on with it.
#[derive(Debug, Default)]
struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    const CTRL_P: u8 = 0x10;
    const CTRL_Q: u8 = 0x11;

    /// What is to be sent of `bytes`, and whether the keys were typed; nothing is to be sent after them.
    fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if std::mem::take(&mut self.held) {
                if *byte == Self::CTRL_Q {
                    return (out, true);
                }
                out.push(Self::CTRL_P);
            }
            match *byte {
                Self::CTRL_P => self.held = true,
                other => out.push(other),
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_in_pieces_and_lone_ones_pass() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.pass(b"\x11"), (b"\x11".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11never sent"), (Vec::new(), true));
        assert_eq!(DetachKeys::default().pass(b"x\x10\x11y"), (b"x".to_vec(), true));
    }

    #[test]
    fn the_end_is_read_from_the_status() {
        assert_eq!(ending(br#"{"metadata":{},"status":"Success"}"#).unwrap(), End::Code(0));
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(ending(failed).unwrap(), End::Code(7));
        let internal = br#"{"status":"Failure","reason":"InternalError","message":"Internal error occurred: x","details":{"causes":[{"message":"x"}]}}"#;
        assert_eq!(ending(internal).unwrap_err().to_string(), "x");
        assert!(ending(b"").unwrap_err().to_string().contains("daemon"));
        ending(b"nonsense").unwrap_err();
    }
}
