//! Where words go: one line on standard error, one JSON line in `--log`, and what the container's
//! own processes say before they fail.
//!
//! libcontainer's processes log what they were doing and return only a short reason through their
//! channel. [`Hints`] is a small file in memory that they all inherit; the first error written to
//! it is the one nearest to the cause, and completes the message.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber, span};

/// Most bytes of hints that are kept; a container cannot make us store more.
const HINT_LIMIT: u64 = 16 * 1024;

static LOG: OnceLock<Log> = OnceLock::new();
static HINTS: OnceLock<File> = OnceLock::new();

/// The log of this run.
#[derive(Debug)]
struct Log {
    /// `--log`; without it, warnings go to standard error.
    file: Option<Mutex<File>>,
    json: bool,
    debug: bool,
}

/// Opens `--log` and starts to collect hints. `format` is `text` or `json`.
pub(crate) fn start(path: Option<&Path>, format: Option<&str>, debug: bool) -> crate::error::Result<()> {
    let json = match format {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            return Err(crate::error::Error::Usage(format!("--log-format {other:?}: say text or json")));
        }
    };
    let open = |p: &Path| {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(p);
        file.map(Mutex::new).map_err(crate::error::file("open log", p))
    };
    let file = path.map(open).transpose()?;
    // Called once, at the start of main; a second call would keep the first log.
    let _first = LOG.set(Log { file, json, debug });
    if let Ok(fd) = rustix::fs::memfd_create("hints", rustix::fs::MemfdFlags::CLOEXEC) {
        let _first = HINTS.set(File::from(fd));
    }
    // Nobody else sets a subscriber in this program.
    let _first = tracing::subscriber::set_global_default(Hints { debug });
    Ok(())
}

/// Says that something goes on differently from what was asked.
pub(crate) fn warning(message: &str) {
    write_log("warning", message, true);
}

/// Reports why the command failed: one line on standard error and one in the log.
pub(crate) fn error(message: &str) {
    let line = one_line(message);
    let _closed = writeln!(std::io::stderr(), "{line}");
    write_log("error", &line, false);
}

fn write_log(level: &str, message: &str, or_stderr: bool) {
    let Some(log) = LOG.get() else { return };
    let now = timestamp(rustix::time::clock_gettime(rustix::time::ClockId::Realtime));
    let message = one_line(message);
    let line = if log.json {
        serde_json::json!({"level": level, "msg": message, "time": now}).to_string()
    } else {
        format!("time={now} level={level} msg={message:?}")
    };
    match &log.file {
        // One write per line, on a file opened for appending: lines of concurrent runs do not mix.
        Some(file) => {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not stop a container from being stopped or deleted.
            let _full = file.write_all(format!("{line}\n").as_bytes());
        }
        None if or_stderr => {
            let _closed = writeln!(std::io::stderr(), "{line}");
        }
        None => {}
    }
}

fn one_line(message: &str) -> String {
    message.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn timestamp(time: rustix::time::Timespec) -> String {
    let (days, seconds) = (time.tv_sec.div_euclid(86_400), time.tv_sec.rem_euclid(86_400));
    // Civil date from days since 1970-01-01, counted in 400-year eras that begin on 0000-03-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The first error that one of the container's processes logged, if any.
pub(crate) fn hint() -> Option<String> {
    let mut text = String::new();
    let mut file = HINTS.get()?;
    file.rewind().ok()?;
    file.take(HINT_LIMIT).read_to_string(&mut text).ok()?;
    summary(&text)
}

/// The first line, with what the kernel answered: that is often only in a later one.
fn summary(text: &str) -> Option<String> {
    let first = text.lines().next()?;
    let errno = text.split("Nix(").skip(1).find_map(|rest| {
        let name: String = rest.chars().take_while(char::is_ascii_uppercase).collect();
        (name.len() > 2 && rest[name.len()..].starts_with(')')).then_some(name)
    });
    Some(match errno.filter(|name| !first.contains(name.as_str())) {
        Some(errno) => format!("{first} ({errno})"),
        None => first.to_owned(),
    })
}

/// Collects the errors of this process and, after a fork, of its children.
struct Hints {
    debug: bool,
}

impl Subscriber for Hints {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= if self.debug { Level::DEBUG } else { Level::ERROR }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(if self.debug { Level::DEBUG.into() } else { Level::ERROR.into() })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = one_line(&format!("{}{}", text.message, text.fields));
        let hints = HINTS.get().filter(|_| *event.metadata().level() == Level::ERROR);
        if let Some(mut file) = hints
            && file.stream_position().is_ok_and(|at| at < HINT_LIMIT)
        {
            // Only completes a message; without it the message is shorter.
            let _full = file.write_all(format!("{line}\n").as_bytes());
        }
        if LOG.get().is_some_and(|log| log.debug) {
            write_log("debug", &line, true);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event's message and, behind it, its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _infallible = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_civil_utc() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_785_542_399, "2026-07-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            let time = rustix::time::Timespec { tv_sec: seconds, tv_nsec: 0 };
            assert_eq!(timestamp(time), want, "{seconds}");
        }
    }

    #[test]
    fn a_hint_has_the_errno_of_a_later_line() {
        let log = "failed to mount x: syscall\nfailed to prepare rootfs err=Mount(Syscall(Nix(EINVAL)))\n";
        assert_eq!(summary(log).unwrap(), "failed to mount x: syscall (EINVAL)");
        assert_eq!(
            summary("failed to open y err=ENOENT\nerr=Nix(ENOENT)").unwrap(),
            "failed to open y err=ENOENT"
        );
        assert_eq!(summary(""), None);
    }

    #[test]
    fn messages_are_one_line() {
        assert_eq!(one_line("a\n  b\r\n\nc"), "a; b; c");
    }
}
