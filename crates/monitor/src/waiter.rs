//! Containers whose first process is none of the host's: the runtime's `wait` stands for them.
//!
//! A runtime with a kernel of its own (gVisor) has nothing that the monitor could adopt. Its `wait ID`
//! ends with the container and prints how that ended, as one JSON object.

use crate::reaper::End;
use crate::spawn::{Streams, spawn};
use std::fs::File;
use std::io::{PipeReader, Read as _, pipe};

/// Most bytes of the answer that are read.
const MAX_ANSWER: u64 = 4096;

/// What a container counts as that ended untold, with its whole sandbox: killed.
const UNTOLD: End = End { code: 128 + 9, signal: Some(9) };

/// Our end of what a `wait` prints.
#[derive(Debug)]
pub(crate) struct Answer(PipeReader);

/// Runs `runtime… wait ID`; returns its pid, and where its answer will be.
pub(crate) fn start(runtime: &[String], container: &str) -> Result<(i32, Answer), String> {
    let (program, options) = runtime.split_first().ok_or("the request names no OCI runtime")?;
    let failed = |e: std::io::Error| format!("wait for container {container}: {e}");
    let (answer, answer_end) = pipe().map_err(failed)?;
    let null = || File::options().read(true).write(true).open("/dev/null").map_err(failed);
    let streams = Streams { stdin: null()?.into(), stdout: answer_end.into(), stderr: null()?.into() };
    let pid = spawn(program, options, &["wait", container], &streams)?;
    Ok((pid, Answer(answer)))
}

impl Answer {
    /// How the container ended; called when the `wait` has ended. One that was killed, or found its
    /// sandbox gone, tells nothing: then the container was killed with it.
    pub(crate) fn end(self) -> End {
        // A descendant that holds the other end must not make the event thread wait.
        if rustix::io::ioctl_fionbio(&self.0, true).is_err() {
            return UNTOLD;
        }
        let mut text = String::new();
        // What was read before an error counts; too little of it is no answer.
        let _partial = self.0.take(MAX_ANSWER).read_to_string(&mut text);
        let told: serde_json::Value = serde_json::from_str(text.trim()).unwrap_or_default();
        let code = told["exitStatus"].as_u64().and_then(|code| u8::try_from(code).ok());
        code.map_or(UNTOLD, |code| End { code: code.into(), signal: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn an_end_is_what_the_runtime_tells_or_a_kill() {
        for (text, code, signal) in [
            (r#"{"id":"c","exitStatus":7}"#, 7, None),
            ("{\"id\":\"c\",\"exitStatus\":137}\n", 137, None),
            ("", 137, Some(9)),
            ("waiting on container: no such file", 137, Some(9)),
            (r#"{"id":"c","exitStatus":70000}"#, 137, Some(9)),
            (r#"{"id":"c"}"#, 137, Some(9)),
        ] {
            let (reader, mut writer) = pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            assert_eq!(Answer(reader).end(), End { code, signal }, "{text}");
        }
    }

    #[test]
    fn an_open_pipe_is_not_waited_for() {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(br#"{"id":"c","exitStatus":3}"#).unwrap();
        assert_eq!(Answer(reader).end(), End { code: 3, signal: None });
        drop(writer);
    }
}
