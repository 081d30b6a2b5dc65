//! Short runs of an OCI runtime by the daemon itself: signals, deletion.

use crate::error::Kind;
use crate::{Error, Result};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// How long a runtime may take that only passes something on to a sandbox.
const LIMIT: Duration = Duration::from_secs(10);

/// Most bytes of a runtime's own words that are kept; more is read and dropped.
const WORDS: usize = 2048;

/// The whole environment, as for the runtimes that a monitor starts.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a runtime would find `name` in its search path.
pub(crate) fn has_program(name: &str) -> bool {
    PATH.split(':').any(|dir| std::path::Path::new(dir).join(name).is_file())
}

/// Runs `command… args…` and waits for its success.
///
/// # Errors
///
/// [`Kind::Internal`] with the runtime's own words; [`Kind::DeadlineExceeded`] when it did not finish in
/// time and was killed.
pub(super) async fn run(command: &[String], args: &[&str]) -> Result<()> {
    run_within(command, args, LIMIT).await
}

/// As [`run`], with at most `limit` for it; what the runtime started is killed with it.
pub(crate) async fn run_within(command: &[String], args: &[&str], limit: Duration) -> Result<()> {
    let what = args.first().copied().unwrap_or_default();
    let failed = |e: std::io::Error| Error::internal(&e).context(format!("run the OCI runtime ({what})"));
    let (program, options) = command
        .split_first()
        .ok_or_else(|| Error::new(Kind::Internal, "the handler names no OCI runtime"))?;
    let mut child = Command::new(program)
        .args(options)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let stderr = child.stderr.take();
    let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
    let work = async {
        let mut words = Vec::new();
        if let Some(mut stderr) = stderr {
            let mut buffer = [0; WORDS];
            while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
                let room = WORDS - words.len();
                words.extend_from_slice(&buffer[..n.min(room)]);
            }
        }
        child.wait().await.map(|status| (status, words))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, words))) => {
            let words = String::from_utf8_lossy(&words);
            let message = format!("the OCI runtime's {what} ended with {status}: {}", words.trim());
            Err(Error::new(Kind::Internal, message))
        }
        Ok(Err(e)) => Err(failed(e)),
        Err(_) => {
            if let Some(group) = group {
                // The runtime has not been waited for: its number is still its own.
                let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let message = format!("the OCI runtime's {what} did not finish within {} s", limit.as_secs());
            Err(Error::new(Kind::DeadlineExceeded, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(String::from).to_vec()
    }

    #[tokio::test]
    async fn a_failing_runtime_is_quoted_and_a_chatty_one_is_cut() {
        run(&sh("exit 0"), &["kill"]).await.unwrap();
        let error = run(&sh("echo no such container >&2; exit 3"), &["kill"]).await.unwrap_err();
        assert!(error.to_string().ends_with("no such container"), "{error}");
        let error = run(&sh("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1"), &["delete"]).await;
        let length = error.unwrap_err().to_string().len();
        assert!((WORDS..WORDS + 200).contains(&length), "{length}");
        let error = run(&["/nonexistent/runsc".into()], &["kill"]).await.unwrap_err();
        assert!(error.to_string().contains("kill"), "{error}");
    }
}
