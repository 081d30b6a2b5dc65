//! One run of the OCI runtime: how it is started, and what it said.

use crate::spawn::{Streams, spawn};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most bytes of the runtime's log that are looked at for its last words.
const WORDS: u64 = 8192;

/// What a runtime is being run for.
#[derive(Debug)]
pub(crate) struct RuntimeCall {
    /// The runtime's own process.
    pub(crate) pid: i32,
    /// When it was started.
    pub(crate) begun: Instant,
    /// When it is killed; after that, when its death is not waited for any longer; then nothing.
    pub(crate) deadline: Option<Instant>,
    /// It was killed because its time was up.
    pub(crate) timed_out: bool,
    /// Where it writes the pid of what it started.
    pub(crate) pid_file: PathBuf,
    /// Its log, which holds its last words.
    pub(crate) log: PathBuf,
    /// Length of the log before this run.
    log_start: u64,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: i64,
}

impl RuntimeCall {
    /// Runs `runtime… args…`; whoever reaps this process's children sees its end.
    pub(crate) fn start(
        runtime: &[String],
        args: &[&str],
        streams: &Streams,
        pid_file: PathBuf,
        log: PathBuf,
        limit: Duration,
    ) -> Result<Self, String> {
        let (program, options) = runtime.split_first().ok_or("the request names no OCI runtime")?;
        // A file that an earlier attempt left must not be taken for this one's.
        let _none = std::fs::remove_file(&pid_file);
        // What earlier runs said is not this one's reason.
        let log_start = std::fs::metadata(&log).map_or(0, |m| m.len());
        let begun = Instant::now();
        let pid = spawn(program, options, args, streams)?;
        Ok(Self {
            pid,
            begun,
            deadline: Some(begun + limit),
            timed_out: false,
            pid_file,
            log,
            log_start,
            started_at: now(),
        })
    }

    /// The pid that the runtime wrote.
    pub(crate) fn started_pid(&self) -> Result<i32, String> {
        let text = std::fs::read_to_string(&self.pid_file)
            .map_err(|e| format!("the OCI runtime wrote no pid file {}: {e}", self.pid_file.display()))?;
        let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
        pid.ok_or_else(|| format!("pid file {} holds no pid", self.pid_file.display()))
    }

    /// The runtime's last words about why it failed.
    pub(crate) fn words(&self) -> Option<String> {
        last_words(&tail(&self.log, self.log_start)?)
    }
}

fn tail(path: &Path, start: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(WORDS)))).ok()?;
    let mut bytes = Vec::new();
    file.take(WORDS).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The message of the last line that is an error; else the last line.
pub(crate) fn last_words(log: &str) -> Option<String> {
    let lines = log.lines().map(str::trim).filter(|l| !l.is_empty()).rev();
    let mut last = None;
    for line in lines {
        // One entry a line, but for runsc, which writes them one after another.
        let parsed: Result<Vec<serde_json::Value>, _> =
            serde_json::Deserializer::from_str(line).into_iter().collect();
        let entries = parsed.ok().filter(|all| all.iter().all(serde_json::Value::is_object));
        let Some(entries) = entries else {
            last.get_or_insert_with(|| line.to_owned());
            continue;
        };
        for entry in entries.iter().rev() {
            let text = |key: &str| entry.get(key).and_then(|v| v.as_str());
            let message = text("msg").or_else(|| text("message")).unwrap_or(line).to_owned();
            if text("level").is_some_and(|l| l == "error" || l == "fatal") {
                return Some(message);
            }
            last.get_or_insert(message);
        }
    }
    last
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_what_the_runtime_has_to_say() {
        for (log, words) in [
            ("", None),
            ("plain words\n\n", Some("plain words")),
            (r#"{"level":"error","msg":"no such file"}"#, Some("no such file")),
            (
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"warning\",\"msg\":\"later\"}\n",
                Some("first"),
            ),
            ("{\"level\":\"warning\",\"msg\":\"only\"}\n", Some("only")),
            (r#"{"level":"error","msg":"one"}{"level":"info","msg":"two"}"#, Some("one")),
            ("{\"level\":\"error\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\n", Some("b")),
        ] {
            assert_eq!(last_words(log).as_deref(), words, "{log}");
        }
    }
}
