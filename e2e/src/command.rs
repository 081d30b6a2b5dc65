//! Programs that are run to their end, with all that they said.

use crate::watch::{LIMIT, wait_readable};
use std::io::Read as _;
use std::process::{Command, Stdio};

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output, trimmed. Panics with everything that was said unless the program succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        self.stdout.trim_end().to_owned()
    }

    /// Standard error. Panics when the program succeeded.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, Some(0), "{} succeeded and should not\n{}", self.command, self.stdout);
        self.stderr
    }
}

/// Runs a command without input to its end; panics when it cannot be run or takes longer than [`LIMIT`].
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|e| panic!("run {shown}: {e}"));
    let mut stdout = child.stdout.take().expect("stdout is a pipe");
    let mut stderr = child.stderr.take().expect("stderr is a pipe");
    // Both are read while it runs, so that neither pipe can fill up.
    let said = std::thread::spawn(move || {
        let mut text = Vec::new();
        let result = stderr.read_to_end(&mut text);
        result.map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let output = std::thread::spawn(move || {
        let mut text = Vec::new();
        let result = stdout.read_to_end(&mut text);
        result.map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let pidfd = crate::process::pidfd(child.id());
    let in_time = pidfd.is_none_or(|fd| wait_readable(&[&fd], LIMIT));
    if !in_time {
        child.kill().expect("kill a command that hangs");
    }
    let status = child.wait().expect("wait for a child");
    assert!(in_time, "{shown} did not end within {} s", LIMIT.as_secs());
    let text = |t: std::thread::JoinHandle<std::io::Result<String>>| {
        t.join().expect("reader").expect("read the output of a command")
    };
    Output { command: shown, code: status.code(), stdout: text(output), stderr: text(said) }
}
