//! Exec and attach: a client's channels joined to a [`Session`].

use crate::channels::{Channels, Input, Output};
use crate::endpoint::{Exit, Reader, Resize, Session, Writer};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// First and largest size of a read; it grows while reads fill it, so that idle sessions cost little.
const READ: (usize, usize) = (4 << 10, 64 << 10);

/// Longest text of one resize message.
const MAX_RESIZE: usize = 1024;

/// Joins `channels` to what `start` makes, until the process has ended and the client knows, or the client
/// has gone.
pub(crate) async fn serve(
    channels: Channels,
    what: &str,
    start: impl Future<Output = Result<Session, String>>,
) {
    let Channels { stdin, stdout, stderr, mut error, resize, json_status, closed } = channels;
    let work = async {
        let result = match start.await {
            Ok(session) => join(session, stdin, stdout, stderr, resize).await,
            Err(why) => {
                // Ended in this order, so that a client that waits for them comes to the reason.
                for output in [stdout, stderr].into_iter().flatten() {
                    let _gone = output.finish().await;
                }
                Exit::Failed(why)
            }
        };
        if let Some(mut error) = error.take() {
            let told = match status(&result, what, json_status) {
                Some(text) => error.say(&text).await,
                None => Ok(()),
            };
            if told.is_ok() {
                let _gone = error.finish().await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = closed.cancelled() => tracing::debug!(what, "the client went away"),
    }
}

async fn join(
    session: Session,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    resize: Option<Input>,
) -> Exit {
    let Session { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr, resize: set_size, exit, guard } =
        session;
    let outputs = async {
        let (exit, (), ()) = tokio::join!(exit, copy_out(from_stdout, stdout), copy_out(from_stderr, stderr));
        exit
    };
    let inputs = async {
        tokio::join!(copy_in(stdin, to_stdin), follow_size(resize, set_size));
        std::future::pending().await
    };
    let exit = tokio::select! {
        exit = outputs => exit,
        () = inputs => Exit::Failed("input ended".into()),
    };
    drop(guard);
    exit
}

/// Copies until the process's end of file, or until the client wants no more of it.
async fn copy_out(from: Option<Reader>, to: Option<Output>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    let mut size = READ.0;
    loop {
        let mut buffer = to.buffer(size);
        let read = tokio::select! {
            read = from.read_buf(&mut buffer) => read,
            () = to.gone() => return,
        };
        match read {
            Ok(n) if n > 0 => {
                size = if n >= size { (size * 4).min(READ.1) } else { (n * 2).clamp(READ.0, size) };
                if to.send(buffer).await.is_err() {
                    return;
                }
            }
            Ok(_) => break,
            Err(error) => {
                tracing::warn!(%error, "output of a session cannot be read");
                break;
            }
        }
    }
    let _gone = to.finish().await;
}

/// Copies until the client's end of file, which the process then sees; a process that reads no more is no error.
async fn copy_in(from: Option<Input>, to: Option<Writer>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(bytes) = from.next().await {
        if to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _broken = to.shutdown().await;
    drop(to);
    // What still comes is nobody's, but must not block the rest of the connection.
    while from.next().await.is_some() {}
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Sizes come as JSON objects one after the other, in pieces of any length.
async fn follow_size(from: Option<Input>, set: Option<Resize>) {
    let Some(mut from) = from else { return };
    let mut set = set;
    let mut text = Vec::new();
    while let Some(bytes) = from.next().await {
        text.extend_from_slice(&bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        let mut last = None;
        let broken = loop {
            match sizes.next() {
                Some(Ok(size)) => last = Some(size),
                Some(Err(error)) => break !error.is_eof(),
                None => break false,
            }
        };
        let read = sizes.byte_offset();
        text.drain(..read);
        if let (Some(size), Some(set)) = (last, &mut set) {
            set(size.width, size.height);
        }
        if broken || text.len() > MAX_RESIZE {
            tracing::debug!("a client sends terminal sizes that are none");
            text.clear();
            set = None;
        }
    }
}

/// What the error channel says; `None` for nothing.
fn status(exit: &Exit, what: &str, json: bool) -> Option<String> {
    let (message, reason, code, causes) = match exit {
        Exit::Code(0) => return json.then(|| r#"{"metadata":{},"status":"Success"}"#.to_owned()),
        Exit::Code(code) => (
            format!("command terminated with non-zero exit code: exit status {code}"),
            "NonZeroExitCode",
            None,
            json!([{"reason": "ExitCode", "message": code.to_string()}]),
        ),
        Exit::Failed(why) => (
            format!("Internal error occurred: error {what}: {why}"),
            "InternalError",
            Some(500),
            json!([{"message": format!("error {what}: {why}")}]),
        ),
    };
    if !json {
        return Some(message);
    }
    let mut status = json!({
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": {"causes": causes},
    });
    if let Some(code) = code {
        status["code"] = json!(code);
    }
    Some(status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_as_the_version_has_it() {
        let value = |exit, json| status(&exit, "executing command in container", json);
        assert_eq!(value(Exit::Code(0), false), None);
        assert_eq!(value(Exit::Code(0), true).unwrap(), r#"{"metadata":{},"status":"Success"}"#);
        assert!(value(Exit::Code(3), false).unwrap().ends_with("exit status 3"));
        let three: serde_json::Value = serde_json::from_str(&value(Exit::Code(3), true).unwrap()).unwrap();
        assert_eq!(three["reason"], "NonZeroExitCode");
        assert_eq!(three["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        let failed = value(Exit::Failed("no such file".into()), true).unwrap();
        let failed: serde_json::Value = serde_json::from_str(&failed).unwrap();
        assert_eq!((&failed["code"], &failed["reason"]), (&json!(500), &json!("InternalError")));
        assert!(failed["message"].as_str().unwrap().ends_with("container: no such file"));
    }
}
